"""Many processes at once: nothing is held twice, nothing is decided twice.

RACE_CLAIMS, RACE_ACTS and RACE_PROCESSES make the races longer.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import func, select

from reviewqueue.config import Settings
from reviewqueue.db import db, now, transaction
from reviewqueue.intake.submit import submit_batch
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Claim, Decision, Delivery, Endpoint, Item, Review
from tests.crowd import crowd

PROCESSES = int(os.environ.get("RACE_PROCESSES", "8"))
CLAIMS = int(os.environ.get("RACE_CLAIMS", "4000"))
ACTS = int(os.environ.get("RACE_ACTS", "40"))
MOST_ROUNDS = 4  # a race in which chance left something out is run again
LEASE_MS = 100

Line = dict[str, Any]


def race(settings: Settings, role: str, count: int) -> list[Line]:
    """Let eight people do `role`, `count` times each, from one start; every call they made."""
    members = [(role, f"racer{number}", count) for number in range(PROCESSES)]
    told = crowd(settings, "tests.review.racer", members, 240 + 2 * count, RACE_LEASE_MS=str(LEASE_MS))
    history = [json.loads(line) for out in told for line in out.splitlines()]
    db.session.rollback()
    return history


def held_twice(history: list[Line]) -> list[str]:
    """What no order of events can explain: the checker of these histories. Nothing, when all is well.

    A lease lasts from the moment its claim returned until LEASE_MS after it was last asked for, or until
    its holder asked to give it back or to decide. Grants of one review are in the order of their tokens.
    """
    grants: dict[str, dict[int, Line]] = defaultdict(dict)
    leased: dict[tuple[str, int], int] = {}  # at least until
    ended: dict[tuple[str, int], int] = {}
    accepted: dict[str, list[int]] = defaultdict(list)
    wrong: list[str] = []
    for line in (line for line in history if line["outcome"] == "ok"):
        review, token = key = line["review"], line["token"]
        if line["op"] == "claim":
            if token in grants[review]:
                wrong.append(f"{review}: token {token} granted twice")
            grants[review][token] = line
        if line["op"] in ("claim", "renew"):
            leased[key] = max(line["call_ns"] + LEASE_MS * 1_000_000, leased.get(key, 0))
        else:
            ended[key] = min(line["call_ns"], ended.get(key, line["call_ns"]))
        if line["op"] == "decide":
            accepted[review].append(token)
    for review, lines in grants.items():
        tokens = sorted(lines)
        if tokens != list(range(1, len(tokens) + 1)):
            wrong.append(f"{review}: tokens {tokens}")
        for one, two in pairwise(tokens):
            key = review, one
            if lines[two]["return_ns"] < min(leased[key], ended.get(key, leased[key])):
                wrong.append(f"{review}: token {two} granted while {one} was held")
        if accepted[review] not in ([], tokens[-1:]):
            wrong.append(f"{review}: accepted {accepted[review]} of {tokens}")
    return wrong


def racers(make: Any) -> None:
    for n in range(PROCESSES):
        make.person(f"racer{n}")
    make.person("cleo")


def test_the_checker_finds_a_review_held_twice() -> None:
    def line(op: str, token: int, began: int, ended: int) -> Line:
        moments = {"call_ns": began * 1_000_000, "return_ns": ended * 1_000_000}
        return {"op": op, "review": "r", "token": token, "outcome": "ok", **moments}

    first = line("claim", 1, 0, 5)
    assert held_twice([first, line("claim", 2, 160, 170)]) == []
    assert held_twice([first, line("release", 1, 10, 15), line("claim", 2, 10, 20)]) == []
    assert held_twice([first, line("claim", 2, 10, 20)]) != []
    assert held_twice([first, line("claim", 1, 160, 170)]) != []
    assert held_twice([first, line("claim", 3, 160, 170)]) != []
    late = [first, line("claim", 2, 160, 170), line("decide", 1, 180, 190)]
    assert held_twice(late) != []
    renewed = [first, line("renew", 1, 140, 145), line("claim", 2, 160, 170)]
    assert held_twice(renewed) != []
    twice = [first, line("decide", 1, 10, 20), line("decide", 1, 30, 40)]
    assert held_twice(twice) != []


def test_nothing_is_held_twice(base: Any, settings: Settings, make: Any) -> None:
    project = make.project(undo_seconds=0)
    racers(make)
    entry = {"project": project.name, "output": "It left on Monday.", "confidence": 0.3}
    for _ in range(0, CLAIMS, 1000):
        submit_batch([entry] * min(CLAIMS // 2, 500), make.backend_actor(project))
    history = race(settings, "claims", CLAIMS // PROCESSES)
    claimed = [line for line in history if line["op"] == "claim"]
    assert len(claimed) == CLAIMS // PROCESSES * PROCESSES
    assert held_twice(history) == []
    assert any(line["op"] == "decide" and line["outcome"] == "lease_lost" for line in history)
    kept = {(claim.review_id, claim.fence) for claim in db.session.scalars(select(Claim))}
    assert kept == {(line["review"], line["token"]) for line in claimed}
    assert len(kept) == len(claimed)
    decided = {line["review"] for line in history if line["op"] == "decide" and line["outcome"] == "ok"}
    given = db.session.scalars(select(Review).where(Review.state == "given")).all()
    assert {review.id for review in given} == decided
    # A draft sent with a renewal that came too late is there all the same.
    renewed = {
        (line["review"], line["token"])
        for line in history
        if line["op"] == "renew" and line["outcome"] != "busy"
    }
    drafts = {
        (c.review_id, c.fence): c
        for c in db.session.scalars(select(Claim).where(Claim.draft_at.is_not(None)))
    }
    assert renewed
    for key in renewed:
        assert (drafts[key].draft or {})["note"] == drafts[key].token
    check_books(settings)


@pytest.mark.parametrize("reviews", [1, 2])
def test_whatever_collides_one_decision_is_in_force(
    base: Any, settings: Settings, make: Any, reviews: int
) -> None:
    project = make.project(undo_seconds=3, reviews=reviews, on_timeout="reject", control_rate=1.0)
    backend_id = make.backend(project).backend.id
    with transaction() as session:
        session.add(
            Endpoint(backend_id=backend_id, url="https://a.example/", state="active", created_at=now())
        )
    racers(make)
    done, refused = Counter[str](), Counter[str]()
    for _ in range(MOST_ROUNDS):
        # New items in each round: those of the one before may all be withdrawn.
        for _ in range(4):
            make.item(project, input="Where is it?")
            make.item(project, input="Where is it?", confidence=0.99)
        history = race(settings, "anything", ACTS)
        done.update(line["op"] for line in history if line["outcome"] == "ok")
        refused.update(line["op"] for line in history if line["outcome"] != "ok")
        check_books(settings)
        if all(done[op] for op in ("claim", "decide", "undo", "override")) and refused["undo"]:
            break
    for op in ("claim", "decide", "undo", "override"):
        assert done[op] > 0, (done, refused)
    assert refused["decide"] > 0
    assert refused["undo"] > 0


def check_books(settings: Settings) -> None:
    """Items, reviews, decisions, deliveries and ledger tell one story."""
    in_force = Counter(
        db.session.scalars(
            select(Decision.item_id).where(Decision.undone_at.is_(None), Decision.superseded_at.is_(None))
        )
    )
    wanted = Counter(db.session.scalars(select(Review.item_id).where(Review.state == "wanted")))
    told, sent = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    decided = Decision.undone_at.is_(None), Decision.sequence.is_not(None)
    for item_id, number in db.session.execute(select(Decision.item_id, Decision.sequence).where(*decided)):
        told[item_id].append(number)
    kept = Delivery.state != "cancelled"
    for item_id, number in db.session.execute(select(Delivery.item_id, Delivery.sequence).where(kept)):
        sent[item_id].append(number)
    addresses = set(db.session.scalars(select(Endpoint.backend_id)))
    for item in db.session.scalars(select(Item)):
        count = in_force[item.id]
        if item.status in ("decided", "expired"):
            assert count == 1, item.status
        if item.status in ("pending", "withdrawn"):
            assert count == 0, item.status
        assert count <= 1
        assert (wanted[item.id] > 0) == (
            item.status == "pending" or (item.status == "released" and not count)
        )
        assert sorted(told[item.id]) == list(range(1, item.sequence + 1))
        assert sorted(sent[item.id]) == (sorted(told[item.id]) if item.backend_id in addresses else [])
    people = db.session.execute(
        select(Review.item_id, Review.round, Review.given_by, func.count())
        .where(Review.state == "given")
        .group_by(Review.item_id, Review.round, Review.given_by)
        .having(func.count() > 1)
    )
    assert people.all() == []
    report = verify()
    assert report.ok, report.problem
