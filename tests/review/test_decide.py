"""Verdicts: given once, escalated, taken back in time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import AlreadyDecided, Conflict, Forbidden, Invalid, LeaseLost, Missing
from reviewqueue.examples.collect import promote
from reviewqueue.ids import new_id
from reviewqueue.intake.submit import withdraw
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Claim, Decision, Delivery, Endpoint, Example, Item, LedgerEntry, Queue, Review
from reviewqueue.people.access import SYSTEM
from reviewqueue.review import claim as claims
from reviewqueue.review.decide import decide, escalate, undo
from reviewqueue.review.settle import override


def reviews_of(item: Any) -> list[Review]:
    found = select(Review).where(Review.item_id == item.id).order_by(Review.round, Review.seat)
    return list(db.session.scalars(found))


def fresh(item: Any) -> Item:
    db.session.rollback()
    return db.session.scalars(select(Item).where(Item.id == item.id)).one()


def lapse() -> None:
    with transaction() as session:
        session.execute(update(Review).values(lease_expires_at=now() - timedelta(seconds=1)))


def make_final() -> None:
    """Let the time for undoing run out."""
    with transaction() as session:
        session.execute(update(Decision).values(final_at=now() - timedelta(seconds=1)))


def endpoint(make: Any, project: Any) -> str:
    """Give the project's backend an address; its id."""
    backend_id = str(make.backend(project).backend.id)
    with transaction() as session:
        session.add(
            Endpoint(backend_id=backend_id, url="https://example.org/", state="active", created_at=now())
        )
    return backend_id


def test_decide_approves_with_the_output_as_it_was(make: Any) -> None:
    item = make.item(make.project(undo_seconds=30), input="Where is it?")
    ada = make.person("ada")
    claim = claims.claim_item(ada, item.id)
    given = decide(ada, claim.token, "dec_" + "0" * 26, "approve", output="ignored", note="  fine ")
    decision = given.decision
    assert decision is not None
    assert (decision.id, decision.verdict, decision.output, decision.edited) == (
        "dec_" + "0" * 26, "approve", item.output, False,
    )  # fmt: skip
    assert (decision.source, decision.decided_by, decision.note) == ("review", ada.id, "fine")
    assert decision.final_at - decision.decided_at == timedelta(seconds=30)
    assert (fresh(item).status, fresh(item).sequence) == ("decided", 1)
    review = reviews_of(item)[0]
    assert (review.state, review.given_by, review.output) == ("given", ada.id, None)
    assert review.dwell_ms is not None
    assert review.dwell_ms >= 0
    assert db.session.get_one(Claim, claim.token).ended == "decided"


def test_decide_edit_keeps_the_correction_and_its_types(make: Any) -> None:
    item = make.item(make.project("invoices", "json"), output={"total": 12.5, "paid": True}, input="total?")
    given = make.decide(make.person("ada"), item, "edit", {"total": 12, "paid": True}, "wrong fact", "model")
    assert given.decision.output == {"total": 12, "paid": True}
    assert isinstance(given.decision.output["total"], int)
    assert (given.decision.edited, given.decision.reason, given.decision.cause) == (
        True,
        "wrong fact",
        "model",
    )
    example = db.session.scalars(select(Example)).one()
    assert (example.state, example.rejected_output) == ("proposed", {"total": 12.5, "paid": True})


def test_decide_reject_lets_nothing_out(make: Any) -> None:
    item = make.item(make.project())
    given = make.decide(make.person("ada"), item, "reject", "ignored", "unsafe")
    assert (given.decision.output, given.decision.released, given.decision.edited) == (None, False, False)
    assert reviews_of(item)[0].output is None


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"verdict": "maybe"}, "verdict"),
        ({"verdict": "edit", "reason": "tone"}, "output"),
        ({"verdict": "edit", "output": {"total": 12.5, "currency": "EUR"}, "reason": "tone"}, "output"),
        ({"verdict": "edit", "output": {"currency": "EUR", "total": 12.5}, "reason": "tone"}, "output"),
        ({"verdict": "edit", "output": {"total": "12"}, "reason": "tone"}, "output.total"),
        ({"verdict": "edit", "output": {"total": 12}}, "reason"),
        ({"verdict": "reject"}, "reason"),
        ({"verdict": "reject", "reason": "because"}, "reason"),
        ({"verdict": "reject", "reason": "tone", "cause": "the weather"}, "cause"),
        ({"verdict": "approve", "note": "x" * 10_001}, "note"),
        ({"verdict": "approve", "note": "nul \0"}, "note"),
    ],
)
def test_decide_refuses_what_does_not_fit_and_names_the_field(
    make: Any, fields: dict[str, Any], pointer: str
) -> None:
    schema = {"type": "object", "properties": {"total": {"type": "number"}}}
    item = make.item(make.project("invoices", "json", schema=schema, reasons=["tone"], causes=["model"]))
    ada = make.person("ada")
    claim = claims.claim_item(ada, item.id)
    with pytest.raises(Invalid) as refused:
        decide(ada, claim.token, new_id("dec"), **fields)
    assert [error["pointer"] for error in refused.value.errors] == [pointer]
    assert reviews_of(item)[0].state == "wanted"
    assert db.session.get_one(Claim, claim.token).ended is None
    assert decide(ada, claim.token, new_id("dec"), "approve").decision is not None


def test_decide_edit_of_only_a_type_is_a_change(make: Any) -> None:
    item = make.item(make.project("invoices", "json"), output={"n": 1})
    assert make.decide(make.person("ada"), item, "edit", {"n": True}, "format").decision.output == {"n": True}


def test_decide_needs_a_decision_id(make: Any) -> None:
    ada = make.person("ada")
    claim = claims.claim_item(ada, make.item(make.project()).id)
    for wrong in ("", "dec_1", "itm_" + "0" * 26, "dec_" + "!" * 26):
        with pytest.raises(Invalid):
            decide(ada, claim.token, wrong, "approve")


def test_decide_again_with_the_same_id_gives_the_same_answer(make: Any) -> None:
    item = make.item(make.project())
    ada, id_ = make.person("ada"), new_id("dec")
    claim = claims.claim_item(ada, item.id)
    first = decide(ada, claim.token, id_, "edit", "Better.", "tone", note="n")
    again = decide(ada, claim.token, id_, "edit", "Better.", "tone", note="n")
    assert (again.replayed, again.decision.id, first.replayed) == (True, id_, False)
    for other in ({"output": "Best."}, {"reason": "unsafe"}, {"note": None}, {"verdict": "reject"}):
        fields = {"verdict": "edit", "output": "Better.", "reason": "tone", "note": "n"} | other
        with pytest.raises(Conflict) as refused:
            decide(ada, claim.token, id_, **fields)
        assert refused.value.code == "decision_id_reused"
    assert len(db.session.scalars(select(Decision)).all()) == 1


def test_decide_with_the_id_of_another_item_is_refused(make: Any) -> None:
    project = make.project()
    one, two = make.item(project), make.item(project)
    ada = make.person("ada")
    given = make.decide(ada, one)
    claim = claims.claim_item(ada, two.id)
    with pytest.raises(Conflict) as refused:
        decide(ada, claim.token, given.decision.id, "approve")
    assert refused.value.code == "decision_id_reused"
    assert fresh(two).status == "pending"


def test_late_work_is_kept_when_nobody_took_over(make: Any) -> None:
    item = make.item(make.project())
    ada = make.person("ada")
    claim = claims.claim_item(ada, item.id)
    lapse()
    assert decide(ada, claim.token, new_id("dec"), "approve").decision is not None


def test_late_work_is_refused_with_its_text_kept_when_somebody_took_over(make: Any) -> None:
    item = make.item(make.project())
    ada, cleo = make.person("ada"), make.person("cleo")
    claim = claims.claim_item(ada, item.id)
    lapse()
    theirs = claims.claim_item(cleo, item.id)
    with pytest.raises(LeaseLost, match="Cleo has taken"):
        decide(ada, claim.token, new_id("dec"), "edit", "My sentence.", "tone", note="mine")
    kept = db.session.get_one(Claim, claim.token).draft
    assert kept == {"verdict": "edit", "output": "My sentence.", "reason": "tone", "note": "mine"}
    decide(cleo, theirs.token, new_id("dec"), "approve")
    with pytest.raises(AlreadyDecided, match="Cleo has given"):
        decide(ada, claim.token, new_id("dec"), "reject", None, "unsafe", draft={"output.a": "typed"})
    assert db.session.get_one(Claim, claim.token).draft == {"output.a": "typed"}
    decisions = db.session.scalars(select(Decision)).all()
    assert [(d.verdict, d.decided_by) for d in decisions] == [("approve", cleo.id)]


@pytest.mark.parametrize("role", ["backend", "auditor", "system"])
def test_no_key_and_no_auditor_decides(make: Any, role: str) -> None:
    project = make.project(undo_seconds=60)
    waiting, decided = make.item(project), make.item(project)
    given = make.decide(make.person("ada"), decided)
    claim = claims.claim_item(make.person("ada"), waiting.id)
    actors = {"backend": make.backend_actor(project), "auditor": make.person("aud"), "system": SYSTEM}
    actor = actors[role]
    for act in (
        lambda: decide(actor, claim.token, new_id("dec"), "approve"),
        lambda: escalate(actor, claim.token, "adjudication"),
        lambda: undo(actor, given.decision.id),
        lambda: override(actor, decided.id, "reject", None, "unsafe"),
        lambda: claims.renew(actor, claim.token, {"note": "x"}),
        lambda: claims.skip(actor, claim.token),
    ):
        with pytest.raises(Forbidden):
            act()
    assert (fresh(waiting).status, fresh(decided).status) == ("pending", "decided")
    assert db.session.get_one(Claim, claim.token).draft is None


def test_two_seats_cannot_be_given_by_one_person(make: Any) -> None:
    item = make.item(make.project(reviews=2))
    ada, cleo = make.person("ada"), make.person("cleo")
    first = claims.claim_item(ada, item.id)
    second = claims.claim_item(cleo, item.id)
    with transaction() as session:
        # As if a race had let one person hold both seats.
        session.execute(update(Review).where(Review.claim_token == second.token).values(claimed_by=ada.id))
        session.execute(update(Claim).where(Claim.token == second.token).values(person_id=ada.id))
    decide(ada, first.token, new_id("dec"), "approve")
    with pytest.raises(Conflict) as refused:
        decide(ada, second.token, new_id("dec"), "approve")
    assert refused.value.code == "same_person"
    assert fresh(item).status == "pending"


def test_escalate_moves_the_review_and_makes_it_more_urgent(make: Any) -> None:
    rule = {
        "name": "big", "when": [{"field": "risk", "op": "gt", "value": 0.9}], "route": "review",
        "queue": "seniors",
    }  # fmt: skip
    project = make.project(rules=[rule])
    item = make.item(project)
    ada = make.person("ada", every_queue=False, queues=[queue(project, "main")])
    claim = claims.claim_item(ada, item.id)
    for wrong in ("nowhere", "main"):
        with pytest.raises(Invalid):
            escalate(ada, claim.token, wrong, "?")
    escalate(ada, claim.token, "seniors", "is this legal?")
    review = reviews_of(item)[0]
    assert (review.queue_id, review.rank, review.claimed_by) == (queue(project, "seniors").id, 1, None)
    ended = db.session.get_one(Claim, claim.token)
    assert (ended.ended, ended.remark) == ("escalated", "is this legal?")
    with pytest.raises(LeaseLost):
        decide(ada, claim.token, new_id("dec"), "approve")
    again = claims.claim_next(make.person("cleo"), queue(project, "seniors"))
    assert again is not None
    assert again.review_id == review.id


def queue(project: Any, name: str) -> Queue:
    return db.session.scalars(select(Queue).where(Queue.project_id == project.id, Queue.name == name)).one()


def test_undo_brings_the_review_back_with_what_was_entered(make: Any) -> None:
    project = make.project(undo_seconds=60)
    item = make.item(project, input="Where is it?")
    endpoint(make, project)
    ada = make.person("ada")
    given = make.decide(ada, item, "edit", "Better.", "tone", "model", "hm")
    claim = undo(ada, given.decision.id)
    assert claim is not None
    assert claim.draft == {
        "verdict": "edit", "output": "Better.", "reason": "tone", "cause": "model", "note": "hm",
    }  # fmt: skip
    now_item = fresh(item)
    assert (now_item.status, now_item.sequence, now_item.round) == ("pending", 0, 2)
    old, new = reviews_of(item)
    assert (old.state, new.state, new.claim_token, new.round) == ("undone", "wanted", claim.token, 2)
    assert new.fence == old.fence + 1
    assert db.session.get_one(Decision, given.decision.id).undone_at is not None
    assert db.session.scalars(select(Delivery.state)).all() == ["cancelled"]
    assert db.session.scalars(select(Example.state)).all() == ["retired"]
    report = verify()
    assert report.ok, report.problem


def test_a_new_decision_after_undo_takes_the_unsent_number(make: Any) -> None:
    project = make.project(undo_seconds=60)
    item = make.item(project)
    endpoint(make, project)
    ada = make.person("ada")
    claim = undo(ada, make.decide(ada, item, "reject", None, "tone").decision.id)
    assert claim is not None
    second = decide(ada, claim.token, new_id("dec"), "approve")
    rows = db.session.execute(select(Delivery.sequence, Delivery.state).order_by(Delivery.id)).all()
    assert sorted(rows) == [(1, "cancelled"), (1, "due")]
    assert second.decision is not None
    assert (second.decision.sequence, second.decision.round, fresh(item).sequence) == (1, 2, 1)
    report = verify()
    assert report.ok, report.problem


def test_undo_is_for_whoever_decided(make: Any) -> None:
    item = make.item(make.project(undo_seconds=60))
    given = make.decide(make.person("ada"), item)
    with pytest.raises(Forbidden):
        undo(make.person("cleo"), given.decision.id)
    with pytest.raises(Missing):
        undo(make.person("ada"), new_id("dec"))
    assert fresh(item).status == "decided"


def test_undo_after_the_time_changes_nothing(make: Any) -> None:
    item = make.item(make.project(undo_seconds=60))
    given = make.decide(make.person("ada"), item)
    make_final()
    with pytest.raises(Conflict) as refused:
        undo(make.person("ada"), given.decision.id)
    assert refused.value.code == "final"
    assert (fresh(item).status, fresh(item).round, len(reviews_of(item))) == ("decided", 1, 1)


@pytest.mark.parametrize("sent", [{"state": "inflight", "attempts": 1}, {"state": "due", "attempts": 1}])
def test_undo_once_sending_began_changes_nothing(make: Any, sent: dict[str, Any]) -> None:
    project = make.project(undo_seconds=60)
    item = make.item(project)
    endpoint(make, project)
    given = make.decide(make.person("ada"), item)
    with transaction() as session:
        session.execute(update(Delivery).values(**sent))
    with pytest.raises(Conflict):
        undo(make.person("ada"), given.decision.id)
    assert db.session.get_one(Decision, given.decision.id).undone_at is None
    assert (fresh(item).status, fresh(item).sequence) == ("decided", 1)


def test_undo_twice_is_refused(make: Any) -> None:
    item = make.item(make.project(undo_seconds=60))
    ada = make.person("ada")
    given = make.decide(ada, item)
    undo(ada, given.decision.id)
    with pytest.raises(Conflict):
        undo(ada, given.decision.id)
    assert len(reviews_of(item)) == 2
    token = reviews_of(item)[1].claim_token
    with pytest.raises(Conflict) as refused:
        decide(ada, token, given.decision.id, "approve")
    assert refused.value.code == "decision_id_reused"


def test_undo_of_a_control_review_leaves_the_item_released(make: Any) -> None:
    project = make.project(confidence_below=0.5, control_rate=1.0, undo_seconds=60)
    item = make.item(project, confidence=0.9)
    ada = make.person("ada")
    given = make.decide(ada, item, "reject", None, "unsafe")
    assert fresh(item).status == "decided"
    undo(ada, given.decision.id)
    assert (fresh(item).status, fresh(item).sequence) == ("released", 0)


def test_undo_before_it_settled_keeps_the_other_reviews(make: Any) -> None:
    item = make.item(make.project(reviews=2, undo_seconds=60))
    ada, cleo = make.person("ada"), make.person("cleo")
    first = make.decide(ada, item, "reject", None, "tone")
    theirs = claims.claim_item(cleo, item.id)
    again = undo(ada, first.review.decision_id)
    assert again is not None
    assert decide(cleo, theirs.token, new_id("dec"), "approve").decision is None
    settled = decide(ada, again.token, new_id("dec"), "approve").decision
    assert settled is not None
    assert (settled.verdict, settled.round, fresh(item).status) == ("approve", 2, "decided")
    report = verify()
    assert report.ok, report.problem


def test_undo_of_one_side_of_a_disagreement_calls_the_adjudicator_off(make: Any) -> None:
    item = make.item(make.project(reviews=2, undo_seconds=60))
    ada, cleo, dora = (make.person(name) for name in ("ada", "cleo", "dora"))
    make.decide(ada, item, "approve")
    against = make.decide(cleo, item, "reject", None, "tone")
    waiting = claims.claim_item(dora, item.id)
    again = undo(cleo, against.review.decision_id)
    assert again is not None
    with pytest.raises(LeaseLost, match="not wanted any more"):
        decide(dora, waiting.token, new_id("dec"), "approve")
    assert decide(cleo, again.token, new_id("dec"), "approve").decision is not None


def test_undo_of_my_review_after_another_settled_it_is_refused(make: Any) -> None:
    item = make.item(make.project(reviews=2, undo_seconds=60))
    first = make.decide(make.person("ada"), item)
    make.decide(make.person("cleo"), item)
    with pytest.raises(Conflict):
        undo(make.person("ada"), first.review.decision_id)
    assert fresh(item).status == "decided"


def test_undo_of_a_review_of_a_withdrawn_item_is_refused(make: Any) -> None:
    project = make.project(reviews=2, undo_seconds=60)
    item = make.item(project)
    first = make.decide(make.person("ada"), item)
    withdraw(make.backend_actor(project), item.id)
    with pytest.raises(Conflict):
        undo(make.person("ada"), first.review.decision_id)
    assert fresh(item).status == "withdrawn"
    assert {review.state for review in reviews_of(item)} == {"given", "cancelled"}


def test_undo_of_the_last_of_two_keeps_the_first(make: Any) -> None:
    item = make.item(make.project(reviews=2, undo_seconds=60))
    ada, cleo = make.person("ada"), make.person("cleo")
    make.decide(ada, item)
    settled = make.decide(cleo, item).decision
    again = undo(cleo, settled.id)
    assert again is not None
    turns = {(review.state, review.round) for review in reviews_of(item)}
    assert turns == {("undone", 1), ("given", 2), ("wanted", 2)}
    assert decide(cleo, again.token, new_id("dec"), "approve").decision is not None


def test_undo_of_an_override_brings_the_earlier_decision_back(make: Any) -> None:
    project = make.project(undo_seconds=60)
    item = make.item(project, input="?")
    endpoint(make, project)
    cleo = make.person("cleo")
    first = make.decide(make.person("ada"), item).decision
    over = override(cleo, item.id, "reject", None, "unsafe")
    assert undo(cleo, over.id) is None
    assert db.session.get_one(Decision, first.id).superseded_at is None
    assert (fresh(item).status, fresh(item).sequence) == ("decided", 1)
    states = db.session.execute(select(Delivery.sequence, Delivery.state).order_by(Delivery.sequence))
    assert states.all() == [(1, "due"), (2, "cancelled")]
    report = verify()
    assert report.ok, report.problem


def test_undo_of_an_override_proposes_the_earlier_decision_s_example_again(make: Any) -> None:
    project = make.project(undo_seconds=60)
    item = make.item(project, input="Where is my parcel?")
    cleo = make.person("cleo")
    first = make.decide(make.person("ada"), item, "edit", "It left on Tuesday.", "wrong fact").decision
    over = override(cleo, item.id, "reject", None, "unsafe")
    states = select(Example.decision_id, Example.state)
    assert dict(db.session.execute(states).all()) == {first.id: "retired", over.id: "proposed"}
    undo(cleo, over.id)
    assert dict(db.session.execute(states).all()) == {first.id: "proposed", over.id: "retired"}
    assert promote(cleo, db.session.scalar(select(Example.id).where(Example.state == "proposed")))
    assert verify().ok


def test_undo_of_an_override_wants_the_control_review_again(make: Any) -> None:
    project = make.project(confidence_below=0.5, control_rate=1.0, undo_seconds=60)
    item = make.item(project, confidence=0.9)
    cleo = make.person("cleo")
    over = override(cleo, item.id, "reject", None, "unsafe")
    undo(cleo, over.id)
    assert fresh(item).status == "released"
    assert make.decide(make.person("ada"), item).decision.source == "control"
    report = verify()
    assert report.ok, report.problem


def test_every_verdict_stands_in_the_ledger(make: Any) -> None:
    item = make.item(make.project(reviews=2), input="?")
    make.decide(make.person("ada"), item)
    make.decide(make.person("cleo"), item, "reject", None, "tone")
    make.decide(make.person("dora"), item, "edit", "Better.", "tone")
    entries = select(LedgerEntry.type).where(LedgerEntry.item_id == item.id).order_by(LedgerEntry.seq)
    assert db.session.scalars(entries).all()[-3:] == ["review", "review", "decision"]
    report = verify()
    assert report.ok, report.problem


def test_decide_takes_a_verdict_on_a_page_that_was_open_for_months(base, make):
    claim = make.claim(make.person("ada"), make.item(make.project()))
    with time_machine.travel(now() + timedelta(days=100)):
        given = decide(make.person("ada"), claim.token, new_id("dec"), "approve")
    assert given.review.dwell_ms == 2**31 - 1
