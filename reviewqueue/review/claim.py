"""Claims: who may give which review, for how long, and the draft typed meanwhile.

Choosing and taking are one UPDATE, and its token is the fence: nobody else can use it, nobody can use it
twice. A draft must never be thrown away here, whoever holds the review now.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, select, update
from sqlalchemy.orm import Session

from reviewqueue.db import db, hits, now, transaction
from reviewqueue.errors import AlreadyDecided, Conflict, Invalid, LeaseLost, Missing
from reviewqueue.models import Claim, Item, Queue, Review, Skip
from reviewqueue.people.access import Actor, item_for, people_of, require, sees, visible_queues
from reviewqueue.review.queues import held_by, wanted
from reviewqueue.review.take import SEAT, check_room, line_up, take_next, take_seat
from reviewqueue.review.verdict import clean

LEASE = timedelta(minutes=10)
HOLD = timedelta(hours=4)  # however often it is renewed
AWAY = timedelta(hours=4)  # how long a skipped review stays away from who skipped it
LONGEST_SNOOZE = timedelta(days=90)
MAX_DRAFT = 1024 * 1024  # bytes


def claim_next(actor: Actor, queue: Queue, *, offered: bool = False) -> Claim | None:
    """Give the actor the next free review of `queue`, or None when nothing is free for them.

    Choosing and taking are one UPDATE, so two people can never hold the same review. What is only `offered`
    has no lease yet: until the actor opens it (`renew`) it is kept from nobody. Conflict when they hold as
    many as they may; Missing when the queue is not theirs.
    """
    require(actor, "review")
    queue_id = queue.id
    if not sees(actor, queue):
        raise Missing("There is no such queue.")
    with transaction() as session:
        line_up(session, actor.id)
        check_room(session, actor.id)
        return take_next(session, actor.id, queue_id, timedelta(0) if offered else LEASE)


def claim_item(actor: Actor, item_id: str) -> Claim:
    """Give the actor a review of this very item, also one they skipped; the one they hold, if they do.

    Conflict says who has it, or why it is not theirs to give; AlreadyDecided when it waits for nobody.
    """
    require(actor, "review")
    item_for(actor, item_id)
    queues = _queues(actor)
    with transaction() as session:
        line_up(session, actor.id)
        mine = session.scalars(
            select(Claim)
            .join(Review, Review.claim_token == Claim.token)
            .where(Review.item_id == item_id, held_by(actor.id, now()))
        ).first()
        if mine is not None:
            return mine
        check_room(session, actor.id)
        claim = take_seat(session, actor.id, (SEAT.item_id == item_id, SEAT.queue_id.in_(queues)), LEASE)
        if claim is None:
            raise _not_free(session, actor, item_id, queues)
        return claim


def open_claim(actor: Actor, token: str) -> tuple[Claim, Review, Item]:
    """The actor's own claim with its review and item, live or not; Missing for anybody else's."""
    claim = mine(db.session(), actor, token)
    review = db.session.get_one(Review, claim.review_id)
    item = db.session.scalars(select(Item).where(Item.id == review.item_id)).one()
    return claim, review, item


def renew(actor: Actor, token: str, draft: Mapping[str, str] | None = None) -> datetime:
    """Extend the lease by ten minutes, never beyond four hours of holding, and keep the draft.

    Returns when the lease ends. The draft is kept also when the claim is lost: then LeaseLost says to
    whom. A lease that lapsed without anybody taking the review comes back to life.
    """
    require(actor, "review")
    check_draft(draft)
    with transaction() as session:
        claim = mine(session, actor, token)
        until = min(now() + LEASE, claim.claimed_at + HOLD)
        kept = session.execute(
            update(Review)
            .where(Review.id == claim.review_id, Review.claim_token == token, wanted())
            .values(lease_expires_at=until)
        )
        keep_draft(session, token, draft)
        lost = None if hits(kept) == 1 else why_lost(session, actor, claim)
    if lost:
        raise LeaseLost(lost)
    return until


def release(actor: Actor, token: str) -> None:
    """Give the review back to its queue; nothing happens when the claim was lost already."""
    require(actor, "review")
    with transaction() as session:
        give_up(session, mine(session, actor, token), "released")


def skip(actor: Actor, token: str, reason: str | None = None, until: datetime | None = None) -> None:
    """Give the review back and do not be offered it again before `until` (four hours, when not told).

    Raises LeaseLost when it is not the actor's to skip any more.
    """
    require(actor, "review")
    moment = now()
    remark = clean(reason, "reason")
    until = until or moment + AWAY
    if not moment < until <= moment + LONGEST_SNOOZE:
        raise Invalid("Choose a time within the next 90 days.", field="until")
    with transaction() as session:
        claim = mine(session, actor, token)
        if not give_up(session, claim, "skipped", remark):
            raise LeaseLost(why_lost(session, actor, claim))
        keep_away(session, claim.review_id, actor.id, until)


def mine(session: Session, actor: Actor, token: str) -> Claim:
    """The actor's claim with this token; Missing otherwise."""
    claim = session.get(Claim, token)
    if claim is None or claim.person_id != actor.id:
        raise Missing("There is no such claim.")
    return claim


def give_up(session: Session, claim: Claim, ended: str, remark: str | None = None, **moved: Any) -> bool:
    """End a claim in the caller's transaction; returns whether it was still the one in force.

    The review becomes free, with the columns `moved` set.
    """
    freed = session.execute(
        update(Review)
        .where(Review.id == claim.review_id, Review.claim_token == claim.token, wanted())
        .values(claimed_by=None, claim_token=None, claimed_at=None, lease_expires_at=None, **moved)
    )
    end_claims(session, Claim.token == claim.token, ended, remark)
    return hits(freed) == 1


def end_claims(session: Session, which: ColumnElement[bool], ended: str, remark: str | None = None) -> None:
    """Write into the claims `which` that are still open how they ended."""
    session.execute(
        update(Claim)
        .where(which, Claim.ended_at.is_(None))
        .values(ended_at=now(), ended=ended, remark=remark)
        .execution_options(synchronize_session=False)
    )


def keep_away(session: Session, review_id: str, person_id: str, until: datetime) -> None:
    """Do not offer the review to this person before `until`, in the caller's transaction."""
    session.merge(Skip(review_id=review_id, person_id=person_id, until=until))


def keep_draft(session: Session, token: str, draft: Mapping[str, str] | None) -> None:
    """Keep what was typed with its claim, whatever became of the claim; None leaves what is there."""
    if draft is not None:
        session.execute(update(Claim).where(Claim.token == token).values(draft=dict(draft), draft_at=now()))


def check_draft(draft: Mapping[str, str] | None) -> None:
    """Invalid when a draft is larger than 1 MiB; it can hold nothing but text."""
    if draft and sum(len(name.encode()) + len(text.encode()) for name, text in draft.items()) > MAX_DRAFT:
        raise Invalid("A draft can hold 1 MiB at most.", "too_large", field="output")


def why_lost(session: Session, actor: Actor, claim: Claim) -> str:
    """Why a claim is no longer in force, in words for its former holder."""
    review = session.get_one(Review, claim.review_id, populate_existing=True)
    names = people_of([review.claimed_by, review.given_by])
    if review.state == "given":
        return f"{names.get(review.given_by or '', 'Somebody')} has given this review meanwhile."
    if review.state == "cancelled":
        item = session.scalars(select(Item).where(Item.id == review.item_id)).one()
        return f"This review is not wanted any more: the item is {item.status}."
    if review.state == "undone":
        return "This verdict was taken back; go on with the newer claim."
    if review.claimed_by is None:
        return "You gave this review back; claim it again to go on."
    if review.claimed_by == actor.id:
        return "You claimed this review again elsewhere; go on there."
    return f"{names.get(review.claimed_by, 'Somebody')} has taken this review over."


def _queues(actor: Actor) -> set[str]:
    return {queue.id for queue in visible_queues(actor)}


def _not_free(session: Session, actor: Actor, item_id: str, queues: set[str]) -> Conflict:
    """Why no review of the item could be taken, in words for who asked."""
    seats = session.scalars(select(Review).where(Review.item_id == item_id, wanted())).all()
    seats_here = [seat for seat in seats if seat.queue_id in queues]
    if not seats:
        return AlreadyDecided("Nobody's review of this item is wanted any more.")
    if not seats_here:
        return Conflict("This item waits in a queue that is not yours.", "other_queue")
    moment = now()
    held = {seat.claimed_by: seat.lease_expires_at for seat in seats_here if not _is_free(seat, moment)}
    if len(held) < len(seats_here):
        return Conflict("Somebody else must review this item: you have decided on it.", "same_person")
    who = " and ".join(sorted(people_of(held).values()))
    until = max(end for end in held.values() if end is not None)
    return Conflict(f"{who} has this item until {until:%H:%M} UTC.", "taken")


def _is_free(seat: Review, moment: datetime) -> bool:
    return seat.lease_expires_at is None or seat.lease_expires_at <= moment
