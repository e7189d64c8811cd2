"""Examples are proposed by decisions and promoted by somebody else; each change makes a new set.

Nothing an author corrected reaches a prompt before a second person has promoted it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from reviewqueue.db import db, dumps, hits, joined, now, transaction
from reviewqueue.errors import Conflict, Forbidden, Invalid, Missing
from reviewqueue.examples import search
from reviewqueue.ids import new_id
from reviewqueue.ledger.record import record
from reviewqueue.models import Decision, Example, ExampleSet, Item, Project, Review
from reviewqueue.people.access import Actor, require
from reviewqueue.text import as_text, words


def propose(item: Item, decision: Decision) -> Example | None:
    """Propose an example in the caller's transaction, when the decision is one that teaches.

    An edit teaches what to say instead, a reject with a reason what not to say; an item without input
    teaches nothing, since there is nothing to find it by.
    """
    teaches = decision.verdict == "edit" or (decision.verdict == "reject" and decision.reason is not None)
    if not teaches or item.input is None or item.output is None:
        return None
    asked = as_text(item.input)
    example = Example(
        id=new_id("exa"),
        project_id=item.project_id,
        decision_id=decision.id,
        item_id=item.id,
        state="proposed",
        input=item.input,
        input_text=asked,
        input_sha256=fingerprint(asked),
        output=decision.output,
        rejected_output=item.output,
        reason=decision.reason,
        author_id=decision.decided_by,
        created_at=decision.decided_at,
    )
    joined().add(example)
    return example


def withdraw(decision_id: str, actor_id: str) -> None:
    """Take back what an undone or superseded decision taught, in the caller's transaction."""
    session = joined()
    example = session.scalars(select(Example).where(Example.decision_id == decision_id)).one_or_none()
    if example is not None and example.state != "retired":
        _retire(session, example, actor_id)


def restore(decision_id: str, since: datetime, actor_id: str) -> None:
    """Propose again what was withdrawn at `since` or later, in the caller's transaction: its decision is in
    force again. One that was in a set stays retired, since what sets hold is written once."""
    session = joined()
    example = session.scalars(select(Example).where(Example.decision_id == decision_id)).one_or_none()
    if example is None or example.retired_at is None or example.retired_at < since or example.first_set:
        return
    example.state, example.retired_by, example.retired_at = "proposed", None, None
    _note(example, "proposed", None, actor_id)


def promote(actor: Actor, example_id: str) -> Example:
    """Make a proposed example active, in a new set of its project.

    Raises Forbidden when the actor is its author, Conflict when it is not proposed any more.
    """
    require(actor, "promote")
    with transaction() as session:
        example = _get(session, example_id)
        if has_say(actor, example):
            raise Forbidden("Somebody else than the author must promote an example.", "own_example")
        if not words(example.input_text):
            raise Invalid("The input of this example has no words it could be found by.", field="input")
        number = _next_set(session, example.project_id, +1, actor.id)
        won = session.execute(
            update(Example)
            .where(Example.id == example_id, Example.state == "proposed")
            .values(state="active", promoted_by=actor.id, promoted_at=now(), first_set=number)
        )
        if hits(won) != 1:
            raise Conflict("This example is not proposed any more.", "not_proposed")
        search.add(scope(example.project_id), example.id, example.input_text)
        _note(example, "promoted", number, actor.id)
    return example


def has_say(actor: Actor, example: Example) -> bool:
    """Whether the example is the actor's own work: they decided, or gave one of the item's reviews."""
    return example.id in own_work(actor, [example])


def own_work(actor: Actor, examples: Sequence[Example]) -> set[str]:
    """The ids of those of `examples` that the actor has a say in, and may not promote."""
    given = select(Review.item_id).where(
        Review.item_id.in_([example.item_id for example in examples]),
        Review.state == "given",
        Review.given_by == actor.id,
    )
    items = set(db.session.scalars(given))
    return {each.id for each in examples if each.author_id == actor.id or each.item_id in items}


def retire(actor: Actor, example_id: str) -> Example:
    """Take an example out of the sets to come; the sets it was in stay as they are."""
    require(actor, "promote")
    with transaction() as session:
        example = _get(session, example_id)
        if example.state == "retired":
            raise Conflict("This example is retired already.", "already_retired")
        _retire(session, example, actor.id)
    return example


def scope(project_id: str) -> str:
    """Where the search index keeps a project's active examples."""
    return f"example:{project_id}"


def fingerprint(asked: str) -> str:
    """SHA-256 over the words of an input: equal for inputs that differ in case, accents or spacing alone."""
    return hashlib.sha256(" ".join(words(asked)).encode()).hexdigest()


def _get(session: Session, example_id: str) -> Example:
    example = session.get(Example, example_id, with_for_update=True)
    if example is None:
        raise Missing("There is no such example.")
    return example


def _retire(session: Session, example: Example, actor_id: str) -> None:
    number = None
    if example.state == "active":
        number = _next_set(session, example.project_id, -1, actor_id)
        example.last_set = number - 1
        search.remove(scope(example.project_id), example.id)
    example.state = "retired"
    example.retired_by = actor_id if actor_id.startswith("usr_") else None
    example.retired_at = now()
    _note(example, "retired", number, actor_id)


def _next_set(session: Session, project_id: str, change: int, actor_id: str) -> int:
    """Start the project's next set; the project's row is the lock that keeps numbers without gaps."""
    number: int = session.execute(
        update(Project)
        .where(Project.id == project_id)
        .values(example_set=Project.example_set + 1)
        .returning(Project.example_set)
    ).scalar_one()
    before = session.scalars(
        select(ExampleSet.size).where(ExampleSet.project_id == project_id, ExampleSet.number == number - 1)
    ).one_or_none()
    session.add(
        ExampleSet(
            id=new_id("set"),
            project_id=project_id,
            number=number,
            size=(before or 0) + change,
            created_at=now(),
            created_by=actor_id,
        )
    )
    return number


def _note(example: Example, change: str, number: int | None, actor_id: str) -> None:
    record(
        "example",
        {"change": change, "example": example.id, "decision": example.decision_id, "set": number},
        parts={"in": example.input_text, "out": dumps(example.output)},
        item_id=example.item_id,
        project_id=example.project_id,
        actor=actor_id,
    )
