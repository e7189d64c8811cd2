"""The loop as the product's own verbs run it: the ledger agrees with every step, and with nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Decision, Delivery, LedgerEntry, LedgerPart, Review
from reviewqueue.review.decide import undo
from reviewqueue.review.settle import override


@pytest.fixture
def cast(make):
    make.project(undo_seconds=60, due_minutes=1, on_timeout="release")
    return make.person("ada"), make.person("cleo")


def _decisions() -> list[Decision]:
    db.session.rollback()
    return list(db.session.scalars(select(Decision).order_by(Decision.decided_at)))


def test_verify_agrees_with_every_way_an_item_is_settled(make, cast):
    from reviewqueue.review.expire import expire_due

    ada, cleo = cast
    project = make.project(undo_seconds=60, due_minutes=1, on_timeout="release")
    make.decide(ada, make.item(project))
    edited = make.item(project)
    make.decide(
        ada, edited, "edit", "It left on Tuesday.", reason="wrong fact", cause="model", note="checked"
    )
    make.decide(ada, make.item(project), "reject", reason="tone")
    override(cleo, edited.id, "reject", None, "unsafe", None, None)
    taken_back = make.item(project)
    undo(ada, make.decide(ada, taken_back).decision.id)
    twice = make.item(project)
    make.decide(ada, twice)
    undo(cleo, override(cleo, twice.id, "edit", "Better.", "tone", None, None).id)
    overdue = make.item(project)
    with transaction() as session:
        session.execute(
            update(Review).where(Review.item_id == overdue.id).values(due_at=now() - timedelta(minutes=1))
        )
    assert expire_due() == 1
    assert {d.source for d in _decisions()} == {"review", "override", "timeout"}
    report = verify()
    assert report.ok, report.problem


def test_verify_names_each_decision_of_the_loop_when_its_row_is_changed(make, cast):
    ada, cleo = cast
    project = make.project(undo_seconds=60, due_minutes=1, on_timeout="release")
    item = make.item(project)
    make.decide(ada, item)
    override(cleo, item.id, "edit", "Better.", "tone", None, None)
    undo(ada, make.decide(ada, make.item(project)).decision.id)
    for decision in _decisions():
        entry = select(LedgerEntry.seq).where(
            LedgerEntry.decision_id == decision.id, LedgerEntry.type == "decision"
        )
        seq, verdict = db.session.scalar(entry), decision.verdict
        change = update(Decision).where(Decision.id == decision.id)
        with transaction() as session:
            session.execute(change.values(verdict="reject"))
        assert verify().first_bad == seq
        with transaction() as session:
            session.execute(change.values(verdict=verdict))
        assert verify().ok


def test_a_decision_commits_with_its_entry_parts_and_delivery_or_not_at_all(make, cast, stopping):
    """The deciding transaction is stopped at every one of its statements in turn."""
    from reviewqueue.ids import new_id
    from reviewqueue.review.decide import decide

    project = make.project(undo_seconds=60, due_minutes=1, on_timeout="release")
    make.backend(project, callback="http://127.0.0.1:9/", trusted=True)
    ada, _ = cast
    item = make.item(project, input="Where is it?")
    token = make.claim(ada, item).token

    def count() -> tuple[int, ...]:
        db.session.rollback()
        tables = (Decision, LedgerEntry, LedgerPart, Delivery)
        return tuple(db.session.scalar(select(db.func.count()).select_from(table)) for table in tables)

    before = count()
    stops = 0
    for _ in stopping(
        lambda: decide(ada, token, new_id("dec"), "edit", "It left on Tuesday.", "tone", "model", None)
    ):
        stops += 1
        assert count() == before
    assert stops > 10
    decisions, entries, parts, deliveries = (
        after - earlier for after, earlier in zip(count(), before, strict=True)
    )
    assert (decisions, deliveries) == (1, 1)
    assert entries >= 1
    assert parts >= 4  # in, shown, out, why
    assert verify().ok
