"""The whole loop on real model outputs: what people once said of each plays the reviewer.

For every set of the development data: submit, route, prepare, claim, decide, call back, propose, promote,
search, and a ledger that verifies. What must come out is worked out here from the data alone.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

from reviewqueue.db import db
from reviewqueue.errors import Forbidden
from reviewqueue.examples.collect import promote
from reviewqueue.ids import new_id
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Example, Item, LedgerEntry, Review
from reviewqueue.people.access import SYSTEM, Actor, visible_queues
from reviewqueue.review.claim import claim_next, open_claim
from reviewqueue.review.decide import decide
from reviewqueue.routing.projects import apply
from reviewqueue.running.relay import relay
from tests.listener import Listener, listener
from tests.make import Make
from tests.real.load import SETS, RealSet, Row, Said, require

COUNT = 40


@pytest.fixture(params=SETS)
def chosen(request: pytest.FixtureRequest) -> RealSet:
    """One set of the data; without the data the test is skipped, or fails with CI=true."""
    require(SETS[request.param])
    return SETS[request.param]


def test_the_loop_runs_on_real_outputs(
    chosen: RealSet, app: Flask, make: Make, client: Callable[..., Any]
) -> None:
    rows = chosen.rows(COUNT)
    assert len(rows) == COUNT
    with listener() as called:
        project = apply(chosen.toml(), SYSTEM).project
        backend = make.backend(project, callback=called.url)
        called.secret = backend.callback_secret
        key = {"Authorization": f"Bearer {backend.api_key}"}

        items = submit_all(client(), key, chosen, rows)
        check_routes(chosen, rows, items)

        relay(app, once=True)
        assert db.session.scalar(select(func.count()).where(Review.prepared_at.is_(None))) == 0

        reviewed = decide_all(make.person("ada"), {items[row["id"]]["id"]: chosen.said(row) for row in rows})
        wanted = [row for row in rows if items[row["id"]]["status"] == "pending" or sampled(items[row["id"]])]
        assert reviewed == {items[row["id"]]["id"] for row in wanted}

        relay(app, once=True)
        check_callbacks(called, chosen, wanted, items)
        check_answers(client(), key, chosen, rows, items)

        taught = [row for row in wanted if chosen.said(row).verdict != "approve"]
        assert taught, "these rows teach nothing"
        promote_all(make, {items[row["id"]]["id"] for row in taught})
        check_search(client(), key, chosen, taught, items)

    db.session.rollback()
    report = verify()
    assert (report.ok, report.problem) == (True, None)
    kinds = Counter(db.session.scalars(select(LedgerEntry.type)))
    assert kinds["decision"] == len(wanted)
    assert kinds["delivery"] == len(called.once())
    assert kinds["example"] == len(taught)


def sampled(item: dict[str, Any]) -> bool:
    """Whether a released item gets a control review."""
    return any(reason["code"] == "control_sample" for reason in item["route"]["reasons"])


def submit_all(visitor: Any, key: dict[str, str], chosen: RealSet, rows: list[Row]) -> dict[str, Any]:
    """Submit the rows as one batch, twice; the items by the data's ids."""
    batch = {"items": [chosen.submission(row) for row in rows]}
    first = visitor.post("/api/v1/items/batch", json=batch, headers=key)
    assert first.status_code == 200, first.text
    results = first.json["results"]
    assert [(result["index"], result["status"]) for result in results] == [(i, 201) for i in range(len(rows))]
    again = visitor.post("/api/v1/items/batch", json=batch, headers=key).json["results"]
    assert [result["status"] for result in again] == [200] * len(rows)
    assert [result["item"] for result in again] == [result["item"] for result in results]
    return {row["id"]: result["item"] for row, result in zip(rows, results, strict=True)}


def check_routes(chosen: RealSet, rows: list[Row], items: dict[str, Any]) -> None:
    """Low confidence goes to review, the rest is released at once with its output."""
    below = float(chosen.policy.split("confidence_below = ")[1].split()[0])
    for row in rows:
        item, logprobs = items[row["id"]], row["original"].get("token_logprobs")
        confidence = math.exp(sum(logprobs) / len(logprobs)) if logprobs else row["confidence"]
        low = confidence < below or "money" in str(item["route"]["reasons"])
        assert item["route"]["decision"] == ("review" if low else "release"), row["id"]
        assert item["status"] == ("pending" if low else "released")
        assert item["output"] == (None if low else chosen.submission(row)["output"])
    assert {"review", "release"} == {item["route"]["decision"] for item in items.values()}


def decide_all(ada: Actor, sayings: dict[str, Said]) -> set[str]:
    """Ada takes whatever is next in every queue until nothing is left, and says what the human once said."""
    done: set[str] = set()
    for queue in visible_queues(ada):
        while claim := claim_next(ada, queue):
            _, review, item = open_claim(ada, claim.token)
            said = sayings[item.id]
            given = decide(
                ada, claim.token, new_id("dec"), said.verdict, said.output, said.reason, said.cause
            )
            assert given.decision is not None
            assert review.item_id not in done
            done.add(item.id)
    return done


def check_callbacks(called: Listener, chosen: RealSet, wanted: list[Row], items: dict[str, Any]) -> None:
    """Every decision was told once, signed; an approval of what was released has nothing to tell."""
    assert not called.forged
    assert set(called.accepted().values()) <= {1}
    told = {callback.item: callback.event for callback in called.once()}
    assert len(told) == len(called.once())
    for row in wanted:
        item, said = items[row["id"]], chosen.said(row)
        event = told.pop(item["id"], None)
        if item["status"] == "released" and said.verdict == "approve":
            assert event is None
            continue
        assert event is not None, row["id"]
        data = event["data"]
        assert event["type"] == ("item.amended" if item["status"] == "released" else "item.decided")
        assert (data["external_id"], data["project"], data["sequence"]) == (row["id"], chosen.project, 1)
        assert (data["verdict"], data["reason"], data["cause"]) == (said.verdict, said.reason, said.cause)
        assert data["output"] == final_output(chosen, row)
        assert data["edited"] == (said.verdict == "edit")
    assert told == {}


def final_output(chosen: RealSet, row: Row) -> Any:
    """What may be used in the end: the output, its correction, or nothing."""
    said = chosen.said(row)
    outputs = {"approve": chosen.submission(row)["output"], "edit": said.output, "reject": None}
    return outputs[said.verdict]


def check_answers(
    visitor: Any, key: dict[str, str], chosen: RealSet, rows: list[Row], items: dict[str, Any]
) -> None:
    """Whoever asks instead of being called gets the same."""
    for row in rows:
        item, said = items[row["id"]], chosen.said(row)
        answer = visitor.get(f"/api/v1/items/{item['id']}", headers=key).json
        if item["status"] == "pending":
            assert (answer["status"], answer["sequence"]) == ("decided", 1)
            assert answer["decision"]["verdict"] == said.verdict
            assert answer["output"] == final_output(chosen, row)
        elif not sampled(item):
            assert answer == item


def promote_all(make: Make, item_ids: set[str]) -> None:
    """What Ada's corrections propose, Ada cannot promote and Cleo does."""
    proposed = db.session.scalars(select(Example).where(Example.state == "proposed")).all()
    assert {example.item_id for example in proposed} == item_ids
    with pytest.raises(Forbidden):
        promote(make.person("ada"), proposed[0].id)
    for number, example in enumerate(proposed, 1):
        assert promote(make.person("cleo"), example.id).first_set == number


def check_search(
    visitor: Any, key: dict[str, str], chosen: RealSet, taught: list[Row], items: dict[str, Any]
) -> None:
    """Each promoted correction is found by its own input, but never for its own item."""
    inputs = Counter(row["input"]["prompt"] for row in taught)
    path = f"/api/v1/projects/{chosen.project}/examples/search"
    for row in taught:
        item = db.session.scalars(select(Item).where(Item.id == items[row["id"]]["id"])).one()
        asked = {"input": row["input"]["prompt"], "k": 3, "max_tokens": 20_000}
        answer = visitor.post(path, json=asked, headers=key).json
        assert answer["set"] == len(taught)
        if inputs[row["input"]["prompt"]] > 1:
            continue  # several rows of the same question: only what does not contradict is served
        best = answer["examples"][0]
        assert best["item"] == item.id, row["id"]
        assert best["output"] == final_output(chosen, row)
        assert best["rejected_output"] == chosen.submission(row)["output"]
        others = visitor.post(path, json=asked | {"item": item.id}, headers=key).json
        assert item.id not in [example["item"] for example in others["examples"]]
