"""The figures of one project over one period, as they are: counts, and plain shares of them.

A share always comes with what it is a share of. Nothing here is a guarantee, and what nobody reviewed is
never counted as right.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any

from sqlalchemy import ColumnElement, Select, case, func, select

from reviewqueue.db import db, now
from reviewqueue.models import Decision, Item, Project, Review
from reviewqueue.review.queues import wanted

WRONG = ("edit", "reject")
TIMED = 10_000  # decisions whose times are looked at, the newest
MOST_ROWS = 12  # reasons, causes or arms that are told apart


@dataclass(frozen=True)
class Part:
    """So many of so many."""

    name: str
    count: int
    of: int

    @property
    def share(self) -> float | None:
        """0..1, or None when it is a share of nothing."""
        return self.count / self.of if self.of else None


@dataclass(frozen=True)
class Cost:
    """What backends said their outputs cost; `told` items said anything about money."""

    told: int
    usd: float
    tokens: int


@dataclass(frozen=True)
class Figures:
    """All of one project and period; the period is that of submission."""

    submitted: int
    routes: list[Part]
    verdicts: list[Part]  # of what people decided
    timeouts: int
    released: int
    chosen: int  # of the released, by lot, to be reviewed
    control: Part  # wrong, of the chosen ones that were reviewed
    late_finds: int  # released and not chosen, yet found wrong: told, but no sample
    waiting: int
    overdue: int
    seconds: float | None  # median from submission to decision
    timed: int
    arms: list[Part]  # wrong, of what people decided, by arm
    reasons: list[Part]
    causes: list[Part]
    cost: Cost
    days: list[tuple[str, int]]


def figures(project: Project, since: datetime, until: datetime | None = None) -> Figures:
    """What became of the items submitted to `project` from `since` until `until` (or now)."""
    period = _period(project, since, until or now())
    routes = _counts(select(Item.route, func.count()).where(*period).group_by(Item.route))
    submitted = sum(routes.values())
    verdicts = _counts(_decided(period, Decision.verdict).where(Decision.verdict.is_not(None)))
    decided = sum(verdicts.values())
    chosen = db.session.scalar(select(func.count()).where(*period, *_RELEASED, _SAMPLED)) or 0
    control = _wrong(period, *_RELEASED, _SAMPLED)
    aside = _wrong(period, *_RELEASED, ~_SAMPLED)
    seconds, timed = _times(period)
    return Figures(
        submitted=submitted,
        routes=[Part(name, routes.get(name, 0), submitted) for name in ("release", "review", "block")],
        verdicts=[Part(name, verdicts.get(name, 0), decided) for name in ("approve", "edit", "reject")],
        timeouts=_timeouts(period),
        released=routes.get("release", 0),
        chosen=chosen,
        control=Part("control sample", control[1], control[0]),
        late_finds=aside[1],
        waiting=_waiting(project),
        overdue=_overdue(project),
        seconds=seconds,
        timed=timed,
        arms=_arms(period),
        reasons=_parts(period, Decision.reason),
        causes=_parts(period, Decision.cause),
        cost=_cost(period),
        days=_days(period),
    )


Period = tuple[ColumnElement[bool], ...]
_SAMPLED: ColumnElement[bool] = Item.sampled.is_(True)
_RELEASED: Period = (Item.route == "release",)
_IN_FORCE: Period = (Decision.undone_at.is_(None), Decision.superseded_at.is_(None))


def _period(project: Project, since: datetime, until: datetime) -> Period:
    return (Item.project_id == project.id, Item.created_at >= since, Item.created_at < until)


def _counts(query: Select[*tuple[Any, ...]]) -> dict[str, int]:
    return {row[0]: row[1] for row in db.session.execute(query)}


def _decided(period: Period, column: Any) -> Select[*tuple[Any, ...]]:
    """Decisions in force about the period's items, counted by `column`."""
    return (
        select(column, func.count())
        .select_from(Item)
        .join(Decision, Decision.item_id == Item.id)
        .where(*period, *_IN_FORCE)
        .group_by(column)
    )


def _wrong(period: Period, *which: ColumnElement[bool]) -> tuple[int, int]:
    """(decided by people, found wrong) among these items."""
    wrong = func.coalesce(func.sum(case((Decision.verdict.in_(WRONG), 1), else_=0)), 0)
    row = db.session.execute(
        select(func.count(), wrong)
        .select_from(Item)
        .join(Decision, Decision.item_id == Item.id)
        .where(*period, *_IN_FORCE, *which, Decision.verdict.is_not(None))
    ).one()
    return row[0], row[1]


def _timeouts(period: Period) -> int:
    return _counts(_decided(period, Decision.source)).get("timeout", 0)


def _waiting(project: Project) -> int:
    query = select(func.count()).where(Item.project_id == project.id, Item.status == "pending")
    return db.session.scalar(query) or 0


def _overdue(project: Project) -> int:
    late = select(func.count()).where(wanted(), Review.due_at <= now(), Review.project_id == project.id)
    return db.session.scalar(late) or 0


def _times(period: Period) -> tuple[float | None, int]:
    """The median seconds from submission to a first decision by people, and of how many."""
    rows = db.session.execute(
        select(Item.created_at, Decision.decided_at)
        .select_from(Item)
        .join(Decision, Decision.item_id == Item.id)
        .where(
            *period,
            Item.route == "review",
            Decision.source.in_(("review", "adjudication")),
            Decision.undone_at.is_(None),
        )
        .order_by(Item.number.desc())
        .limit(TIMED)
    ).all()
    waited = [(decided - created).total_seconds() for created, decided in rows]
    return (median(waited) if waited else None), len(waited)


def _arms(period: Period) -> list[Part]:
    """By arm: how many that people decided were wrong. Both arms are routed alike, so they compare."""
    wrong = func.sum(case((Decision.verdict.in_(WRONG), 1), else_=0))
    rows = db.session.execute(
        select(Item.arm, wrong, func.count())
        .select_from(Item)
        .join(Decision, Decision.item_id == Item.id)
        .where(*period, *_IN_FORCE, Item.arm.is_not(None), Decision.verdict.is_not(None))
        .group_by(Item.arm)
        .order_by(Item.arm)
        .limit(MOST_ROWS)
    )
    return [Part(arm, count, of) for arm, count, of in rows]


def _parts(period: Period, column: Any) -> list[Part]:
    counts = _counts(
        _decided(period, column).where(column.is_not(None), Decision.verdict.in_(WRONG))
    )  # fmt: skip
    of = sum(counts.values())
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_ROWS]
    return [Part(name, count, of) for name, count in most]


def _cost(period: Period) -> Cost:
    spent = Item.usage["cost_usd"].as_float()
    tokens = [func.sum(Item.usage[name].as_integer()) for name in ("input_tokens", "output_tokens")]
    row = db.session.execute(
        select(func.count(spent), func.sum(spent), *tokens).where(*period, Item.usage.is_not(None))
    ).one()
    return Cost(told=row[0], usd=row[1] or 0.0, tokens=int((row[2] or 0) + (row[3] or 0)))


def _days(period: Period) -> list[tuple[str, int]]:
    """How many were submitted on each day (UTC) on which any was."""
    day = func.date(Item.created_at)
    rows = db.session.execute(select(day, func.count()).where(*period).group_by(day).order_by(day))
    return [(str(row[0]), row[1]) for row in rows]
