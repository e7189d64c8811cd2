"""Items that say the same: how many more wait in a queue, and which.

What is alike is worked out by the catalogue's job. Whether one of them is out already must never show: all
that wait are counted, for whatever purpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import aliased

from reviewqueue.db import db, now
from reviewqueue.models import Card, Item, Project, Queue, Review
from reviewqueue.people.access import ADJUDICATION, Actor, item_for, may
from reviewqueue.review.queues import wanted

MOST_TOLD = 100  # beyond this a row has "100+ more"
MOST = 1_000
OFFERED = timedelta(minutes=5)  # how long the others are offered after one was decided


@dataclass(frozen=True)
class Others:
    """What waits and says the same as the item that somebody decided last; a count of 101 means more."""

    item_id: str
    verdict: str
    project: str
    queue: str
    count: int


def more_like(queue: Queue, numbers: Sequence[int]) -> dict[int, int]:
    """How many others that say the same wait in `queue`, by the numbers of some items; 101 means more."""
    other = aliased(Card)
    another = exists().where(
        other.alike == Card.alike, other.due.is_not(None), other.number != Card.number
    )  # fmt: skip
    keys = db.session.execute(
        select(Card.number, Card.alike).where(Card.number.in_(numbers), Card.alike.is_not(None), another)
    ).all()
    counts: dict[int, int] = {}
    for key in {row.alike for row in keys}:
        some = _waiting(queue, key).limit(MOST_TOLD + 2).subquery()
        counts[key] = (db.session.scalar(select(func.count()).select_from(some)) or 0) - 1
    return {row.number: counts[row.alike] for row in keys if counts[row.alike] > 0}


def like(actor: Actor, queue: Queue, item_id: str) -> list[str]:
    """The ids of items that wait in `queue` and say the same as this one, itself included; at most 1,000."""
    number = item_for(actor, item_id).number
    key = db.session.scalar(select(Card.alike).where(Card.number == number))
    if key is None:
        return []
    found = select(Item.id).where(Item.number.in_(_waiting(queue, key).limit(MOST))).order_by(Item.number)
    return list(db.session.scalars(found))


def others(actor: Actor) -> Others | None:
    """What could be decided as the actor just decided one; None when nothing waits that says the same."""
    if not may(actor, "review"):
        return None
    last = db.session.execute(
        select(Review.item_id, Review.item_number, Review.verdict, Review.queue_id, Card.alike)
        .outerjoin(Card, Card.number == Review.item_number)
        .where(Review.given_by == actor.id, Review.given_at > now() - OFFERED, Review.state == "given")
        .order_by(Review.given_at.desc())
        .limit(1)
    ).first()
    if last is None or last.alike is None:
        return None
    queue = db.session.get_one(Queue, last.queue_id)
    some = _waiting(queue, last.alike).where(Card.number != last.item_number).limit(MOST_TOLD + 1).subquery()
    count = db.session.scalar(select(func.count()).select_from(some)) or 0
    if not count or queue.name == ADJUDICATION:
        return None
    project = db.session.get_one(Project, queue.project_id)
    return Others(last.item_id, last.verdict, project.name, queue.name, count)


def decided(actor: Actor, item_id: str) -> Review | None:
    """The actor's own verdict on this item, with its correction, while it stands."""
    given = select(Review).where(
        Review.item_id == item_id, Review.given_by == actor.id, Review.state == "given"
    )  # fmt: skip
    return db.session.scalars(given.order_by(Review.given_at.desc()).limit(1)).first()


def correction(actor: Actor, item_id: str) -> Any:
    """The output as the actor left it when they edited this item; None when they did not."""
    given = decided(actor, item_id)
    return given.output if given and given.verdict == "edit" else None


def _waiting(queue: Queue, key: int) -> Select[int]:
    # From the cards to the queue: a join may be read the other way round, through all that waits.
    here = exists().where(Review.item_number == Card.number, Review.queue_id == queue.id, wanted())
    return select(Card.number).where(Card.alike == key, Card.due.is_not(None), here).order_by(Card.number)
