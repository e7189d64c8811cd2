"""What somebody typed for a review that went to somebody else, handed in as a comment on the item.

Reviews are blind: a comment must never be shown while a review of its item is open.
"""

from __future__ import annotations

from sqlalchemy import select

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Invalid
from reviewqueue.ids import new_id
from reviewqueue.models import Comment, Review
from reviewqueue.people.access import Actor, require
from reviewqueue.review.claim import mine

MAX_COMMENT = 1024 * 1024  # characters, as much as a draft


def hand_in(actor: Actor, token: str, text: str) -> Comment:
    """Keep `text` as the actor's comment on the item of this claim of theirs; a second one replaces it."""
    require(actor, "review")
    if not text.strip() or len(text) > MAX_COMMENT:
        raise Invalid("Write something to hand in.", field="text")
    with transaction() as session:
        claim = mine(session, actor, token)
        comment = session.scalars(select(Comment).where(Comment.claim_token == token)).one_or_none()
        if comment is None:
            review = session.get_one(Review, claim.review_id)
            comment = Comment(
                id=new_id("com"), item_id=review.item_id, person_id=actor.id, claim_token=token,
                written_at=now(), text=text,
            )  # fmt: skip
            session.add(comment)
        comment.text, comment.written_at = text, now()
    return comment


def comments_on(item_id: str) -> list[Comment]:
    """What was handed in on an item, oldest first."""
    found = select(Comment).where(Comment.item_id == item_id).order_by(Comment.written_at, Comment.id)
    return list(db.session.scalars(found))
