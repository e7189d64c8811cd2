"""Sending ended deliveries again, one or all that fit: same id, same bytes, a new round of attempts.

Nothing is made anew: a replay must never change what a delivery says.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVarTuple

from sqlalchemy import Select, func, literal_column, select, update
from sqlalchemy.orm import Session

from reviewqueue.background import ring
from reviewqueue.db import after_commit, db, now, transaction
from reviewqueue.delivery.turns import facts
from reviewqueue.errors import Conflict, Missing
from reviewqueue.ids import first_id
from reviewqueue.ledger.record import record_all
from reviewqueue.models import Delivery, Endpoint, Item
from reviewqueue.people.access import Actor, require

Columns = TypeVarTuple("Columns")

ENDED = ("delivered", "dead")
BATCH = 100  # events in one transaction: each is an entry of the ledger
_TOLD = (
    Delivery.id, Delivery.backend_id, Delivery.item_id, Delivery.decision_id, Delivery.attempts,
    Item.project_id,
)  # fmt: skip


@dataclass(frozen=True)
class Which:
    """Which deliveries: decided in [since, until), of these backends, in these states. None: any."""

    since: datetime | None = None
    until: datetime | None = None
    backend_ids: Sequence[str] | None = None
    states: Sequence[str] = ENDED
    type: str | None = None
    item_id: str | None = None

    def narrow(self, query: Select[*Columns]) -> Select[*Columns]:
        """`query`, a select of deliveries, for these alone."""
        if self.since is not None:
            query = query.where(Delivery.id >= first_id("evt", self.since), Delivery.created_at >= self.since)
        if self.until is not None:
            query = query.where(Delivery.created_at < self.until)
        if self.backend_ids is not None:
            query = query.where(Delivery.backend_id.in_(self.backend_ids))
        if self.type is not None:
            query = query.where(Delivery.type == self.type)
        if self.item_id is not None:
            query = query.where(Delivery.item_id == self.item_id)
        return query.where(Delivery.state.in_(self.states))


def replay(actor: Actor, delivery_id: str) -> Delivery:
    """Send an ended delivery again.

    Missing when there is no such delivery, Conflict when it is still on its way.
    """
    require(actor, "replay")
    with transaction() as session:
        delivery = session.get(Delivery, delivery_id)
        if delivery is None:
            raise Missing("There is no such delivery.")
        if not _again(session, [delivery_id], actor):
            raise Conflict("This delivery has not ended; it will be attempted by itself.", "not_ended")
        session.refresh(delivery)
    return delivery


def count(actor: Actor, which: Which, limit: int | None = None) -> int:
    """The dry run: how many deliveries `replay_all` would send again; counts no further than `limit`."""
    require(actor, "replay")
    first = which.narrow(select(Delivery.id)).limit(limit).subquery()
    return db.session.scalar(select(func.count()).select_from(first)) or 0


def replay_all(actor: Actor, which: Which) -> Iterator[int]:
    """Send again all that has ended by now and fits, oldest first; yields how many after each batch."""
    require(actor, "replay")
    begun, last = now(), ""
    while True:
        query = which.narrow(select(Delivery.id)).where(Delivery.id > last, Delivery.ended_at <= begun)
        ids = list(db.session.scalars(query.order_by(Delivery.id).limit(BATCH)))
        if not ids:
            return
        last = ids[-1]
        yield _batch(actor, ids)


def _batch(actor: Actor, ids: list[str]) -> int:
    with transaction() as session:
        return _again(session, ids, actor)


def _again(session: Session, ids: list[str], actor: Actor) -> int:
    """Make those of `ids` due that have ended; how many there were."""
    active = select(1).where(Endpoint.backend_id == Delivery.backend_id, Endpoint.state == "active").exists()
    won = session.scalars(
        update(Delivery)
        .where(Delivery.id.in_(ids), Delivery.state.in_(ENDED))
        .values(state="parked", cycle=0, next_attempt_at=now(), ended_at=None)
        .returning(Delivery.id)
        .execution_options(synchronize_session=False)
    ).all()
    due = update(Delivery).where(Delivery.id.in_(won), active).values(state=literal_column("'due'"))
    session.execute(due.execution_options(synchronize_session=False))
    # Whoever sends again wants to know now: an address that rests after failures is probed at once.
    asked = select(Delivery.backend_id).where(Delivery.id.in_(won))
    resting = update(Endpoint).where(Endpoint.backend_id.in_(asked), Endpoint.probe_wait > 0)
    session.execute(resting.values(rest_until=None).execution_options(synchronize_session=False))
    told = select(*_TOLD).join(Item, Item.id == Delivery.item_id)
    rows = session.execute(told.where(Delivery.id.in_(won)).order_by(Delivery.id)).all()
    record_all("delivery", [facts(row, "replayed", actor.id) for row in rows])
    after_commit(lambda: ring("deliver"))
    return len(won)
