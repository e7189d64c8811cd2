"""What waits where, who holds it, and what became of it: reads only.

Every list reads an index in its own order and stops. A row must never tell a control review from any
other: reviewers who know that an output is out already approve more.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    case,
    func,
    literal_column,
    or_,
    select,
    tuple_,
)
from sqlalchemy.orm import aliased

from reviewqueue.db import db, dumps, now, stamp
from reviewqueue.errors import Invalid
from reviewqueue.models import Claim, Item, Person, Project, Queue, Review
from reviewqueue.models.review import PRIORITIES
from reviewqueue.people.access import Actor, people_of, queue_for, require, visible_queues

COUNTED = 10_000  # beyond this a queue has "10,000+"
PAGE = 50
RANKS = {rank: name for name, rank in PRIORITIES.items()}
SORTS = ("queue", "newest")

# What is told by name. Thresholds, a missing confidence and the lot are one to reviewers, and so is a rule
# that released the output: naming any of these would tell which outputs are out already.
_TOLD = ("rule:", "rule_error", "paused")
CHOSEN = {"code": "policy", "message": "chosen by the project's policy"}


def wanted(review: Any = Review) -> ColumnElement[bool]:
    """Reviews still to be given. A literal, because a partial index is not used for a parameter."""
    # `review` may be an alias, so what it compares to has no type.
    return review.state == literal_column("'wanted'")  # type: ignore[no-any-return]


def free(moment: Any, review: Any = Review) -> ColumnElement[bool]:
    """Reviews that nobody holds at `moment`: never claimed, given back, or with a lease that ran out."""
    return or_(review.lease_expires_at.is_(None), review.lease_expires_at <= moment)


def held_by(person_id: Any, moment: Any) -> ColumnElement[bool]:
    """Reviews the person holds at `moment`."""
    return and_(wanted(), Review.claimed_by == person_id, Review.lease_expires_at > moment)


def queue_order(review: Any = Review) -> tuple[Any, ...]:
    """Priority, then due time, then age: the columns of the index `ix_review_waiting`."""
    return review.rank, review.due_at, review.item_number, review.id


def reasons_told(item: Item) -> list[dict[str, str]]:
    """Why the item is here, as far as a reviewer may know: rules that asked for it, the rest as one."""
    told = [reason for reason in item.route_reasons if reason["code"].startswith(_TOLD)]
    return told if told and item.route == "review" else [CHOSEN]


@dataclass(frozen=True)
class Line:
    """One queue on the desk. Counts stop at COUNTED; `oldest` tells since when the first item waits."""

    queue: Queue
    project: Project
    waiting: int  # free to claim
    held: int  # by somebody
    mine: int
    overdue: int
    oldest: datetime | None
    more: bool  # there are more than were counted


@dataclass(frozen=True)
class Filters:
    """What a list of a queue is narrowed to; `age` and `overdue` in whole hours and yes or no."""

    priority: str | None = None
    age: int | None = None  # waiting for at least so many hours
    overdue: bool = False
    claimed: bool | None = None
    only: Sequence[ColumnElement[bool]] = ()  # what else must hold of Review, such as `finding.find.within`


@dataclass(frozen=True)
class Row:
    """One review in a list, with as much of its item as a reviewer may see before claiming it."""

    review_id: str
    item: Item
    priority: str
    due_at: datetime
    overdue: bool
    waiting_since: datetime
    reasons: list[dict[str, str]]
    holder: str | None  # a name
    mine: bool
    token: str | None  # of the reader's own live claim
    hidden: bool  # hints found characters that cannot be seen


@dataclass(frozen=True)
class Page:
    """Rows of a list and the cursor of the next page, None on the last."""

    rows: list[Row]
    next_cursor: str | None


@dataclass(frozen=True)
class Turn:
    """One claim in a review's history."""

    person: str
    claimed_at: datetime
    ended_at: datetime | None
    ended: str | None
    remark: str | None


def overview(actor: Actor) -> list[Line]:
    """The actor's queues, by project and name, with what waits in each."""
    require(actor, "read_items")
    moment = now()
    queues = visible_queues(actor)
    projects = {
        project.id: project
        for project in db.session.scalars(
            select(Project).where(Project.id.in_({queue.project_id for queue in queues}))
        )
    }
    held = db.session.execute(
        select(Review.queue_id, Review.claimed_by).where(_held(moment), wanted())
    ).all()  # fmt: skip
    taken = Counter(row.queue_id for row in held)
    mine = Counter(row.queue_id for row in held if row.claimed_by == actor.id)
    lines = [
        _line(queue, projects[queue.project_id], taken[queue.id], mine[queue.id], moment) for queue in queues
    ]
    return sorted(lines, key=lambda line: (line.project.name, line.queue.name != "main", line.queue.name))


def page(
    actor: Actor,
    project_name: str,
    queue_name: str,
    filters: Filters | None = None,
    *,
    sort: str = "queue",
    cursor: str | None = None,
    limit: int = PAGE,
) -> Page:
    """One page of the reviews waiting in a queue; Missing when it is not theirs to look into.

    `sort` is `queue` (the order in which claims are given) or `newest`; Invalid names a bad filter.
    """
    moment = now()
    queue = queue_for(actor, project_name, queue_name, "read_items")
    if sort not in SORTS:
        raise Invalid("Sort by queue or newest.", field="sort")
    query = _listed(queue, filters or Filters(), moment)
    keys = queue_order() if sort == "queue" else (Review.item_number, Review.id)
    after = _opened(cursor, sort)
    if sort == "queue":
        query = query.order_by(*keys)
        query = query.where(tuple_(*keys) > tuple_(*after)) if after else query
    else:
        query = query.order_by(*(key.desc() for key in keys))
        query = query.where(tuple_(*keys) < tuple_(*after)) if after else query
    found = db.session.execute(query.limit(limit + 1)).all()
    names = people_of(review.claimed_by for review, _ in found[:limit])
    rows = [_row(actor, review, item, moment, names) for review, item in found[:limit]]
    return Page(rows, _sealed(found[limit - 1][0], sort) if len(found) > limit else None)


def matching(actor: Actor, project_name: str, queue_name: str, filters: Filters, most: int) -> int:
    """How many reviews wait in a queue that `filters` leave, at most `most`."""
    queue = queue_for(actor, project_name, queue_name, "read_items")
    some = _listed(queue, filters, now()).with_only_columns(Review.id).limit(most).subquery()
    return db.session.scalar(select(func.count()).select_from(some)) or 0


def _listed(queue: Queue, filters: Filters, moment: datetime) -> Select[Review, Item]:
    return (
        select(Review, Item)
        .join(Item, Item.number == Review.item_number)
        .where(Review.queue_id == queue.id, wanted(), *_narrowed(filters, moment))
    )


def holding(actor: Actor) -> list[Row]:
    """What the actor holds now, longest held first."""
    moment = now()
    found = db.session.execute(
        select(Review, Item)
        .join(Item, Item.number == Review.item_number)
        .where(held_by(actor.id, moment))
        .order_by(Review.claimed_at)
    )
    return [_row(actor, review, item, moment, {}) for review, item in found]


def history(review_id: str) -> list[Turn]:
    """Who held this review and how it went on, with what they wrote when skipping or escalating."""
    claims = db.session.scalars(
        select(Claim).where(Claim.review_id == review_id).order_by(Claim.fence, Claim.claimed_at)
    ).all()
    names = people_of(claim.person_id for claim in claims)
    return [
        Turn(names.get(c.person_id, c.person_id), c.claimed_at, c.ended_at, c.ended, c.remark) for c in claims
    ]


def _line(queue: Queue, project: Project, held: int, mine: int, moment: datetime) -> Line:
    waiting = (Review.queue_id == queue.id, wanted())
    # Each reads an index alone, and never the reviews themselves.
    first = select(Review.due_at).where(*waiting).order_by(*queue_order()).limit(COUNTED + 1).subquery()
    late = case((first.c.due_at <= moment, 1), else_=0)
    count, overdue = db.session.execute(select(func.count(), func.coalesce(func.sum(late), 0))).one()
    eldest = select(Review.created_at).where(*waiting).order_by(Review.item_number, Review.id).limit(1)
    oldest = db.session.scalar(eldest)
    more, shown = count > COUNTED, min(count, COUNTED)
    return Line(queue, project, max(0, shown - held), held, mine, overdue, oldest, more)


def _row(actor: Actor, review: Review, item: Item, moment: datetime, names: dict[str, str]) -> Row:
    live = review.lease_expires_at is not None and review.lease_expires_at > moment
    mine = live and review.claimed_by == actor.id
    return Row(
        review_id=review.id,
        item=item,
        priority=RANKS[review.rank],
        due_at=review.due_at,
        overdue=review.due_at <= moment,
        waiting_since=review.created_at,
        reasons=reasons_told(item),
        holder=names.get(review.claimed_by or "") if live else None,
        mine=mine,
        token=review.claim_token if mine else None,
        hidden=bool((review.hints or {}).get("hidden")),
    )


def _narrowed(filters: Filters, moment: datetime) -> list[ColumnElement[bool]]:
    only: list[ColumnElement[bool]] = []
    if filters.priority is not None:
        if filters.priority not in PRIORITIES:
            raise Invalid(f"Priority is one of {', '.join(PRIORITIES)}.", field="priority")
        only.append(Review.rank == PRIORITIES[filters.priority])
    if filters.age is not None:
        if not 0 <= filters.age <= 100_000:
            raise Invalid("Age is a number of hours.", field="age")
        only.append(Review.created_at <= moment - timedelta(hours=filters.age))
    if filters.overdue:
        only.append(Review.due_at <= moment)
    if filters.claimed is not None:
        only.append(_held(moment) if filters.claimed else free(moment))
    return [*only, *filters.only]


def _held(moment: datetime) -> ColumnElement[bool]:
    """Reviews that somebody holds: few, and found through their holders rather than along the queue."""
    other = aliased(Review)
    held = (other.claimed_by.in_(select(Person.id)), other.lease_expires_at > moment)
    return Review.id.in_(select(other.id).where(*held))


def _sealed(review: Review, sort: str) -> str:
    place: list[Any] = [review.item_number, review.id]
    if sort == "queue":
        place = [review.rank, stamp(review.due_at), *place]
    return base64.urlsafe_b64encode(dumps([sort, *place]).encode()).decode().rstrip("=")


def _opened(cursor: str | None, sort: str) -> tuple[Any, ...]:
    if not cursor:
        return ()
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if place[0] != sort or not isinstance(place[-2], int) or not isinstance(place[-1], str):
            raise ValueError
        if sort == "newest":
            return (int(place[1]), str(place[2]))
        return (int(place[1]), datetime.fromisoformat(place[2]), int(place[3]), str(place[4]))
    except (ValueError, TypeError, IndexError, KeyError, AttributeError, binascii.Error, RecursionError):
        raise Invalid("This page does not exist; begin at the first.", field="cursor") from None
