"""What an address's successes and failures mean for it: called as usual, probed now and then, or disabled.

Five failures in a row open the breaker: from then on one attempt at a time probes the address, after 60 s and
then twice as long each time, up to 15 min. It must never end a delivery: what is not sent waits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import cast

from sqlalchemy import Table, bindparam, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from reviewqueue.db import hits, now
from reviewqueue.delivery.callback import Outcome
from reviewqueue.models import Delivery, Endpoint

IN_FLIGHT = 4
OPENS = 5  # failures in a row
PROBE_FIRST, PROBE_LONGEST = 60, 15 * 60  # seconds
DISABLE_AFTER = timedelta(hours=120)
DISABLE_ATTEMPTS = 10
# The schedule never leaves an address alone for longer; a gap beyond it is an outage or a wrong clock here,
# and does not count as a time in which the receiver failed.
SILENCE = timedelta(hours=30)
DRAIN_PER_SECOND = 5
SLOW = 2.0  # seconds

_E = cast(Table, Endpoint.__table__)
_KNOWN = (
    "backend_id", "state", "why", "failing_since", "failed_at", "failures", "probe_wait", "rest_until",
    "draining", "slow",
)  # fmt: skip
_LOCKED = (
    select(*(_E.c[name] for name in _KNOWN))
    .where(_E.c.backend_id.in_(bindparam("ids", expanding=True)))
    .order_by(_E.c.backend_id)
    .with_for_update()
)
_CHANGED = (
    update(_E)
    .where(_E.c.backend_id == bindparam("id"))
    .values({name: bindparam(name) for name in _KNOWN[1:]})
)


@dataclass
class Health:
    """How an endpoint does: its row while it is locked."""

    backend_id: str
    state: str
    why: str | None
    failing_since: datetime | None
    failed_at: datetime | None
    failures: int
    probe_wait: int
    rest_until: datetime | None
    draining: bool
    slow: bool
    changed: bool = False

    def took(self, seconds: float) -> None:
        """How long the answer took: those who are slow must not keep a job from ending."""
        if self.slow != (seconds > SLOW):
            self.slow, self.changed = not self.slow, True

    def succeeded(self) -> None:
        """The receiver has something: whatever went wrong before is over."""
        if self.failures:
            self.failing_since = self.failed_at = self.rest_until = None
            self.failures = self.probe_wait = 0
            self.changed = True

    def failed(self, outcome: Outcome) -> None:
        """One more failure: rest, and in the end be disabled."""
        moment = now()
        self.failing_since = self.failing_since or moment
        gap = moment - (self.failed_at or moment)
        if gap > SILENCE:
            self.failing_since += gap - SILENCE
        self.failed_at, self.changed = moment, True
        self.failures += 1
        for_long = self.failures >= DISABLE_ATTEMPTS and moment - self.failing_since >= DISABLE_AFTER
        if self.state == "active" and (for_long or outcome.outcome == "gone"):
            self.state, self.why = "disabled", outcome.message
        resting = self.probe_wait and self.rest_until is not None and moment < self.rest_until
        if self.failures >= OPENS and not resting:  # those that were under way when it opened are no probes
            self.probe_wait = min(2 * self.probe_wait, PROBE_LONGEST) or PROBE_FIRST
            self.rest_until = moment + timedelta(seconds=self.probe_wait)


def lock(connection: Connection, backend_ids: Iterable[str]) -> dict[str, Health]:
    """The endpoints of these backends, locked until the transaction ends."""
    rows = connection.execute(_LOCKED, {"ids": sorted(set(backend_ids))})
    return {row.backend_id: Health(*row) for row in rows}


def write(connection: Connection, endpoints: Iterable[Health]) -> None:
    """Keep what changed; what waits for an address that was disabled is parked."""
    for health in endpoints:
        if health.changed:
            values = {name: getattr(health, name) for name in _KNOWN[1:]}
            connection.execute(_CHANGED, {"id": health.backend_id, **values})
            if health.state != "active":
                park(connection, health.backend_id)


def park(connection: Connection | Session, backend_id: str) -> None:
    """What is due for this backend waits until its address is active."""
    connection.execute(
        update(Delivery)
        .where(Delivery.backend_id == backend_id, Delivery.state == "due")
        .values(state="parked")
        .execution_options(synchronize_session="fetch" if isinstance(connection, Session) else False)
    )


def activate(session: Session, endpoint: Endpoint) -> None:
    """Call an address (again): what was parked goes out in order, slowly, in a new round."""
    endpoint.state, endpoint.why = "active", None
    endpoint.verified_at = now()
    endpoint.failing_since = endpoint.failed_at = endpoint.rest_until = None
    endpoint.failures = endpoint.probe_wait = 0
    parked = (Delivery.backend_id == endpoint.backend_id, Delivery.state == "parked")
    # One that was never sent keeps its time: until then the decision can be undone.
    session.execute(update(Delivery).where(*parked, Delivery.attempts > 0).values(next_attempt_at=now()))
    freed = session.execute(update(Delivery).where(*parked).values(state="due", cycle=0))
    endpoint.draining = hits(freed) > 0
