"""What is put beside an item before a person sees it, and the jobs of this folder."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, text, update

from reviewqueue.db import db, now, stamp, transaction
from reviewqueue.examples.retrieve import learn_decided
from reviewqueue.models import Item, Review
from reviewqueue.review import claim as claims
from reviewqueue.review import jobs, prepare
from reviewqueue.review.settle import override


def review_of(item: Any) -> Review:
    db.session.rollback()
    return db.session.scalars(select(Review).where(Review.item_id == item.id)).one()


def test_prepare_shows_how_similar_items_were_decided(make: Any) -> None:
    project, other = make.project(), make.project("elsewhere")
    asked = "When does my parcel from Ghent arrive at the depot?"
    twin = make.item(other, input=asked)
    make.decide(make.person("ada"), twin)
    like = make.item(project, input="When does the parcel from Ghent arrive?", output="Tomorrow.")
    unlike = make.item(project, input="Je voudrais changer mon mot de passe")
    decision = make.decide(make.person("ada"), like, "edit", "On Monday.", "wrong fact").decision
    make.decide(make.person("ada"), unlike)
    while learn_decided():
        pass
    item = make.item(project, input=asked)
    assert jobs.prepare_due()
    assert jobs.prepare() == 1
    assert not jobs.prepare_due()
    hints = review_of(item).hints
    assert hints is not None
    [near] = hints["similar"]
    score = near.pop("score")
    assert 0.3 < score <= 1
    assert near == {
        "item": like.id, "verdict": "edit", "reason": "wrong fact", "shown": "Tomorrow.",
        "output": "On Monday.", "decided_at": stamp(decision.decided_at),
    }  # fmt: skip


def test_prepare_tells_of_the_decision_in_force(make: Any) -> None:
    project = make.project(undo_seconds=60)
    like = make.item(project, input="Where is my parcel?")
    make.decide(make.person("ada"), like)
    override(make.person("cleo"), like.id, "reject", None, "unsafe")
    while learn_decided():
        pass
    item = make.item(project, input="Where is my parcel?")
    jobs.prepare()
    hints = review_of(item).hints
    assert hints is not None
    assert [(near["verdict"], near["output"]) for near in hints["similar"]] == [("reject", None)]


def test_prepare_finds_hidden_characters_wherever_they_are(make: Any) -> None:
    project = make.project("calls", "tool_call")
    output = {"name": "refund", "arguments": {"to\u200bwhom": ["a\u202eb", {"x": "\u202e"}]}}
    item = make.item(project, output=output, input="soft\u00adhyphen", context=[{"text": "clean"}])
    jobs.prepare()
    hints = review_of(item).hints
    assert hints is not None
    found = {(each["where"], each["codepoint"], each["count"]) for each in hints["hidden"]}
    assert found == {("output", "U+202E", 2), ("output", "U+200B", 1), ("input", "U+00AD", 1)}


def test_prepare_gives_every_seat_the_same_hints_and_keeps_them(make: Any) -> None:
    item = make.item(make.project(reviews=3), input="Where?")
    assert jobs.prepare() == 3
    seats = db.session.scalars(select(Review).where(Review.item_id == item.id)).all()
    assert {seat.prepared_at is not None for seat in seats} == {True}
    assert [seat.hints for seat in seats] == [{"similar": [], "hidden": []}] * 3
    assert jobs.prepare() == 0


def test_prepare_drains_in_batches_oldest_first(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make.project()
    items = [make.item(project) for _ in range(7)]
    monkeypatch.setattr(prepare, "BATCH", 3)
    assert prepare.prepare_due(seconds=-1) == 3
    assert [review_of(item).prepared_at is not None for item in items] == [True] * 3 + [False] * 4
    assert prepare.prepare_due() == 4


def test_an_unprepared_item_can_be_claimed_and_is_prepared_all_the_same(make: Any) -> None:
    item = make.item(make.project())
    claim = claims.claim_item(make.person("ada"), item.id)
    assert jobs.prepare() == 1
    assert review_of(item).claim_token == claim.token


def test_a_given_review_is_not_prepared(make: Any) -> None:
    item = make.item(make.project())
    make.decide(make.person("ada"), item)
    assert not jobs.prepare_due()
    assert jobs.prepare() == 0
    assert review_of(item).prepared_at is None


def test_an_item_that_cannot_be_prepared_does_not_hold_up_the_others(make: Any) -> None:
    project = make.project()
    make.decide(make.person("ada"), make.item(project, input="parcel"))
    learn_decided()
    broken = make.item(project, input="parcel")
    fine = make.item(project, input=None)
    with transaction() as session:
        session.execute(text("ALTER TABLE search_term RENAME TO search_term_gone"))
    assert jobs.prepare() == 2
    assert review_of(broken).prepared_at is not None
    assert review_of(fine).prepared_at is not None


def test_upkeep_lets_overdue_items_go(make: Any) -> None:
    item = make.item(make.project(on_timeout="reject"))
    assert not jobs.upkeep_due()
    assert jobs.upkeep() == 0
    with transaction() as session:
        session.execute(update(Review).values(due_at=now() - timedelta(seconds=1)))
    assert jobs.upkeep_due()
    assert jobs.upkeep() == 1
    assert db.session.scalars(select(Item.status).where(Item.id == item.id)).one() == "expired"
    assert not jobs.upkeep_due()
