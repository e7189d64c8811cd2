"""What is going on now in one project: what waits, what comes and goes, who works on what.

Read from everything and written nowhere. Who works on what comes from live leases; a sign of life within the
last half minute tells who is still there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import quantiles
from typing import Any

from sqlalchemy import func, select

from reviewqueue import background
from reviewqueue.db import db, now
from reviewqueue.models import Decision, Item, Person, Project, Queue, Review
from reviewqueue.people.access import Actor, require
from reviewqueue.review.claim import LEASE
from reviewqueue.review.queues import Line, overview, wanted

HOURS = 24
TIMED = 500  # the newest decisions whose times count
MOST_SHOWN = 100  # people at work


@dataclass(frozen=True)
class Hour:
    """One hour of arrivals and decisions."""

    begins: datetime
    arrived: int
    decided: int


@dataclass(frozen=True)
class AtWork:
    """Somebody who holds a review; `here` says whether their page is open now, None when nobody can say."""

    person: str
    queue: str
    item_id: str
    since: datetime
    seen_at: datetime  # when the lease was last renewed
    here: bool | None


@dataclass(frozen=True)
class Moment:
    """One project at this moment."""

    lines: Sequence[Line]
    hours: Sequence[Hour]
    median: float | None  # seconds from submission to a decision by people
    slowest_tenth: float | None
    timed: int
    at_work: Sequence[AtWork]


def moment_of(actor: Actor, project: Project) -> Moment:
    """What goes on in `project` now; Forbidden to who does not oversee."""
    require(actor, "insight")
    times = _times(project)
    tenths = quantiles(times, n=10, method="inclusive") if len(times) > 1 else times * 9
    return Moment(
        lines=[line for line in overview(actor) if line.project.id == project.id],
        hours=_hours(project),
        median=tenths[4] if times else None,
        slowest_tenth=tenths[8] if times else None,
        timed=len(times),
        at_work=_at_work(project),
    )


def _hours(project: Project) -> list[Hour]:
    """The last 24 hours, each begun at the full hour; the newest is not over yet."""
    newest = now().replace(minute=0, second=0, microsecond=0)
    begins = [newest - timedelta(hours=ahead) for ahead in range(HOURS - 1, -1, -1)]
    arrived = [_count(Item.created_at, Item.project_id == project.id, at) for at in begins]
    by_people = (Decision.project_id == project.id, Decision.undone_at.is_(None))
    decided = [_count(Decision.decided_at, by_people[0] & by_people[1], at) for at in begins]
    return [Hour(*three) for three in zip(begins, arrived, decided, strict=True)]


def _count(column: Any, which: Any, begins: datetime) -> int:
    span = (column >= begins, column < begins + timedelta(hours=1))
    return db.session.scalar(select(func.count()).where(which, *span)) or 0


def _times(project: Project) -> list[float]:
    rows = db.session.execute(
        select(Item.created_at, Decision.decided_at)
        .join(Item, Item.id == Decision.item_id)
        .where(
            Decision.project_id == project.id,
            Decision.undone_at.is_(None),
            Decision.source.in_(("review", "adjudication")),
        )
        .order_by(Decision.decided_at.desc())
        .limit(TIMED)
    )
    return [(decided - created).total_seconds() for created, decided in rows]


def _at_work(project: Project) -> list[AtWork]:
    moment = now()
    # Through the people, who hold few each, and not along all that waits.
    rows = db.session.execute(
        select(Review, Person.name, Queue.name.label("queue"))
        .join(Person, Person.id == Review.claimed_by)
        .join(Queue, Queue.id == Review.queue_id)
        .where(Review.project_id == project.id, Review.lease_expires_at > moment, wanted())
        .order_by(Review.claimed_at)
        .limit(MOST_SHOWN)
    ).all()
    here = background.who_is_here([row.Review.claimed_by for row in rows])
    return [
        AtWork(
            person=row.name,
            queue=row.queue,
            item_id=row.Review.item_id,
            since=row.Review.claimed_at,
            seen_at=row.Review.lease_expires_at - LEASE,
            here=None if here is None else here.get(row.Review.claimed_by) == row.Review.id,
        )
        for row in rows
    ]
