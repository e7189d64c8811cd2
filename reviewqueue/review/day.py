"""What one person did lately, for their own eyes: it is shown to nobody else.

Reads only. Must never rank people, nor tell of others' verdicts on what is still open.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from statistics import median

from sqlalchemy import func, select

from reviewqueue.db import db, now
from reviewqueue.models import Decision, Review
from reviewqueue.people.access import Actor

DAY = timedelta(hours=24)
LOOKED_BACK = timedelta(days=30)  # how old a decision may be that was overturned today
TIMED = 2_000  # the newest verdicts whose times count


@dataclass(frozen=True)
class Day:
    """The last 24 hours of one person."""

    decided: int
    seconds: float | None  # median from claim to verdict
    undone: int  # taken back by themselves
    overturned: int  # decisions of theirs that somebody else reversed meanwhile


def day_of(actor: Actor) -> Day:
    """The actor's own last 24 hours."""
    since = now() - DAY
    mine = (Review.given_by == actor.id, Review.given_at >= since)
    states: dict[str, int] = dict(
        db.session.execute(select(Review.state, func.count()).where(*mine).group_by(Review.state)).all()
    )
    timed = select(Review.dwell_ms).where(*mine, Review.state == "given")
    newest = db.session.scalars(timed.order_by(Review.given_at.desc()).limit(TIMED))
    times = [time for time in newest if time is not None]
    overturned = db.session.scalar(
        select(func.count()).where(
            Decision.decided_by == actor.id,
            Decision.decided_at >= since - LOOKED_BACK,
            Decision.superseded_at >= since,
        )
    )
    return Day(
        decided=states.get("given", 0),
        seconds=median(times) / 1000 if times else None,
        undone=states.get("undone", 0),
        overturned=overturned or 0,
    )
