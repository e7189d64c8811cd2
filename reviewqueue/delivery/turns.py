"""Turns: what became of attempts is written down, and the next ones are taken, in one transaction.

A result may only be written under the lease its attempt was taken with: whoever comes late must change
nothing but the attempt's own row.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, cast

from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.engine import Connection

from reviewqueue.db import db, now, transaction
from reviewqueue.delivery import breaker
from reviewqueue.delivery.breaker import Health
from reviewqueue.delivery.callback import Outcome
from reviewqueue.delivery.taking import May, Turn, asked, take
from reviewqueue.ledger.record import record_all
from reviewqueue.models import Attempt, Delivery, Item
from reviewqueue.people.access import SYSTEM

MINUTE, HOUR = 60, 3600
# Seconds before attempt 1, 2, …; after the last one the delivery is dead.
DELAYS = (0, 5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
JITTER = (0.8, 1.2)
LONGEST_RETRY_AFTER = 24 * HOUR

Done = tuple[Turn, Outcome]

_D, _A, _I = (cast(Table, model.__table__) for model in (Delivery, Attempt, Item))
_ids: Any = bindparam("ids", expanding=True)
_TAKEN = (
    select(
        _D.c.id, _D.c.backend_id, _D.c.item_id, _D.c.decision_id, _I.c.project_id,
        _D.c.lease, _D.c.state, _D.c.cycle, _D.c.attempts,
    )
    .join(_I, _I.c.id == _D.c.item_id)
    .where(_D.c.id.in_(_ids))
    .with_for_update(of=_D)
)  # fmt: skip
_RESULT = ("ended_at", "outcome", "status", "peer", "answer", "headers")
_TRIED = update(_A).where(_A.c.id == bindparam("attempt")).values({name: bindparam(name) for name in _RESULT})
_MOVED = (
    update(_D)
    .where(_D.c.id == bindparam("delivery"))
    .values({name: bindparam(name) for name in ("state", "next_attempt_at", "ended_at")})
)


_POISON = (
    update(_A)
    .where(_A.c.delivery_id == bindparam("delivery"), _A.c.outcome == "killed")
    .where(_A.c.number == select(_D.c.attempts).where(_D.c.id == bindparam("delivery")).scalar_subquery())
    .values(outcome="poison")
)


def turn_over(done: Sequence[Done], may: May) -> list[Turn]:
    """Write down what became of these attempts and take new ones."""
    if not done and (may.room <= 0 or not asked()):
        db.session.rollback()
        return []
    with transaction() as session:
        connection = session.connection()
        ended = _finish(connection, done) if done else []
        turns, poison = take(connection, may) if may.room > 0 else ([], [])
        record_all("delivery", [facts(row, how) for row, how in ended + _give_up(connection, poison)])
    return turns


def facts(row: Any, outcome: str, actor: str = SYSTEM.id) -> dict[str, Any]:
    """What the ledger says of the end or the replay of the delivery in `row`."""
    return {
        "event": row.id,
        "endpoint": row.backend_id,
        "outcome": outcome,
        "attempts": row.attempts,
        "item": row.item_id,
        "decision": row.decision_id,
        "project": row.project_id,
        "actor": actor,
    }


def _finish(connection: Connection, done: Sequence[Done]) -> list[tuple[Any, str]]:
    """Write down each outcome; the deliveries that ended, and how."""
    endpoints = breaker.lock(connection, [turn.backend_id for turn, _ in done])
    ids = [turn.delivery_id for turn, _ in done]
    rows = {row.id: row for row in connection.execute(_TAKEN, {"ids": ids})}
    tried, moved, ended = [], [], []
    for turn, outcome in done:
        row = rows[turn.delivery_id]
        mine = row.state == "inflight" and row.lease == turn.lease
        tried.append(_result(turn, outcome, mine))
        if not mine:
            continue
        endpoints[turn.backend_id].took(outcome.duration)
        change = _change(row, outcome, endpoints[turn.backend_id])
        moved.append(change)
        if change["ended_at"] is not None:
            ended.append((row, change["state"]))
    connection.execute(_TRIED, tried)
    if moved:
        connection.execute(_MOVED, moved)
    breaker.write(connection, endpoints.values())
    return ended


def _result(turn: Turn, outcome: Outcome, mine: bool) -> dict[str, Any]:
    return {
        "attempt": turn.attempt_id,
        "ended_at": now(),
        "outcome": outcome.outcome if mine else "fenced",
        "status": outcome.status,
        "peer": outcome.peer,
        "answer": outcome.body,
        "headers": outcome.headers,
    }


def _change(row: Any, outcome: Outcome, endpoint: Health) -> dict[str, Any]:
    """Where a delivery stands after this outcome."""
    moment = now()
    change = {"delivery": row.id, "next_attempt_at": moment, "ended_at": moment}
    if outcome.ok:
        endpoint.succeeded()
        return change | {"state": "delivered"}
    endpoint.failed(outcome)
    if row.cycle >= len(DELAYS):
        return change | {"state": "dead"}
    delay = DELAYS[row.cycle] * random.uniform(*JITTER)
    if outcome.retry_after is not None:
        delay = max(delay, min(outcome.retry_after, LONGEST_RETRY_AFTER))
    state = "due" if endpoint.state == "active" else "parked"
    return change | {"state": state, "next_attempt_at": moment + timedelta(seconds=delay), "ended_at": None}


def _give_up(connection: Connection, ids: list[str]) -> list[tuple[Any, str]]:
    """Deliveries that ended their worker again and again are dead, and stand there as poison."""
    if not ids:
        return []
    moment, rows = now(), connection.execute(_TAKEN, {"ids": ids}).all()
    for row in rows:
        connection.execute(_POISON, {"delivery": row.id})
        values = {"delivery": row.id, "state": "dead", "next_attempt_at": moment, "ended_at": moment}
        connection.execute(_MOVED, values)
    return [(row, "dead") for row in rows]
