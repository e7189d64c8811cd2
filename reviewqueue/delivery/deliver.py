"""Deliveries: scheduled with the decision, attempted until they end, replayed on request.

The row is the work and whoever takes its lease does it; a job is only a hint that something is due. No
HTTP call ever happens inside a transaction.
"""

from __future__ import annotations

import random
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Select, literal_column, select, update
from sqlalchemy.orm import Session, aliased

from reviewqueue.background import ring
from reviewqueue.config import Network, current
from reviewqueue.db import after_commit, db, joined, now, transaction
from reviewqueue.delivery.callback import Outcome, send
from reviewqueue.delivery.message import event_body
from reviewqueue.delivery.signature import signed_headers
from reviewqueue.errors import Conflict, Missing
from reviewqueue.ids import new_id
from reviewqueue.ledger.record import Recorded, record
from reviewqueue.models import Attempt, Decision, Delivery, Endpoint, Item, Project
from reviewqueue.people.access import SYSTEM, Actor, require
from reviewqueue.people.backends import secrets_of

MINUTE, HOUR = 60, 3600
# Seconds before attempt 1, 2, …; after the last one the delivery is dead.
DELAYS = (0, 5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR)
JITTER = (0.8, 1.2)
LONGEST_RETRY_AFTER = 24 * HOUR
LEASE = timedelta(seconds=60)
IN_FLIGHT = 4
TAKING = 30.0  # seconds; an RQ job ends after 60, and the last attempt may take 20
DISABLE_AFTER = timedelta(hours=120)
DISABLE_ATTEMPTS = 10
OPEN_STATES = ("due", "inflight", "parked")


@dataclass(frozen=True)
class _Turn:
    """One taken attempt, with all that sending needs."""

    delivery_id: str
    lease: int
    attempt_id: str
    number: int
    url: str
    body: bytes
    secrets: list[str]


def schedule(item: Item, decision: Decision, kind: str, recorded: Recorded) -> Delivery | None:
    """Add the delivery of event `kind` to the caller's transaction, due when the decision is final.

    Returns None when the item's backend has no endpoint: it asks instead of being told.
    """
    session = joined()
    endpoint = session.get(Endpoint, item.backend_id)
    if endpoint is None or decision.sequence is None:
        return None
    project = session.get_one(Project, item.project_id)
    delivery = Delivery(
        id=new_id("evt"),
        backend_id=item.backend_id,
        item_id=item.id,
        decision_id=decision.id,
        type=kind,
        sequence=decision.sequence,
        body=event_body(kind, item, decision, project.name, recorded),
        state="due" if endpoint.state == "active" else "parked",
        created_at=decision.decided_at,
        next_attempt_at=decision.final_at,
    )
    session.add(delivery)
    after_commit(_ring)
    return delivery


def delivery_due() -> bool:
    """Whether an attempt could be taken now."""
    return db.session.execute(select(_ready().exists())).scalar_one()


def deliver_due(limit: int = 10_000) -> int:
    """Attempt what is due, at most `limit` attempts; returns how many were made.

    Ends when nothing is left, or rings for the rest: with slow receivers it must end before its job does.
    """
    made, allow, started = 0, current().callback_allow, time.monotonic()
    running: set[Future[tuple[_Turn, Outcome]]] = set()
    with ThreadPoolExecutor(IN_FLIGHT, "attempt") as pool:
        while True:
            late = time.monotonic() - started > TAKING
            free = 0 if late else min(IN_FLIGHT - len(running), limit - made)
            turns = _take(free) if free > 0 else []
            made += len(turns)
            running |= {pool.submit(_attempt, turn, allow) for turn in turns}
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                _finish(*future.result())
    if late and delivery_due():
        ring("deliver")
    return made


def replay(actor: Actor, delivery_id: str) -> Delivery:
    """Send an ended delivery again: same id, same bytes, a new round of attempts.

    Missing when there is no such delivery, Conflict when it is still on its way.
    """
    require(actor, "replay")
    with transaction() as session:
        delivery = session.get(Delivery, delivery_id)
        if delivery is None:
            raise Missing("There is no such delivery.")
        endpoint = session.get_one(Endpoint, delivery.backend_id)
        won = session.execute(
            update(Delivery)
            .where(Delivery.id == delivery_id, Delivery.state.in_(("delivered", "dead")))
            .values(
                state="due" if endpoint.state == "active" else "parked",
                cycle=0,
                next_attempt_at=now(),
                ended_at=None,
            )
        )
        if won.rowcount != 1:  # type: ignore[attr-defined]
            raise Conflict("This delivery has not ended; it will be attempted by itself.", "not_ended")
        _note(delivery, "replayed", actor.id)
        after_commit(_ring)
    return delivery


def _ring() -> None:
    ring("deliver")


def _ready() -> Select[str]:
    """Deliveries whose turn it is: due or abandoned, with no earlier event of their item still open."""
    earlier = aliased(Delivery)
    waits_for = (
        select(earlier.id)
        .where(
            earlier.item_id == Delivery.item_id,
            earlier.sequence < Delivery.sequence,
            earlier.state.in_(OPEN_STATES),
        )
        .exists()
    )
    return (
        select(Delivery.id)
        .join(Endpoint, Endpoint.backend_id == Delivery.backend_id)
        .where(
            # A literal, because a partial index is not used for a parameter.
            Delivery.state.in_((literal_column("'due'"), literal_column("'inflight'"))),
            Delivery.next_attempt_at <= now(),
            Endpoint.state == "active",
            ~waits_for,
        )
        .order_by(Delivery.next_attempt_at)
    )


def _take(limit: int) -> list[_Turn]:
    """Take up to `limit` attempts: a lease and an attempt row each, committed before anything is sent."""
    if not delivery_due():
        return []
    with transaction() as session:
        # A plain subquery could be planned to run once for each row, and take more than `limit`.
        chosen = _ready().limit(limit).with_for_update(skip_locked=True, of=Delivery).cte("chosen")
        taken = session.execute(
            update(Delivery)
            .where(Delivery.id.in_(select(chosen.c.id)))
            .values(
                state="inflight",
                lease=Delivery.lease + 1,
                attempts=Delivery.attempts + 1,
                cycle=Delivery.cycle + 1,
                next_attempt_at=now() + LEASE,
            )
            .returning(Delivery.id, Delivery.backend_id, Delivery.lease, Delivery.attempts, Delivery.body)
            .execution_options(synchronize_session=False)
        ).all()
        return [_turn(session, *row) for row in taken]


def _turn(session: Session, delivery_id: str, backend_id: str, lease: int, number: int, body: bytes) -> _Turn:
    # An attempt without an outcome belonged to a worker that died: its lease has run out.
    session.execute(
        update(Attempt)
        .where(Attempt.delivery_id == delivery_id, Attempt.ended_at.is_(None))
        .values(outcome="killed", ended_at=now())
    )
    attempt = Attempt(id=new_id("att"), delivery_id=delivery_id, number=number, started_at=now())
    session.add(attempt)
    endpoint = session.get_one(Endpoint, backend_id)
    secrets = secrets_of(backend_id, "callback")
    return _Turn(delivery_id, lease, attempt.id, number, endpoint.url, body, secrets)


def _attempt(turn: _Turn, allow: tuple[Network, ...]) -> tuple[_Turn, Outcome]:
    """The HTTP call, in a thread of its own, with no transaction open."""
    headers = signed_headers(turn.delivery_id, int(time.time()), turn.body, turn.secrets, turn.number)
    return turn, send(turn.url, headers, turn.body, allow)


def _finish(turn: _Turn, outcome: Outcome) -> None:
    """Write down what came of an attempt, unless its lease ran out and somebody else took it."""
    with transaction() as session:
        delivery = session.get_one(Delivery, turn.delivery_id, with_for_update=True)
        attempt = session.get_one(Attempt, turn.attempt_id)
        attempt.ended_at = now()
        attempt.status, attempt.peer = outcome.status, outcome.peer
        attempt.answer, attempt.headers = outcome.body, outcome.headers
        attempt.outcome = outcome.outcome
        if delivery.state != "inflight" or delivery.lease != turn.lease:
            attempt.outcome = "fenced"
            return
        endpoint = session.get_one(Endpoint, delivery.backend_id, with_for_update=True)
        if outcome.ok:
            endpoint.failing_since, endpoint.failures = None, 0
            _end(delivery, "delivered")
        else:
            _failed(session, delivery, endpoint, outcome)


def _failed(session: Session, delivery: Delivery, endpoint: Endpoint, outcome: Outcome) -> None:
    endpoint.failing_since = endpoint.failing_since or now()
    endpoint.failures += 1
    hopeless = (
        endpoint.failures >= DISABLE_ATTEMPTS and now() - endpoint.failing_since >= DISABLE_AFTER
    ) or outcome.outcome == "gone"
    if hopeless and endpoint.state == "active":
        disable(session, endpoint, outcome.message)
    if delivery.cycle >= len(DELAYS):
        _end(delivery, "dead")
        return
    delay = DELAYS[delivery.cycle] * random.uniform(*JITTER)
    if outcome.retry_after is not None:
        delay = max(delay, min(outcome.retry_after, LONGEST_RETRY_AFTER))
    delivery.next_attempt_at = now() + timedelta(seconds=delay)
    delivery.state = "due" if endpoint.state == "active" else "parked"


def disable(session: Session, endpoint: Endpoint, why: str) -> None:
    """Stop calling an endpoint and park what was meant for it; runs in the caller's transaction."""
    endpoint.state, endpoint.why = "disabled", why
    session.execute(
        update(Delivery)
        .where(Delivery.backend_id == endpoint.backend_id, Delivery.state == "due")
        .values(state="parked")
        .execution_options(synchronize_session="fetch")
    )


def _end(delivery: Delivery, state: str) -> None:
    delivery.state, delivery.ended_at = state, now()
    _note(delivery, state, None)


def _note(delivery: Delivery, outcome: str, actor: str | None) -> None:
    session = joined()
    item = session.scalars(select(Item).where(Item.id == delivery.item_id)).one()
    record(
        "delivery",
        {
            "event": delivery.id,
            "endpoint": delivery.backend_id,
            "outcome": outcome,
            "attempts": delivery.attempts,
            "item": delivery.item_id,
            "actor": actor,
        },
        item_id=delivery.item_id,
        decision_id=delivery.decision_id,
        project_id=item.project_id,
        actor=actor or SYSTEM.id,
    )
