"""What a reviewer gets next: passing by what they want left out, and claimed a little ahead of being seen.

What is claimed ahead has a short lease and was not seen: its own lease and clock begin when it is opened.
Must never keep a review from others for longer than that short lease when nobody opens it.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta

from sqlalchemy import select, update

from reviewqueue.content.harm import categories_of
from reviewqueue.db import db, now, transaction
from reviewqueue.models import Claim, Item, Queue, Review
from reviewqueue.people.access import Actor, require
from reviewqueue.review.claim import LEASE, claim_next, give_up, keep_away, mine
from reviewqueue.review.queues import held_by, wanted

AHEAD = timedelta(seconds=30)
PASSED = timedelta(hours=24)  # how long what is left out stays away from who wants that
MOST_PASSED = 50  # at once


def next_claim(
    actor: Actor, queue: Queue, leave_out: Collection[str] = (), *, offered: bool = False
) -> Claim | None:
    """`claim_next`, but for items flagged with a category in `leave_out`: those go back at once, untold."""
    for _ in range(MOST_PASSED):
        claim = claim_next(actor, queue, offered=offered)
        if claim is None or not leave_out or not set(leave_out) & set(categories_of(_flags(claim))):
            return claim
        _pass_by(actor, claim.token)
    return None


def claim_ahead(actor: Actor, queue: Queue, leave_out: Collection[str] = ()) -> Claim | None:
    """The next review under a short lease, for a page that is fetched before it is wanted; or None."""
    claim = next_claim(actor, queue, leave_out, offered=True)
    if claim is None or not _lease(actor, claim.token, AHEAD):
        return None
    return claim


def begin(actor: Actor, token: str) -> bool:
    """Open what was claimed ahead: lease and clock begin now.

    False when somebody else took it meanwhile, or when it was opened already, in another tab.
    """
    require(actor, "review")
    return _lease(actor, token, LEASE, opened=True)


def unopened(actor: Actor, queue_id: str) -> str | None:
    """The token of what the actor claimed ahead in this queue and has not opened."""
    held = db.session.scalars(select(Review).where(held_by(actor.id, now()), Review.queue_id == queue_id))
    return next((review.claim_token for review in held if _ahead(review)), None)


def leave_unopened(actor: Actor, token: str) -> None:
    """Give back what was claimed ahead; nothing happens to what was opened meanwhile."""
    require(actor, "review")
    with transaction() as session:
        claim = mine(session, actor, token)
        if _ahead(session.get_one(Review, claim.review_id, with_for_update=True)):
            give_up(session, claim, "released")


def _ahead(review: Review) -> bool:
    begun, until = review.claimed_at, review.lease_expires_at
    return begun is not None and until is not None and until <= begun + 2 * AHEAD


def _lease(actor: Actor, token: str, lease: timedelta, opened: bool = False) -> bool:
    with transaction() as session:
        moment = now()
        mine_still = (Review.claim_token == token, Review.claimed_by == actor.id, wanted())
        review = session.scalars(select(Review).where(*mine_still).with_for_update()).one_or_none()
        if review is None or not _ahead(review):
            return False
        review.lease_expires_at = moment + lease
        if opened:
            review.claimed_at = moment
            session.execute(update(Claim).where(Claim.token == token).values(claimed_at=moment))
    return True


def _flags(claim: Claim) -> list[object]:
    number = db.session.get_one(Review, claim.review_id).item_number
    return db.session.get_one(Item, number).risk_flags or []


def _pass_by(actor: Actor, token: str) -> None:
    """Give it back and keep it away from this person; the claim reads as given back, nothing more."""
    with transaction() as session:
        claim = mine(session, actor, token)
        give_up(session, claim, "released")
        keep_away(session, claim.review_id, actor.id, now() + PASSED)
