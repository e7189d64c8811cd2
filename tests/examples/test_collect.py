"""Examples come from decisions, and only a second person puts them into use."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.errors import Conflict, Forbidden, Invalid, Missing, Refusal
from reviewqueue.examples.collect import promote, retire
from reviewqueue.examples.retrieve import search, snapshot
from reviewqueue.models import Example, ExampleSet, LedgerEntry, LedgerPart
from reviewqueue.review.decide import undo
from reviewqueue.review.settle import override
from tests.examples.conftest import Teach
from tests.make import Make

pytestmark = pytest.mark.usefixtures("base")


def every() -> list[Example]:
    db.session.rollback()
    return list(db.session.scalars(select(Example).order_by(Example.id)))


def told(example_id: str) -> list[dict[str, Any]]:
    """What the ledger says of an example, in order."""
    found = db.session.scalars(
        select(LedgerEntry).where(LedgerEntry.type == "example").order_by(LedgerEntry.seq)
    )
    return [body for body in (json.loads(entry.body) for entry in found) if body["example"] == example_id]


# --- proposed -------------------------------------------------------------------------------------


def test_propose_keeps_what_an_edit_changed_and_why(make: Make, proposed: Teach) -> None:
    ada = make.person("ada")
    example = proposed({"question": "When?"}, "On Tuesday.", "On Monday.", reason="wrong fact")
    assert (example.state, example.author_id, example.reason) == ("proposed", ada.id, "wrong fact")
    assert (example.input, example.rejected_output, example.output) == (
        {"question": "When?"},
        "On Monday.",
        "On Tuesday.",
    )


def test_propose_keeps_a_reasoned_reject_without_an_output(proposed: Teach) -> None:
    example = proposed("When?", None, "No idea, mate.")
    assert (example.state, example.rejected_output, example.output) == ("proposed", "No idea, mate.", None)


def test_propose_learns_nothing_from_an_approval_nor_without_input(make: Make, project: Any) -> None:
    ada = make.person("ada")
    make.decide(ada, make.item(project, input="When?"))
    make.decide(ada, make.item(project), "edit", "Something else.", "tone")
    assert every() == []


def test_propose_learns_from_an_override_too(make: Make, project: Any) -> None:
    item = make.item(project, input="When?")
    make.decide(make.person("ada"), item)
    override(make.person("cleo"), item.id, "edit", "On Tuesday.", "wrong fact")
    (example,) = every()
    assert (example.output, example.author_id) == ("On Tuesday.", make.person("cleo").id)


def test_propose_is_taken_back_with_an_undone_decision(make: Make) -> None:
    project = make.project(undo_seconds=60)
    ada, item = make.person("ada"), make.item(project, input="When?")
    given = make.decide(ada, item, "edit", "On Tuesday.", "tone")
    undo(ada, given.decision.id)
    (example,) = every()
    assert example.state == "retired"
    with pytest.raises(Conflict):
        promote(make.person("cleo"), example.id)


def test_propose_is_taken_back_when_an_override_supersedes(make: Make, project: Any, active: Teach) -> None:
    example = active("When does the parcel come?", "On Tuesday.")
    assert search(project, "When does the parcel come?").examples
    override(make.person("dora"), example.item_id, "edit", "On Wednesday.", "wrong fact")
    old, new = every()
    assert (old.state, old.last_set) == ("retired", 1)
    assert (new.state, new.output) == ("proposed", "On Wednesday.")
    assert search(project, "When does the parcel come?").examples == []


# --- promoted -------------------------------------------------------------------------------------


def test_promote_makes_an_example_active_in_a_new_set(make: Make, project: Any, proposed: Teach) -> None:
    cleo, example = make.person("cleo"), proposed("When?", "On Tuesday.")
    promote(cleo, example.id)
    (found,) = every()
    assert (found.state, found.promoted_by, found.first_set, found.last_set) == ("active", cleo.id, 1, None)
    begun = db.session.scalars(select(ExampleSet)).one()
    assert (begun.number, begun.size, begun.created_by) == (1, 1, cleo.id)
    (entry,) = told(example.id)
    assert (entry["change"], entry["set"], entry["actor"]) == ("promoted", 1, cleo.id)
    parts = {part.part for part in db.session.scalars(select(LedgerPart).filter_by(seq=entry["seq"]))}
    assert parts == {"in", "out"}


def test_promote_refuses_the_author(make: Make, project: Any) -> None:
    cleo, item = make.person("cleo"), make.item(project, input="When?")
    make.decide(cleo, item, "edit", "On Tuesday.", "tone")
    (example,) = every()
    with pytest.raises(Forbidden, match="author"):
        promote(cleo, example.id)
    assert every()[0].state == "proposed"
    assert db.session.scalars(select(ExampleSet)).all() == []
    promote(make.person("dora"), example.id)
    assert every()[0].state == "active"


def test_promote_refuses_each_of_two_reviewers(make: Make) -> None:
    project = make.project(undo_seconds=0, reviews=2)
    cleo, dora = make.person("cleo"), make.person("dora")
    item = make.item(project, input="When?")
    for reviewer in (cleo, dora):
        make.decide(reviewer, item, "edit", "On Tuesday.", "tone")
    (example,) = every()
    for reviewer in (cleo, dora):
        with pytest.raises(Forbidden):
            promote(reviewer, example.id)
    promote(make.person("eve", "lead"), example.id)
    assert every()[0].state == "active"


@pytest.mark.parametrize("name", ["ben", "aud", "mallory"])
def test_promote_and_retire_need_the_right(make: Make, proposed: Teach, name: str) -> None:
    example = proposed("When?", "On Tuesday.")
    for verb in (promote, retire):
        with pytest.raises(Forbidden):
            verb(make.person(name), example.id)
    assert every()[0].state == "proposed"


def test_promote_refuses_a_key_with_every_scope(make: Make, project: Any, proposed: Teach) -> None:
    with pytest.raises(Forbidden):
        promote(make.backend_actor(project), proposed("When?", "On Tuesday.").id)


def test_promote_happens_once(make: Make, proposed: Teach) -> None:
    example = proposed("When?", "On Tuesday.")
    promote(make.person("cleo"), example.id)
    with pytest.raises(Conflict):
        promote(make.person("dora"), example.id)
    assert len(db.session.scalars(select(ExampleSet)).all()) == 1


def test_promote_refuses_what_cannot_be_found_and_what_is_not_there(make: Make, proposed: Teach) -> None:
    with pytest.raises(Invalid):
        promote(make.person("cleo"), proposed("?!…", "On Tuesday.").id)
    with pytest.raises(Missing):
        promote(make.person("cleo"), "exa_" + "0" * 26)


def test_promote_by_two_at_once_begins_one_set(make: Make, proposed: Teach, base: Flask) -> None:
    example = proposed("When?", "On Tuesday.").id
    leads = [make.person("cleo"), make.person("dora")]
    db.session.rollback()
    start, refused = threading.Barrier(2), []

    def run(actor: Any) -> None:
        with base.app_context():
            start.wait(10)
            try:
                promote(actor, example)
            except Refusal as word:
                refused.append(word)

    threads = [threading.Thread(target=run, args=(lead,)) for lead in leads]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert [type(word) for word in refused] == [Conflict]
    db.session.rollback()
    assert [found.number for found in db.session.scalars(select(ExampleSet))] == [1]


# --- retired, and the sets that stay ------------------------------------------------------------------


def test_retire_leaves_earlier_sets_as_they_were(make: Make, project: Any, active: Teach) -> None:
    one = active("Where is my parcel?", "At the depot.")
    two = active("How do I return it?", "Use the label.")
    before = snapshot(project, 2)
    retire(make.person("cleo"), one.id)
    assert snapshot(project, 2) == before
    assert [example["id"] for example in before["examples"]] == [one.id, two.id]
    assert [example["id"] for example in snapshot(project, 3)["examples"]] == [two.id]
    sizes = db.session.execute(select(ExampleSet.number, ExampleSet.size).order_by(ExampleSet.number)).all()
    assert [tuple(row) for row in sizes] == [(1, 1), (2, 2), (3, 1)]
    with pytest.raises(Missing):
        snapshot(project, 4)


def test_retire_of_a_proposed_example_begins_no_set(make: Make, proposed: Teach) -> None:
    example = proposed("When?", "On Tuesday.")
    retire(make.person("cleo"), example.id)
    assert every()[0].state == "retired"
    assert db.session.scalars(select(ExampleSet)).all() == []
    with pytest.raises(Conflict):
        retire(make.person("cleo"), example.id)
    with pytest.raises(Conflict):
        promote(make.person("cleo"), example.id)
