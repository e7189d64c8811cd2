"""Which attempts may begin now, and the taking of them: a lease and a row each.

An address is told at most a few things at once, counted over all workers, in the order of each item's
events. What is taken here must be committed before anything is sent.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import Table, and_, bindparam, case, func, insert, literal_column, or_, select, update
from sqlalchemy.engine import Connection

from reviewqueue.db import db, now
from reviewqueue.delivery.breaker import DRAIN_PER_SECOND, IN_FLIGHT
from reviewqueue.delivery.seals import Seals, holds
from reviewqueue.ids import new_id
from reviewqueue.models import Attempt, Delivery, Endpoint
from reviewqueue.people.backends import secrets_of

LEASE = timedelta(seconds=60)
# A delivery that ends its worker so often in this time is given up; before the last try it runs alone.
KILLS, KILLS_WITHIN = 3, timedelta(minutes=5)
SECRETS_KEPT = 0.5  # seconds
OPEN_STATES = ("due", "inflight", "parked")

_D, _A, _E = (cast(Table, model.__table__) for model in (Delivery, Attempt, Endpoint))


@dataclass(frozen=True)
class Turn:
    """One taken attempt, with all that sending needs; `alone`: nothing else may run beside it."""

    delivery_id: str
    backend_id: str
    lease: int
    attempt_id: str
    number: int
    url: str
    body: bytes
    secrets: tuple[str, ...]
    alone: bool = False
    request_id: str | None = None
    sealed: bool = True  # both the address and the event carry our seal


def _open(table: Any) -> Any:
    # Literals, because a partial index is not used for parameters. A parked delivery of an active address
    # was scheduled while the address became active.
    return table.c.state.in_([literal_column(f"'{state}'") for state in OPEN_STATES])


_now: Any = bindparam("now", type_=_D.c.next_attempt_at.type)
_backend: Any = bindparam("backend")
_earlier = _D.alias("earlier")
_IN_TURN = ~(
    select(1)
    .where(_earlier.c.item_id == _D.c.item_id, _earlier.c.sequence < _D.c.sequence, _open(_earlier))
    .exists()
)
_READY = and_(_open(_D), _D.c.next_attempt_at <= _now, _IN_TURN)
_BUSY = and_(_D.c.state == literal_column("'inflight'"), _D.c.next_attempt_at > _now)
_ROOM = case((_E.c.probe_wait > 0, 1), else_=IN_FLIGHT)
# Endpoints that may be called, have something to be told and are not being told enough already.
_ASKING = select(
    _E.c.backend_id, _E.c.url, _E.c.trusted, _E.c.mac, _E.c.slow, _E.c.probe_wait, _E.c.draining
).where(
    _E.c.state == "active",
    or_(_E.c.rest_until.is_(None), _E.c.rest_until <= _now),
    select(1).where(_D.c.backend_id == _E.c.backend_id, _READY).correlate(_E).exists(),
    select(func.count()).where(_D.c.backend_id == _E.c.backend_id, _BUSY).scalar_subquery() < _ROOM,
)
_ASKED = select(_ASKING.exists())
_LOCKED = _ASKING.with_for_update(skip_locked=True, of=_E)
_COUNTED = select(func.count()).where(_D.c.backend_id == _backend, _BUSY)
_NEXT = (
    select(_D.c.id, _D.c.state)
    .where(_D.c.backend_id == _backend, _READY)
    .order_by(_D.c.next_attempt_at, _D.c.id)
    .limit(bindparam("room"))
)
_MORE = select(select(1).where(_D.c.backend_id == _backend, _open(_D), _D.c.next_attempt_at <= _now).exists())
_TAKE = (
    update(_D)
    .where(_D.c.id.in_(bindparam("ids", expanding=True)), _open(_D), _D.c.next_attempt_at <= _now)
    .values(
        state="inflight",
        lease=_D.c.lease + 1,
        attempts=_D.c.attempts + 1,
        cycle=_D.c.cycle + 1,
        next_attempt_at=bindparam("until", type_=_D.c.next_attempt_at.type),
    )
    .returning(_D.c.id, _D.c.backend_id, _D.c.lease, _D.c.attempts, _D.c.body, _D.c.mac, _D.c.request_id)
)
_BEGIN = insert(_A)
_DRAIN = (
    update(_E)
    .where(_E.c.backend_id == bindparam("id"))
    .values({name: bindparam(name) for name in ("rest_until", "draining")})
)
_RESTING = select(func.min(_E.c.rest_until)).where(
    _E.c.draining, _E.c.state == "active",
    select(1).where(_D.c.backend_id == _E.c.backend_id, _READY).correlate(_E).exists(),
)  # fmt: skip

_ids: Any = bindparam("ids", expanding=True)
_KILLED = (
    update(_A)
    .where(_A.c.delivery_id.in_(_ids), _A.c.ended_at.is_(None))
    .values(outcome="killed", ended_at=bindparam("moment"))
)
_KILL_COUNT = (
    select(_A.c.delivery_id, func.count())
    .where(_A.c.delivery_id.in_(_ids), _A.c.outcome == "killed", _A.c.started_at > bindparam("since"))
    .group_by(_A.c.delivery_id)
)


class Secrets:
    """The callback secrets of backends, looked up and opened at most twice a second each."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[float, tuple[str, ...]]] = {}

    def of(self, backend_id: str) -> tuple[str, ...]:
        """The secrets in force, newest first; one that is revoked is gone within half a second."""
        until, secrets = self._known.get(backend_id, (0.0, ()))
        if time.monotonic() >= until:
            secrets = tuple(secrets_of(backend_id, "callback"))
            self._known[backend_id] = time.monotonic() + SECRETS_KEPT, secrets
        return secrets


@dataclass(frozen=True)
class May:
    """What a process may take now: how many attempts; of addresses that were slow last time; one that may
    end the process, since nothing else is under way in it."""

    room: int
    slow: bool
    alone: bool
    secrets: Secrets
    seals: Seals


def asked() -> bool:
    """Whether an attempt could be taken now."""
    return bool(db.session.connection().execute(_ASKED, {"now": now()}).scalar())


def rest_of_drain() -> float | None:
    """Seconds until an address that is told slowly may be told more; None when there is none."""
    until = db.session.connection().execute(_RESTING, {"now": now()}).scalar()
    return None if until is None else (until - now()).total_seconds()


def take(connection: Connection, may: May) -> tuple[list[Turn], list[str]]:
    """Take attempts; also the ids of what is to be given up as poison."""
    moment, room = now(), may.room
    endpoints = list(connection.execute(_LOCKED, {"now": moment}))
    random.shuffle(endpoints)
    turns: list[Turn] = []
    poison: list[str] = []
    for endpoint in endpoints:
        if room <= len(turns) or (endpoint.slow and not may.slow):
            continue
        here = {"backend": endpoint.backend_id, "now": moment}
        # Counted again, now that nobody else takes for this endpoint.
        free = (1 if endpoint.probe_wait else IN_FLIGHT) - connection.execute(_COUNTED, here).scalar_one()
        if free <= 0:
            continue
        found = connection.execute(_NEXT, here | {"room": min(free, room - len(turns))}).all()
        kills = _abandoned(connection, [row.id for row in found if row.state == "inflight"], moment)
        poison += [id for id, count in kills.items() if count >= KILLS]
        risky = [id for id, count in kills.items() if count == KILLS - 1]
        if risky and may.alone and not turns:
            return _begin(connection, endpoint, risky[:1], may, alone=True), poison
        ids = [row.id for row in found if kills.get(row.id, 0) < KILLS - 1]
        if ids:
            turns += _begin(connection, endpoint, ids, may)
        if endpoint.draining:
            _pace(connection, here, len(ids))
    return turns, poison


def _begin(
    connection: Connection, endpoint: Any, ids: list[str], may: May, alone: bool = False
) -> list[Turn]:
    moment = now()
    taken = connection.execute(_TAKE, {"ids": ids, "now": moment, "until": moment + LEASE}).all()
    url, keys = endpoint.url, may.secrets.of(endpoint.backend_id)
    sealed = holds(may.seals.address(endpoint.backend_id, url, endpoint.trusted), endpoint.mac)
    turns = [
        Turn(
            row.id, row.backend_id, row.lease, new_id("att"), row.attempts, url, row.body, keys, alone,
            row.request_id, sealed and holds(may.seals.event(row.id, row.backend_id, row.body), row.mac),
        )
        for row in taken
    ]  # fmt: skip
    if turns:
        rows = [(turn.attempt_id, turn.delivery_id, turn.number, moment) for turn in turns]
        names = ("id", "delivery_id", "number", "started_at")
        connection.execute(_BEGIN, [dict(zip(names, row, strict=True)) for row in rows])
    return turns


def _pace(connection: Connection, here: dict[str, Any], taken: int) -> None:
    """After re-enabling, an address is told what was parked at a rate it can bear, then as usual."""
    more = connection.execute(_MORE, here).scalar_one()
    until = here["now"] + timedelta(seconds=taken / DRAIN_PER_SECOND) if more else None
    connection.execute(_DRAIN, {"id": here["backend"], "rest_until": until, "draining": bool(more)})


def _abandoned(connection: Connection, ids: list[str], moment: datetime) -> dict[str, int]:
    """Their workers died: their leases have run out. How often that happened to each of late."""
    if not ids:
        return {}
    connection.execute(_KILLED, {"ids": ids, "moment": moment})
    counted = connection.execute(_KILL_COUNT, {"ids": ids, "since": moment - KILLS_WITHIN})
    return {row[0]: row[1] for row in counted}
