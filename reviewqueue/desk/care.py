"""What spares the people who review: harmful texts folded, a budget of their own, a break suggested.

Nothing here decides for anybody. Must never hold a review back, count against somebody or tell others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from reviewqueue.content.harm import categories_of
from reviewqueue.db import db, now
from reviewqueue.models import Item, Review
from reviewqueue.people.access import Actor
from reviewqueue.people.wishes import Wishes

DAY = timedelta(hours=24)
STRETCH = timedelta(minutes=50)  # of reviewing after which a break is suggested
PAUSE = timedelta(minutes=8)  # between two reviews: that was a break
LOOKED_AT = 400  # reviews; more than anybody gives in a stretch


@dataclass(frozen=True)
class Care:
    """What the review page says about care; `folded` names why content is folded, empty when it is not."""

    folded: tuple[str, ...]
    reached: int | None  # the budget, once that many were given in 24 hours
    minutes: int | None  # how long the stretch is already, once a break would do good


def care(actor: Actor, wishes: Wishes, item: Item | None = None) -> Care:
    """What this person should be spared or told, for this item or on the desk."""
    folded = categories_of(item.risk_flags) if item is not None else []
    if item is not None and not folded and wishes.protection == "all":
        folded = ["your own wish"]
    return Care(tuple(folded), _reached(actor, wishes), _stretch(actor))


def _reached(actor: Actor, wishes: Wishes) -> int | None:
    if wishes.daily is None:
        return None
    given = select(func.count()).where(Review.given_by == actor.id, Review.given_at > now() - DAY)
    return wishes.daily if (db.session.scalar(given) or 0) >= wishes.daily else None


def _stretch(actor: Actor) -> int | None:
    """The minutes since the last pause, when they are so many that a break is due."""
    moment = now()
    times = db.session.scalars(
        select(Review.given_at)
        .where(Review.given_by == actor.id, Review.given_at > moment - 4 * STRETCH)
        .order_by(Review.given_at.desc())
        .limit(LOOKED_AT)
    )
    begun: datetime = moment
    for given in times:
        if given is None or begun - given > PAUSE:
            break
        begun = given
    return int((moment - begun).total_seconds() // 60) if moment - begun >= STRETCH else None
