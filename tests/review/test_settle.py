"""Reviews become one decision; leads override; time runs out."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError

from reviewqueue.db import db, joined, now, transaction
from reviewqueue.errors import Conflict, Forbidden, Invalid, LeaseLost, Missing
from reviewqueue.ids import new_id
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Claim, Decision, Delivery, Endpoint, Example, Item, LedgerEntry, Queue, Review
from reviewqueue.review import claim as claims
from reviewqueue.review.decide import decide
from reviewqueue.review.expire import expire_due, expiry_due
from reviewqueue.review.settle import cancel_reviews, override


def fresh(item: Any) -> Item:
    db.session.rollback()
    return db.session.scalars(select(Item).where(Item.id == item.id)).one()


def reviews_of(item: Any, purpose: str | None = None) -> list[Review]:
    found = select(Review).where(Review.item_id == item.id).order_by(Review.created_at, Review.seat)
    return [review for review in db.session.scalars(found) if purpose in (None, review.purpose)]


def endpoint(make: Any, project: Any, state: str = "active") -> None:
    backend_id = make.backend(project).backend.id
    with transaction() as session:
        session.add(
            Endpoint(backend_id=backend_id, url="https://example.org/", state=state, created_at=now())
        )


def told(item: Any) -> list[dict[str, Any]]:
    """The events on their way to the backend, in order."""
    found = select(Delivery.body).where(Delivery.item_id == item.id).order_by(Delivery.sequence)
    return [json.loads(body) for body in db.session.scalars(found)]


def sound() -> bool:
    report = verify()
    assert report.ok, report.problem
    return True


def control_project(make: Any, **fields: Any) -> Any:
    return make.project(confidence_below=0.5, control_rate=1.0, **fields)


def test_settle_tells_the_backend_and_the_ledger(make: Any) -> None:
    project = make.project(undo_seconds=45)
    endpoint(make, project)
    item = make.item(project, input="Where?", external_id="req-1", metadata={"k": [1]})
    decision = make.decide(make.person("ada"), item, "edit", "Here.", "tone", "prompt", "n").decision
    [event] = told(item)
    entry = db.session.scalars(select(LedgerEntry).where(LedgerEntry.decision_id == decision.id)).one()
    data = event["data"]
    assert event["type"] == "item.decided"
    assert (data["id"], data["external_id"], data["sequence"], data["verdict"]) == (
        item.id,
        "req-1",
        1,
        "edit",
    )
    assert (data["output"], data["edited"], data["reason"], data["cause"], data["note"]) == (
        "Here.", True, "tone", "prompt", "n",
    )  # fmt: skip
    assert (data["metadata"], data["decided_by"]) == ({"k": [1]}, make.person("ada").id)
    assert data["ledger"] == {"seq": entry.seq, "leaf": entry.leaf, "checkpoint": None}
    delivery = db.session.scalars(select(Delivery)).one()
    assert (delivery.state, delivery.next_attempt_at) == ("due", decision.final_at)
    body = json.loads(entry.body)
    assert (body["action"], body["token"], body["role"], body["queue"]) == ("edit", 1, "reviewer", "main")
    assert {"in", "shown", "out", "why"} <= body.keys()
    assert sound()


def test_settle_without_an_endpoint_still_counts_the_event(make: Any) -> None:
    item = make.item(make.project())
    assert make.decide(make.person("ada"), item).decision.sequence == 1
    assert (fresh(item).sequence, told(item)) == (1, [])


def test_settle_parks_the_event_for_an_endpoint_that_is_not_active(make: Any) -> None:
    project = make.project()
    endpoint(make, project, "disabled")
    item = make.item(project)
    make.decide(make.person("ada"), item)
    assert db.session.scalars(select(Delivery.state)).all() == ["parked"]


@pytest.mark.parametrize(
    ("verdict", "output", "reason"),
    [("approve", None, None), ("edit", "Better.", "tone"), ("reject", None, "tone")],
)
def test_reviews_that_agree_make_one_decision(
    make: Any, verdict: str, output: str | None, reason: str | None
) -> None:
    item = make.item(make.project(reviews=3))
    for name in ("ada", "cleo"):
        assert make.decide(make.person(name), item, verdict, output, reason).decision is None
        assert fresh(item).status == "pending"
    decision = make.decide(make.person("dora"), item, verdict, output, reason).decision
    assert (decision.verdict, decision.decided_by, decision.source) == (
        verdict, make.person("dora").id, "review",
    )  # fmt: skip
    assert len(db.session.scalars(select(Decision)).all()) == 1
    assert sound()


@pytest.mark.parametrize(
    "second", [("reject", None, "tone"), ("edit", "Otherwise better.", "tone"), ("approve", None, None)]
)
def test_reviews_that_disagree_go_to_an_adjudicator(make: Any, second: tuple[Any, ...]) -> None:
    project = make.project(reviews=2)
    endpoint(make, project)
    item = make.item(project)
    ada, cleo, dora = (make.person(name) for name in ("ada", "cleo", "dora"))
    make.decide(ada, item, "edit", "Better.", "tone")
    assert make.decide(cleo, item, *second).decision is None
    assert (fresh(item).status, told(item)) == ("pending", [])
    [review] = reviews_of(item, "adjudication")
    assert (db.session.get_one(Queue, review.queue_id).name, review.rank, review.state) == (
        "adjudication", 1, "wanted",
    )  # fmt: skip
    queue = db.session.get_one(Queue, review.queue_id)
    assert claims.claim_next(cleo, queue) is None
    with pytest.raises(Missing):
        claims.claim_next(ada, queue)
    claim = claims.claim_next(dora, queue)
    assert claim is not None
    decision = decide(dora, claim.token, new_id("dec"), "reject", None, "unsafe").decision
    assert decision is not None
    assert (decision.source, decision.verdict, decision.decided_by) == ("adjudication", "reject", dora.id)
    assert [event["data"]["verdict"] for event in told(item)] == ["reject"]
    assert sound()


def test_a_control_review_that_approves_tells_nobody(make: Any) -> None:
    project = control_project(make)
    endpoint(make, project)
    item = make.item(project, confidence=0.9)
    assert fresh(item).status == "released"
    decision = make.decide(make.person("ada"), item).decision
    assert (decision.source, decision.sequence, decision.verdict) == ("control", None, "approve")
    assert (fresh(item).status, fresh(item).sequence, told(item)) == ("released", 0, [])
    assert sound()


@pytest.mark.parametrize(("verdict", "output"), [("edit", "It left on Tuesday."), ("reject", None)])
def test_a_control_review_that_finds_a_fault_amends(make: Any, verdict: str, output: str | None) -> None:
    project = control_project(make)
    endpoint(make, project)
    item = make.item(project, confidence=0.9)
    make.decide(make.person("ada"), item, verdict, output, "wrong fact")
    [event] = told(item)
    assert (event["type"], event["data"]["output"], event["data"]["sequence"]) == ("item.amended", output, 1)
    assert fresh(item).status == "decided"
    assert sound()


def test_control_reviews_that_disagree_leave_the_item_released_until_adjudicated(make: Any) -> None:
    project = control_project(make)
    endpoint(make, project)
    item = make.item(project, confidence=0.9)
    with transaction() as session:
        [seat] = session.scalars(select(Review).where(Review.item_id == item.id))
        same = ("item_id", "item_number", "project_id", "queue_id", "purpose", "round", "rank", "due_at")
        values = {name: getattr(seat, name) for name in same}
        session.add(Review(id=new_id("rev"), seat=2, state="wanted", created_at=seat.created_at, **values))
    make.decide(make.person("ada"), item)
    make.decide(make.person("cleo"), item, "reject", None, "unsafe")
    assert fresh(item).status == "released"
    decision = make.decide(make.person("dora"), item, "reject", None, "unsafe").decision
    assert (decision.source, told(item)[0]["type"]) == ("adjudication", "item.amended")
    assert fresh(item).status == "decided"


def test_a_decision_of_the_item_is_not_checked_by_who_made_it(make: Any) -> None:
    item = make.item(control_project(make, undo_seconds=0), confidence=0.9)
    make.decide(make.person("ada"), item)
    with transaction() as session:
        [seat] = session.scalars(select(Review).where(Review.item_id == item.id))
        same = ("item_id", "item_number", "project_id", "queue_id", "purpose", "rank", "due_at", "created_at")
        values = {name: getattr(seat, name) for name in same}
        session.add(Review(id=new_id("rev"), round=2, seat=1, state="wanted", **values))
    with pytest.raises(Conflict) as refused:
        claims.claim_item(make.person("ada"), item.id)
    assert refused.value.code == "same_person"
    assert claims.claim_item(make.person("cleo"), item.id).fence == 1


def test_override_supersedes_and_calls_back_as_amended(make: Any) -> None:
    project = make.project(undo_seconds=60)
    endpoint(make, project)
    item = make.item(project, input="Where?")
    first = make.decide(make.person("ada"), item, "edit", "Here.", "tone").decision
    decision = override(make.person("cleo"), item.id, "edit", "There.", "wrong fact", note="looked it up")
    assert (decision.source, decision.supersedes, decision.round) == ("override", first.id, 2)
    assert db.session.get_one(Decision, first.id).superseded_at == decision.decided_at
    assert [(e["type"], e["data"]["sequence"], e["data"]["output"]) for e in told(item)] == [
        ("item.decided", 1, "Here."), ("item.amended", 2, "There."),
    ]  # fmt: skip
    states = db.session.execute(select(Example.reason, Example.state).order_by(Example.id)).all()
    assert [tuple(row) for row in states] == [("tone", "retired"), ("wrong fact", "proposed")]
    assert (fresh(item).status, fresh(item).sequence) == ("decided", 2)
    assert sound()


def test_override_of_a_released_item_cancels_its_control_review(make: Any) -> None:
    item = make.item(control_project(make), confidence=0.9)
    ada = make.person("ada")
    claim = claims.claim_item(ada, item.id)
    override(make.person("cleo"), item.id, "reject", None, "unsafe")
    assert reviews_of(item)[0].state == "cancelled"
    assert db.session.get_one(Claim, claim.token).ended == "cancelled"
    with pytest.raises(LeaseLost, match="not wanted any more"):
        decide(ada, claim.token, new_id("dec"), "approve")
    assert len(db.session.scalars(select(Decision)).all()) == 1
    assert sound()


def test_override_of_a_blocked_item_lets_it_out(make: Any) -> None:
    rule = {"name": "no", "when": [{"field": "output", "op": "exists"}], "route": "block"}
    project = make.project(rules=[rule])
    endpoint(make, project)
    item = make.item(project)
    assert fresh(item).status == "blocked"
    override(make.person("cleo"), item.id, "approve", None, "other")
    [event] = told(item)
    assert (event["type"], event["data"]["output"]) == ("item.amended", item.output)


def test_override_is_refused_before_a_decision_and_to_others(make: Any) -> None:
    item = make.item(make.project())
    with pytest.raises(Conflict) as refused:
        override(make.person("cleo"), item.id, "reject", None, "unsafe")
    assert refused.value.code == "not_decided"
    make.decide(make.person("ada"), item)
    for name in ("ada", "aud"):
        with pytest.raises(Forbidden):
            override(make.person(name), item.id, "reject", None, "unsafe")
    with pytest.raises(Invalid) as missing:
        override(make.person("cleo"), item.id, "approve", None, None)
    assert missing.value.errors[0]["pointer"] == "reason"
    assert len(db.session.scalars(select(Decision)).all()) == 1


def test_override_with_a_known_id_gives_the_same_answer(make: Any) -> None:
    item = make.item(make.project())
    make.decide(make.person("ada"), item)
    cleo, id_ = make.person("cleo"), new_id("dec")
    first = override(cleo, item.id, "edit", "New.", "tone", decision_id=id_)
    assert override(cleo, item.id, "edit", "New.", "tone", decision_id=id_).id == first.id == id_
    with pytest.raises(Conflict):
        override(cleo, item.id, "edit", "Newer.", "tone", decision_id=id_)
    assert fresh(item).sequence == 2


def overdue(*items: Any) -> None:
    ids = [item.id for item in items]
    with transaction() as session:
        past = now() - timedelta(minutes=1)
        session.execute(update(Review).where(Review.item_id.in_(ids)).values(due_at=past))


@pytest.mark.parametrize("outcome", ["reject", "release"])
def test_expiry_is_told_as_a_timeout_never_as_a_verdict(make: Any, outcome: str) -> None:
    project = make.project(on_timeout=outcome, reviews=2)
    endpoint(make, project)
    item, later = make.item(project), make.item(project)
    overdue(item)
    assert expiry_due()
    assert expire_due() == 1
    assert not expiry_due()
    decision = db.session.scalars(select(Decision)).one()
    assert (decision.source, decision.verdict, decision.decided_by) == ("timeout", None, None)
    assert decision.final_at == decision.decided_at
    [event] = told(item)
    data = event["data"]
    assert (event["type"], data["verdict"], data["timeout"]) == ("item.expired", None, outcome)
    assert data["output"] == (item.output if outcome == "release" else None)
    assert (fresh(item).status, fresh(later).status) == ("expired", "pending")
    assert {review.state for review in reviews_of(item)} == {"cancelled"}
    assert sound()


def test_expiry_waits_for_the_holder_and_for_a_policy_that_waits(make: Any) -> None:
    project, patient = make.project(on_timeout="reject", reviews=2), make.project("patient")
    held, waiting = make.item(project), make.item(patient)
    claim = claims.claim_item(make.person("ada"), held.id)
    overdue(held, waiting)
    assert expire_due() == 0
    with transaction() as session:
        past = now() - timedelta(seconds=1)
        session.execute(update(Review).where(Review.claim_token == claim.token).values(lease_expires_at=past))
    assert expire_due() == 1
    assert (fresh(held).status, fresh(waiting).status) == ("expired", "pending")
    with pytest.raises(LeaseLost, match="the item is expired"):
        decide(make.person("ada"), claim.token, new_id("dec"), "approve")


def test_expiry_never_touches_a_control_review(make: Any) -> None:
    item = make.item(control_project(make, on_timeout="reject"), confidence=0.9)
    overdue(item)
    assert expire_due() == 0
    assert fresh(item).status == "released"


def test_an_expired_item_can_be_overridden(make: Any) -> None:
    project = make.project(on_timeout="reject")
    endpoint(make, project)
    item = make.item(project)
    overdue(item)
    expire_due()
    override(make.person("cleo"), item.id, "approve", None, "other")
    assert [event["type"] for event in told(item)] == ["item.expired", "item.amended"]
    assert fresh(item).status == "decided"
    assert sound()


def test_two_decisions_in_force_are_refused_by_the_database(make: Any) -> None:
    item = make.item(make.project())
    first = make.decide(make.person("ada"), item).decision
    copied = {column.name: getattr(first, column.name) for column in Decision.__table__.columns}
    with pytest.raises(IntegrityError), transaction() as session:
        session.add(Decision(**copied | {"id": new_id("dec"), "round": 9}))


def test_helpers_refuse_to_run_outside_a_transaction(make: Any) -> None:
    item = make.item(make.project())
    with pytest.raises(RuntimeError):
        joined()
    with pytest.raises(RuntimeError):
        cancel_reviews(item.id)
