"""What somebody may see of an item while it is reviewed, and what they can take back."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.desk import seen
from reviewqueue.models import Decision, Item, Review
from reviewqueue.review.claim import claim_item
from reviewqueue.review.decide import undo
from reviewqueue.review.settle import override

SURE = [{"field": "feature", "op": "eq", "value": "thanks"}]


def test_why_is_one_sentence_for_thresholds_and_the_lot(make: Any) -> None:
    project = make.project(confidence_below=0.8, risk_above=0.5, control_rate=1.0)
    told = {
        tuple(seen.why(make.item(project, **fields)))
        for fields in (
            {"confidence": 0.1},
            {"confidence": 0.9, "risk": 0.9},
            {"confidence": 0.9},
            {"confidence": None},
        )
    }
    assert told == {(seen.NEUTRAL,)}


def test_why_names_a_rule_that_asked_and_not_one_that_released(make: Any) -> None:
    rules = [
        {"name": "plain thanks", "when": SURE, "route": "release"},
        {"name": "a lawyer", "when": [{"field": "risk", "op": "gt", "value": 0.9}], "route": "review"},
    ]
    project = make.project(rules=rules, control_rate=1.0)
    released = make.item(project, feature="thanks")
    assert released.status == "released"
    assert seen.why(released) == [seen.NEUTRAL]
    assert seen.why(make.item(project, risk=0.95)) == ['Rule "a lawyer" holds.']


def test_trail_keeps_verdicts_back_while_a_seat_is_wanted(make: Any) -> None:
    item = make.item(make.project(reviews=2))
    ada, cleo, dora, aud = (make.person(name) for name in ("ada", "cleo", "dora", "aud"))
    make.decide(ada, item, "reject", reason="tone")
    [given] = db.session.scalars(select(Review).where(Review.state == "given")).all()
    assert seen.trail(ada, item).kept_back == frozenset()
    for other in (cleo, dora, aud):
        assert seen.trail(other, item).kept_back == {given.id}
    make.decide(cleo, item, "approve")
    adjudication = db.session.scalars(select(Review).where(Review.purpose == "adjudication")).one()
    assert seen.trail(dora, item).kept_back == frozenset()
    assert {one.verdict for one in seen.others(dora, adjudication)} == {"reject", "approve"}
    assert seen.others(ada, adjudication) == []
    assert len(seen.trail(ada, item).kept_back) == 1
    make.decide(dora, item, "reject", reason="tone")
    assert seen.trail(ada, item).kept_back == frozenset()


def test_trail_hides_route_and_decision_from_reviewers_while_open(make: Any) -> None:
    item = make.item(make.project(control_rate=1.0, confidence_below=0.5), confidence=0.9)
    ada, cleo = make.person("ada"), make.person("cleo")
    assert not seen.trail(ada, item).told
    assert seen.trail(cleo, item).told
    make.decide(ada, item)
    assert seen.trail(ada, item).told


def test_undoable_is_the_last_verdict_in_time(make: Any) -> None:
    project = make.project(undo_seconds=60)
    ada = make.person("ada")
    assert seen.undoable(ada) is None
    first, second = make.item(project), make.item(project)
    make.decide(ada, first)
    make.decide(ada, second, "reject", reason="tone")
    found = seen.undoable(ada)
    assert found is not None
    assert (found.item_id, found.verdict) == (second.id, "reject")
    assert 50 <= found.seconds <= 60
    assert seen.undoable(make.person("cleo")) is None
    undo(ada, found.decision_id)
    found = seen.undoable(ada)
    assert found is not None
    assert found.item_id == first.id
    with transaction() as session:
        session.execute(update(Decision).values(final_at=now() - timedelta(seconds=1)))
    assert seen.undoable(ada) is None


def test_undoable_also_while_other_reviewers_are_to_come(make: Any) -> None:
    item = make.item(make.project(reviews=2, undo_seconds=60))
    ada = make.person("ada")
    make.decide(ada, item)
    found = seen.undoable(ada)
    assert found is not None
    assert found.item_id == item.id
    make.decide(make.person("cleo"), item)
    assert seen.undoable(ada) is None


def test_undoable_an_override(make: Any) -> None:
    item = make.item(make.project(undo_seconds=60))
    make.decide(make.person("ada"), item)
    cleo = make.person("cleo")
    override(cleo, item.id, "reject", None, "tone")
    found = seen.undoable(cleo)
    assert found is not None
    assert (found.item_id, found.verdict) == (item.id, "reject")


def test_held_in_is_what_one_holds_in_that_queue(make: Any) -> None:
    item = make.item(make.project())
    ada = make.person("ada")
    claim = claim_item(ada, item.id)
    queue_id = db.session.scalars(select(Review.queue_id)).one()
    assert seen.held_in(ada, queue_id) == claim.token
    assert seen.held_in(ada, "que_other") is None
    assert seen.held_in(make.person("cleo"), queue_id) is None


@pytest.mark.parametrize("kind", ["text", "markdown", "json", "label", "chat", "tool_call"])
def test_first_item_fits_the_project(make: Any, kind: str) -> None:
    project = make.project(kind=kind)
    first = seen.first_item([project])
    item = make.item(project, output=json.loads(first.output))
    assert first.project == project.name
    assert db.session.get_one(Item, item.number).status == "pending"
