"""Deliveries: scheduled with the decision, attempted until they end.

The row is the work; a job is only a hint that something is due. No HTTP call ever happens inside a
transaction, and no receiver, however slow, may keep the others waiting.
"""

from __future__ import annotations

import logging
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from reviewqueue.background import ring
from reviewqueue.config import current
from reviewqueue.db import after_commit, db, joined, now
from reviewqueue.delivery.callback import DEADLINE, Outcome, send
from reviewqueue.delivery.guard import Network
from reviewqueue.delivery.inside import inside
from reviewqueue.delivery.message import event_body
from reviewqueue.delivery.seals import Seals
from reviewqueue.delivery.signature import signed_headers
from reviewqueue.delivery.taking import May, Secrets, Turn, asked, rest_of_drain
from reviewqueue.delivery.turns import Done, turn_over
from reviewqueue.ids import new_id, request_id
from reviewqueue.ledger.record import Recorded
from reviewqueue.models import Decision, Delivery, Endpoint, Item, Project

log = logging.getLogger("reviewqueue.delivery.deliver")

POOL = 128  # attempts under way in one process; threads are made when they are needed
TAKING = 35.0  # seconds; an RQ job ends after 60, and the last attempt may take 20
# An address that was slow last time is only called while its answer can be awaited without keeping this job
# from ending, so that the next one begins at once.
TAKING_SLOW = TAKING - DEADLINE
LOOK = 0.05  # seconds between two looks for new work while attempts are under way
LINGER = 1.0  # seconds a job waits for an address that is told slowly


def schedule(item: Item, decision: Decision, kind: str, recorded: Recorded) -> Delivery | None:
    """Add the delivery of event `kind` to the caller's transaction, due when the decision is final.

    Returns None when the item's backend has no endpoint: it asks instead of being told.
    """
    session = joined()
    endpoint = session.get(Endpoint, item.backend_id)
    if endpoint is None or decision.sequence is None:
        return None
    project = session.get_one(Project, item.project_id)
    event_id, body = new_id("evt"), event_body(kind, item, decision, project.name, recorded)
    delivery = Delivery(
        id=event_id,
        backend_id=item.backend_id,
        item_id=item.id,
        decision_id=decision.id,
        type=kind,
        sequence=decision.sequence,
        body=body,
        mac=Seals().event(event_id, item.backend_id, body),
        state="due" if endpoint.state == "active" else "parked",
        created_at=decision.decided_at,
        next_attempt_at=decision.final_at,
        request_id=request_id.get(),
    )
    session.add(delivery)
    after_commit(_ring)
    return delivery


def delivery_due() -> bool:
    """Whether an attempt could be taken now."""
    return asked()


def deliver_due(limit: int = 10_000) -> int:
    """Attempt what is due, at most `limit` attempts; returns how many were made.

    Ends when nothing is left, or rings for the rest: with slow receivers it must end before its job does.
    """
    made, started = 0, time.monotonic()
    running: set[Future[Done]] = set()
    done: list[Done] = []
    alone, deny, secrets, seals = False, inside(current()), Secrets(), Seals()
    with ThreadPoolExecutor(POOL, "attempt") as pool:
        while True:
            age = time.monotonic() - started
            room = 0 if age > TAKING or alone else min(POOL - len(running), limit - made)
            turns = turn_over(done, May(room, age < TAKING_SLOW, not running, secrets, seals))
            _tell(done)
            made += len(turns)
            running |= {pool.submit(_attempt, turn, deny) for turn in turns}
            alone = alone or any(turn.alone for turn in turns)
            if not running:
                if age < TAKING and made < limit and _linger():
                    done = []
                    continue
                break
            finished, running = wait(running, LOOK, FIRST_COMPLETED)
            done = [future.result() for future in finished]
            alone = alone and bool(running)
    if delivery_due():
        ring("deliver")
    return made


def _linger() -> bool:
    """Wait for an address that may be told more in a moment; whether there is one."""
    rest = rest_of_drain()
    db.session.rollback()
    if rest is None or rest > LINGER:
        return False
    time.sleep(max(0.0, rest))
    return True


def _attempt(turn: Turn, deny: tuple[Network, ...]) -> Done:
    """The HTTP call, in a thread of its own, with no transaction open."""
    if not turn.sealed:
        log.error(
            "refused a callback that was changed in the database",
            extra={"said": {"delivery": turn.delivery_id}},
        )
        return turn, Outcome("blocked")
    headers = signed_headers(turn.delivery_id, int(now().timestamp()), turn.body, turn.secrets, turn.number)
    if turn.request_id is not None:
        headers["x-request-id"] = turn.request_id
    return turn, send(turn.url, headers, turn.body, current().callback_allow, deny=deny)


def _tell(done: list[Done]) -> None:
    """A log line for each attempt, now that what came of it is written down."""
    for turn, outcome in done:
        said = {"delivery": turn.delivery_id, "attempt": turn.attempt_id, "number": turn.number}
        said |= {"backend": turn.backend_id, "outcome": outcome.outcome, "status": outcome.status}
        said |= {"ms": round(outcome.duration * 1000), "request_id": turn.request_id}
        log.info("attempt", extra={"said": said})


def _ring() -> None:
    ring("deliver")
