"""Processes that claim, decide, take back, override and read the same items, some of them killed (R4, R5).

FIRE_HISTORIES and FIRE_HISTORY_ITEMS make it longer; 50 histories of 1,000 items are promised.
"""

from __future__ import annotations

import os
import random
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.ids import new_id
from reviewqueue.intake import items as told
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Claim, Decision, Review
from reviewqueue.people.access import Actor
from reviewqueue.review import claim, decide
from reviewqueue.review.settle import override
from tests.fire.halves import half_done
from tests.fire.history import Call, Recorder, impossible, read_history
from tests.make import Make

HISTORIES = int(os.environ.get("FIRE_HISTORIES", "1"))
ITEMS = int(os.environ.get("FIRE_HISTORY_ITEMS", "30"))
PROCESSES = 4
KILL_EVERY = 0.4  # seconds
# What a history must hold to prove something; one more is made while chance has left something out.
WANTED = (
    "kill",
    "cut off",
    "claim ok",
    "renew ok",
    "decide ok",
    "undo ok",
    "override ok",
    "read ok",
    "_lost",
)
MOST_MORE = 4
LEASE = timedelta(milliseconds=150)
LEASE_NS = int(LEASE.total_seconds() * 1e9)


class Scene:
    """Items that wait, the people who fight over them, and the backend that reads."""

    def __init__(self, make: Make, count: int) -> None:
        project = make.project(undo_seconds=600)
        make.backend(project, callback="http://127.0.0.1:9/")
        self.people = [make.person(f"racer{n}", role="lead") for n in range(PROCESSES)]
        self.bot = make.backend_actor(project)
        self.items: list[str] = []
        for _ in range(count):
            db.session.rollback()
            self.items.append(make.item(project).id)
        db.session.remove()


class Racer:
    """One process: goes through the items as all others do, near enough to meet them."""

    def __init__(self, scene: Scene, person: Actor, recorder: Recorder, seed: str) -> None:
        self.scene, self.person, self.record = scene, person, recorder.call
        self.dice = random.Random(seed)

    def run(self) -> None:
        for place in range(len(self.scene.items)):
            near = self.dice.randrange(max(0, place - 1), min(len(self.scene.items), place + 2))
            self.visit(self.scene.items[near])
            self.read(self.scene.items[self.dice.randrange(place + 1)])
            db.session.remove()

    def visit(self, item: str) -> None:
        """Claim an item and do something with it; one claim in five outlives its lease first."""
        held = self.record("claim", item, lambda: self.claim(item))
        if held is None:
            return
        token = held.pop("secret")
        if self.dice.random() < 0.2:
            db.session.remove()
            time.sleep(LEASE.total_seconds() * self.dice.uniform(0.9, 1.8))
        if self.dice.random() < 0.2:
            self.record("renew", item, lambda: claim.renew(self.person, token) and {}, **held)
        if self.dice.random() < 0.15:
            self.record("release", item, lambda: claim.release(self.person, token), **held)
        given = self.decide(item, token, held)
        if self.dice.random() < 0.1:
            self.decide(item, token, held)  # from another window, with another form
        self.read(item)
        if given is not None and self.dice.random() < 0.15:
            id = given["decision"]
            self.record(
                "undo", item, lambda: decide.undo(self.person, id) and {}, decision=id, review=held["review"]
            )
        if self.dice.random() < 0.1:
            id = new_id("dec")
            self.record("override", item, lambda: self.override(item, id), decision=id)
        self.read(item)

    def claim(self, item: str) -> dict[str, Any]:
        made = claim.claim_item(self.person, item)
        return {"review": made.review_id, "token": made.fence, "secret": made.token}

    def decide(self, item: str, token: str, held: dict[str, Any]) -> dict[str, Any] | None:
        id = new_id("dec")

        def act() -> dict[str, Any]:
            given = decide.decide(self.person, token, id, "approve")
            assert given.decision is not None
            return {"rev": given.decision.round}

        answer = self.record("decide", item, act, decision=id, **held)
        return None if answer is None else {"decision": id}

    def override(self, item: str, id: str) -> dict[str, Any]:
        return {"rev": override(self.person, item, "reject", None, "other", decision_id=id).round}

    def read(self, item: str) -> None:
        def act() -> dict[str, Any]:
            db.session.rollback()
            decision = told.one(self.scene.bot, item)["decision"]
            return {"decision": decision["id"] if decision else None}

        self.record("read", item, act)


def race(scene: Scene, folder: Path, seed: str) -> tuple[list[Call], int]:
    """Let all run, kill one of them every now and then; the history, and how many were killed."""
    db.session.remove()
    db.engine.dispose()
    started = 0

    def start(place: int) -> int:
        nonlocal started
        started += 1
        name = f"{place}-{started}"
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            racer = Racer(scene, scene.people[place], Recorder(folder / f"{name}.jsonl", name), seed + name)
            racer.run()
            status = 0
        finally:
            os._exit(status)

    folder.mkdir()
    dice, killed = random.Random(seed), 0
    running = {start(place): place for place in range(PROCESSES)}
    next_kill = time.monotonic() + KILL_EVERY
    while running:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child:
            place = running.pop(child)
            code = os.waitstatus_to_exitcode(status)
            assert code in (0, -signal.SIGKILL), f"a racer failed with {code}"
            if code:
                running[start(place)] = place
        elif time.monotonic() > next_kill and killed < 2 + len(scene.items) // 10:
            os.kill(dice.choice(list(running)), signal.SIGKILL)
            killed += 1
            next_kill += KILL_EVERY
        else:
            time.sleep(0.01)
    return read_history(folder), killed


def test_every_history_can_be_explained(
    base: Any, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_leases(monkeypatch)
    seen: set[str] = set()
    for number in range(HISTORIES + MOST_MORE):
        history, killed = race(Scene(make, ITEMS), tmp_path / str(number), f"{number}")
        assert impossible(history, LEASE_NS) == []
        everything_answered_is_there(history)
        seen |= {"kill"} if killed else set()
        seen |= {f"{call['op']} {call.get('outcome', 'cut off')}" for call in history}
        if number + 1 >= HISTORIES and all(any(name in each for each in seen) for name in WANTED):
            break
    assert all(any(name in each for each in seen) for name in WANTED), seen
    assert half_done() == []
    assert verify().ok


def everything_answered_is_there(history: list[Call]) -> None:
    """Every decision that was answered is stored, and every claim."""
    decided = {call["decision"] for call in history if call["op"] in ("decide", "override")
               and call.get("outcome") == "ok"}  # fmt: skip
    claimed = {(call["review"], call["token"]) for call in history if call["op"] == "claim"
               and call.get("outcome") == "ok"}  # fmt: skip
    db.session.rollback()
    assert decided <= set(db.session.scalars(select(Decision.id)))
    assert claimed <= {
        (row.review_id, row.fence) for row in db.session.execute(select(Claim.review_id, Claim.fence))
    }


def short_leases(monkeypatch: pytest.MonkeyPatch, lease: timedelta = LEASE) -> None:
    monkeypatch.setattr(claim, "LEASE", lease)
    monkeypatch.setattr(decide, "LEASE", lease)


# --- can it fail? ---------------------------------------------------------------------------------


def noticed(words: str, make: Make, folder: Path) -> bool:
    """Whether the checker says so of a race; chance may leave it out of a few."""
    races = (race(Scene(make, 15), folder / seed, seed)[0] for seed in "abcdef")
    return any(words in wrong for history in races for wrong in impossible(history, LEASE_NS))


@pytest.mark.sqlite
def test_the_checker_notices_leases_that_hold_nobody_off(
    base: Any, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_leases(monkeypatch, timedelta(0))
    assert noticed("was held", make, tmp_path)


@pytest.mark.sqlite
def test_the_checker_notices_a_fence_that_lets_everybody_through(
    base: Any, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short_leases(monkeypatch, timedelta(milliseconds=1))
    give = decide._give

    def trusting(session: Any, held: Claim, *rest: Any) -> Any:
        newest = session.get_one(Review, held.review_id).claim_token
        return give(session, session.get(Claim, newest) or held, *rest)

    monkeypatch.setattr(decide, "_give", trusting)
    assert noticed("was accepted", make, tmp_path)


def call(op: str, began: int, ended: int | None, **fields: Any) -> Call:
    line = {"op": op, "item": "i", "call_ns": began, **fields}
    return line if ended is None else line | {"return_ns": ended, "outcome": "ok"}


def test_the_checker_knows_what_cannot_be() -> None:
    made = call("decide", 10, 20, review="r", token=1, decision="a", rev=1)
    good = [call("claim", 1, 5, review="r", token=1), made, call("read", 30, 40, decision="a")]
    undo = call("undo", 50, 60, decision="a", review="r")
    assert impossible(good, 1000) == []
    assert impossible([*good, undo, call("read", 55, 70, decision="a")], 1000) == []
    assert impossible([*good, undo, call("read", 70, 80, decision=None)], 1000) == []
    assert impossible([*good, call("decide", 21, None, review="r", token=1, decision="b")], 1000) == []
    for bad in (
        call("read", 30, 40, decision=None),  # an answered decision that a later reader does not see
        call("read", 30, 40, decision="ghost"),
        call("decide", 30, 40, review="r", token=1, decision="b", rev=1),
        call("claim", 6, 9, review="r", token=2),  # while the first lease lasts
        call("claim", 30, 40, review="r", token=1),
    ):
        assert impossible([*good, bad], 1000), bad
    assert impossible([*good, undo, call("read", 70, 80, decision="a")], 1000)
