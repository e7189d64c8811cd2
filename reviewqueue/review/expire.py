"""Time passes: overdue items go as their policies say for that, and are told as such.

A timeout is never a human verdict, and must never cut the lease of somebody at work.
"""

from __future__ import annotations

from sqlalchemy import select, tuple_
from sqlalchemy.orm import aliased

from reviewqueue.db import db, now, transaction
from reviewqueue.models import Item, Policy, Review
from reviewqueue.people.access import SYSTEM
from reviewqueue.review.queues import free, wanted
from reviewqueue.review.settle import cancel_reviews, conclude, lock_item, policy_of
from reviewqueue.review.verdict import Verdict

BATCH = 100


def expire_due() -> int:
    """Let overdue items go as their policies say for that; returns how many. Nobody's live lease is cut.

    A policy that says `wait` lets nothing expire.
    """
    expired = 0
    while chosen := _overdue():
        done = sum(_expire(item_id) for item_id in chosen)
        expired += done
        if not done:
            break
    return expired


def expiry_due() -> bool:
    """Whether an item could expire now."""
    return bool(_overdue(1))


def _overdue(limit: int = BATCH) -> list[str]:
    """Ids of items with an overdue review, nobody at work on any of them, and a policy that lets them go."""
    session, moment = db.session(), now()
    letting_go = [
        (policy.project_id, policy.version)
        for policy in session.scalars(select(Policy))
        if policy.body["on_timeout"] != "wait"
    ]
    at_work = aliased(Review)
    busy = select(at_work.id).where(
        at_work.item_id == Review.item_id, wanted(at_work), ~free(moment, at_work)
    )
    found = session.scalars(
        select(Review.item_id)
        .join(Item, Item.number == Review.item_number)
        .where(
            wanted(),
            Review.due_at <= moment,
            Item.status == "pending",
            tuple_(Item.project_id, Item.policy_version).in_(letting_go),
            ~busy.exists(),
        )
        .order_by(Review.due_at)
        .limit(limit)
    ).all()
    return list(dict.fromkeys(found))


def _expire(item_id: str) -> bool:
    """Let one item go, unless somebody claimed or decided it since it was found overdue."""
    with transaction() as session:
        item = lock_item(item_id)
        seats = session.scalars(
            select(Review).where(Review.item_id == item_id, wanted()).with_for_update(key_share=True)
        ).all()
        moment = now()
        at_work = any(seat.lease_expires_at and seat.lease_expires_at > moment for seat in seats)
        if item.status != "pending" or at_work or not any(seat.due_at <= moment for seat in seats):
            return False
        cancel_reviews(item_id)
        outcome = policy_of(item).on_timeout
        conclude(
            item,
            Verdict(None),
            SYSTEM,
            source="timeout",
            event="item.expired",
            released=outcome == "release",
        )
        return True
