"""Items that say the same: how many more wait in a queue, and which.

What is alike is worked out by the catalogue's job. Whether one of them is out already must never show: all
that wait are counted, for whatever purpose.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Select, exists, func, select
from sqlalchemy.orm import aliased

from reviewqueue.db import db
from reviewqueue.models import Card, Item, Queue, Review
from reviewqueue.people.access import Actor, item_for
from reviewqueue.review.queues import wanted

MOST_TOLD = 100  # beyond this a row has "100+ more"
MOST = 1_000


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


def _waiting(queue: Queue, key: int) -> Select[int]:
    return (
        select(Card.number)
        .join(Review, Review.item_number == Card.number)
        .where(Card.alike == key, Card.due.is_not(None), Review.queue_id == queue.id, wanted())
        .order_by(Card.number)
        .distinct()
    )
