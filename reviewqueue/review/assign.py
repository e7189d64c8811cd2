"""A lead gives a review to somebody by name, or takes it over.

The same guarded write as any claim, and its token fences whoever had it. Must never give one person two
seats of an item, nor take a draft away.
"""

from __future__ import annotations

from sqlalchemy import func, or_, select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Conflict, Invalid
from reviewqueue.ids import new_token
from reviewqueue.models import Claim, Person, Queue, QueueAccess, Review
from reviewqueue.people.access import ADJUDICATION, Actor, actor_of, item_for, may, require, visible_queues
from reviewqueue.review.claim import HOLD, end_claims
from reviewqueue.review.queues import held_by, wanted
from reviewqueue.review.take import MOST_HELD, add_claim, gave


def assign(actor: Actor, item_id: str, person_id: str) -> Claim:
    """Let this person hold the item's review for up to four hours, whoever has it now.

    Of several seats it is the one the actor holds, else a free one, else the one held. Invalid when the
    person cannot review it, Conflict when nothing of it is wanted or their hands are full.
    """
    require(actor, "assign")
    item_for(actor, item_id)
    with transaction() as session:
        person = session.scalars(
            select(Person).where(Person.id == person_id).with_for_update(key_share=True)
        ).one_or_none()
        if person is None:
            raise Invalid("Choose a person.", field="person")
        if not person.active or not may(actor_of(person), "review"):
            raise Invalid(f"{person.name} does not review.", field="person")
        queues = {queue.id for queue in visible_queues(actor_of(person))}
        moment = now()
        seats = session.scalars(
            select(Review)
            .where(Review.item_id == item_id, wanted(), Review.queue_id.in_(queues), ~gave(person_id, Review))
            .order_by(Review.claimed_by != actor.id, Review.lease_expires_at, Review.seat)
        ).all()
        held = session.scalars(select(Review.item_id).where(held_by(person_id, moment))).all()
        if not seats or item_id in held:
            raise Conflict(f"Nothing of this item is free for {person.name}.", "not_free")
        if len(held) >= MOST_HELD:
            raise Conflict(f"{person.name} holds {len(held)} items already.", "holding_enough")
        seat, token = seats[0], new_token()
        review = session.scalars(
            update(Review)
            .where(Review.id == seat.id, wanted(), Review.fence == seat.fence)
            .values(claimed_by=person_id, claim_token=token, fence=Review.fence + 1, claimed_at=moment,
                    lease_expires_at=moment + HOLD)
            .returning(Review)
            .execution_options(synchronize_session=False, populate_existing=True)
        ).one_or_none()  # fmt: skip
        if review is None:
            raise Conflict("Somebody was there first; look again.", "taken")
        end_claims(session, Claim.review_id == review.id, "taken")
        drafts = select(Claim.draft).where(Claim.review_id == review.id, Claim.person_id == person_id)
        mine = drafts.where(Claim.draft_at.is_not(None)).order_by(Claim.fence.desc()).limit(1)
        return add_claim(session, review, session.scalars(mine).first())


def candidates(actor: Actor, queue: Queue) -> list[tuple[str, str]]:
    """Who can be given a review of this queue: id and name, by name; nobody for who may not assign."""
    if not may(actor, "assign"):
        return []
    granted = select(QueueAccess.person_id).where(QueueAccess.queue_id == queue.id)
    people = db.session.scalars(
        select(Person)
        .where(Person.active, or_(Person.every_queue, Person.id.in_(granted)))
        .order_by(func.lower(Person.name))
    )
    asked = "adjudicate" if queue.name == ADJUDICATION else "review"
    return [(one.id, one.name) for one in people if may(actor_of(one), asked)]
