"""Many items decided at once: each through the verbs that decide one, and what is left alone."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Conflict, Forbidden, Invalid, Missing
from reviewqueue.finding import alike, batch, catalogue
from reviewqueue.ledger.verify import verify
from reviewqueue.models import BatchItem, Decision, Delivery, Item, Queue, Review
from reviewqueue.review.claim import claim_item, renew
from reviewqueue.review.decide import undo
from reviewqueue.review.queues import holding


@pytest.fixture(autouse=True)
def _nobody_by_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are random: without the lot, what is left alone is left alone for what a test says."""
    monkeypatch.setattr(batch, "ONE_IN", 10**9)


def main_of(project: Any, name: str = "main") -> Queue:
    return db.session.scalars(select(Queue).where(Queue.project_id == project.id, Queue.name == name)).one()


def statuses(items: list[Any]) -> list[str]:
    db.session.rollback()
    found = dict(db.session.execute(select(Item.id, Item.status)).all())
    return [found[item.id] for item in items]


def test_a_batch_is_decided_one_by_one_and_undone_as_one(make: Any) -> None:
    project = make.project(undo_seconds=600, reasons=["tone"])
    make.backend(project, callback="http://127.0.0.1:9/")
    items = [make.item(project, output=f"Parcel {n}") for n in range(4)]
    ada, queue = make.person("ada"), main_of(project)
    id_ = batch.begin(ada, queue, {item.id: "reject" for item in items}, "tone", None, "all wrong")
    assert statuses(items) == ["pending"] * 4, "nothing is decided before it is carried out"
    assert batch.carry_on(ada, id_, seconds=0) == 4
    assert batch.carry_on(ada, id_) == 0
    assert statuses(items) == ["decided"] * 4
    decisions = db.session.scalars(select(Decision)).all()
    assert {(one.verdict, one.reason, one.note, one.decided_by) for one in decisions} == {
        ("reject", "tone", "all wrong", ada.id)
    }
    assert db.session.scalar(select(func.count()).select_from(Delivery)) == 4
    told = batch.told(ada, id_)
    assert told.counts == {"decided": 4}
    assert told.seconds > 500
    assert batch.undo_batch(ada, id_) == 4
    assert statuses(items) == ["pending"] * 4
    assert holding(ada) == [], "what was taken back goes to the queue"
    assert batch.told(ada, id_).counts == {"undone": 4}
    assert verify().ok


def test_a_batch_that_broke_off_decides_nothing_twice(make: Any) -> None:
    project = make.project()
    item, ada = make.item(project), make.person("ada")
    id_ = batch.begin(ada, main_of(project), {item.id: "approve"})
    batch.carry_on(ada, id_)
    with transaction() as session:  # as if the process had ended between deciding and writing it down
        session.execute(update(BatchItem).values(outcome=None))
    assert batch.carry_on(ada, id_) == 0
    assert batch.told(ada, id_).counts == {"decided": 1}
    assert db.session.scalar(select(func.count()).select_from(Decision)) == 1


def test_what_is_left_alone_says_why(make: Any) -> None:
    rules = [
        {
            "name": "two",
            "when": [{"field": "feature", "op": "eq", "value": "two"}],
            "route": "review",
            "reviews": 2,
        }
    ]
    project = make.project(rules=rules, confidence_below=0.8, risk_above=0.6, control_rate=1.0)
    ada, cleo, queue = make.person("ada"), make.person("cleo"), main_of(project)
    plain, two, risky = make.item(project), make.item(project, feature="two"), make.item(project, risk=0.7)
    control, held, mine = make.item(project, confidence=0.95), make.item(project), make.item(project)
    gone, elsewhere = make.item(project), make.item(make.project("elsewhere"))
    assert control.status == "released"
    claim_item(cleo, held.id)
    renew(ada, claim_item(ada, mine.id).token, {"note": "hm"})
    claim_item(ada, plain.id)
    make.decide(cleo, gone, "approve")
    everything = [plain, two, risky, control, held, mine, gone, elsewhere]
    told = {one.item.id: one.left for one in batch.plan(ada, queue, [item.id for item in everything])}
    assert told == {
        plain.id: None, two.id: batch.ALONE, risky.id: batch.RISKY, control.id: batch.ALONE,
        held.id: "Cleo has it.", mine.id: batch.BEGUN, gone.id: batch.GONE,
    }  # fmt: skip
    id_ = batch.begin(ada, queue, {item.id: "approve" for item in everything})
    batch.carry_on(ada, id_)
    assert batch.told(ada, id_).counts == {"decided": 1, "left": 6}
    assert [r.given_by for r in db.session.scalars(select(Review).where(Review.item_id == plain.id))] == [
        ada.id
    ]


def test_a_control_review_hides_among_those_left_by_lot(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "ONE_IN", 3)
    project = make.project(confidence_below=0.8)
    ids = [make.item(project, output=f"Parcel {n}").id for n in range(40)]
    left = [one.left for one in batch.plan(make.person("ada"), main_of(project), ids)]
    assert set(left) == {None, batch.ALONE}
    assert 3 < left.count(batch.ALONE) < 25


def test_what_changed_after_the_preview_is_left_alone(make: Any) -> None:
    project = make.project()
    one, other = make.item(project), make.item(project)
    ada, cleo = make.person("ada"), make.person("cleo")
    id_ = batch.begin(ada, main_of(project), {one.id: "approve", other.id: "approve"})
    make.decide(cleo, one, "reject", reason="tone")
    claim_item(cleo, other.id)
    batch.carry_on(ada, id_)
    assert [row.said for row, _ in batch.told(ada, id_).rows] == [batch.GONE, "Cleo has it."]
    assert [d.decided_by for d in db.session.scalars(select(Decision))] == [cleo.id]


def test_undo_too_late_says_so_and_undoes_the_rest(make: Any) -> None:
    project = make.project(undo_seconds=600)
    items, ada = [make.item(project) for _ in range(2)], make.person("ada")
    id_ = batch.begin(ada, main_of(project), {item.id: "approve" for item in items})
    batch.carry_on(ada, id_)
    with transaction() as session:
        session.execute(
            update(Decision)
            .where(Decision.item_id == items[0].id)
            .values(final_at=now() - timedelta(seconds=1))
        )
    assert batch.undo_batch(ada, id_) == 1
    rows = batch.told(ada, id_).rows
    assert [row.outcome for row, _ in rows] == ["decided", "undone"]
    assert "too late" in (rows[0][0].said or "")


def test_who_may_not_decide_here_may_not_in_bulk(make: Any) -> None:
    project = make.project(reasons=["tone"])
    item, queue = make.item(project), main_of(project)
    ada, wish = make.person("ada"), {item.id: "approve"}
    with pytest.raises(Missing):
        batch.begin(make.person("ben"), queue, wish)
    with pytest.raises(Forbidden):
        batch.begin(make.person("aud"), queue, wish)
    with pytest.raises(Conflict):
        batch.begin(make.person("cleo"), main_of(project, "adjudication"), wish)
    for verdict, reason, field in (
        ("edit", None, "verdict"),
        ("reject", None, "reason"),
        ("reject", "x", "reason"),
    ):
        with pytest.raises(Invalid) as refused:
            batch.begin(ada, queue, {item.id: verdict}, reason)
        assert refused.value.errors[0]["pointer"] == field
    with pytest.raises(Invalid):
        batch.begin(ada, queue, {})
    id_ = batch.begin(ada, queue, wish)
    for verb in (batch.told, batch.carry_on, batch.undo_batch):
        with pytest.raises(Missing):
            verb(make.person("cleo"), id_)


def test_an_edit_is_given_to_the_very_same_outputs_alone(make: Any) -> None:
    project = make.project(undo_seconds=600, reasons=["tone"])
    said = "Your parcel has left our house on Monday."
    first, *rest = (make.item(project, output=said) for _ in range(4))
    like = make.item(project, output=said.upper())
    queue, ada, cleo = main_of(project), make.person("ada"), make.person("cleo")
    verdicts = {item.id: "edit" for item in (*rest, like)}
    with pytest.raises(Invalid):
        batch.begin(ada, queue, verdicts, "tone", after_id=first.id)
    given = make.decide(ada, first, "edit", "It left on Tuesday.", "tone")
    for actor, reason, after in ((cleo, "tone", first), (ada, None, first), (ada, "tone", like)):
        with pytest.raises(Invalid):
            batch.begin(actor, queue, verdicts, reason, after_id=after.id)
    planned = batch.plan(ada, queue, list(verdicts), first.id)
    assert [one.left for one in planned] == [None] * 3 + [batch.OTHER]
    id_ = batch.begin(ada, queue, verdicts, "tone", after_id=first.id)
    batch.carry_on(ada, id_)
    assert batch.told(ada, id_).counts == {"decided": 3, "left": 1}
    outputs = db.session.scalars(select(Decision.output).where(Decision.edited)).all()
    assert outputs == ["It left on Tuesday."] * 4
    assert statuses([like]) == ["pending"]
    assert batch.undo_batch(ada, id_) == 3
    again = batch.begin(ada, queue, verdicts, "tone", after_id=first.id)
    undo(ada, given.decision.id)
    batch.carry_on(ada, again)
    assert {row.said for row, _ in batch.told(ada, again).rows} == {batch.NO_CORRECTION, batch.OTHER}
    assert verify().ok


def test_more_like_counts_all_that_wait_and_say_the_same(make: Any) -> None:
    project = make.project(confidence_below=0.8, control_rate=1.0)
    said = "Your parcel has left our house on Monday."
    same = [
        make.item(project, output=said.upper() if n else said, confidence=0.9 if n == 2 else 0.3)
        for n in range(4)
    ]
    other, gone = make.item(project, output="Something else."), make.item(project, output=said)
    make.decide(make.person("cleo"), gone, "approve")
    catalogue.index_due()
    queue = main_of(project)
    assert alike.more_like(queue, [same[0].number, other.number]) == {same[0].number: 3}
    assert alike.like(make.person("ada"), queue, same[1].id) == [item.id for item in same]
