"""bring_near(): after the clock was set back, what was to happen soon stands far in the future.

Nothing this moves has happened yet, and it is only ever moved nearer; it must never touch what is written in
the ledger.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import literal_column, select, update

from reviewqueue.db import hits, now, transaction
from reviewqueue.delivery.breaker import PROBE_LONGEST
from reviewqueue.models import Backend, Delivery, Endpoint, Person, Review
from reviewqueue.review.claim import HOLD, LEASE

SLACK = timedelta(minutes=1)  # clocks of several machines differ
LONGEST_WAIT = timedelta(hours=48)  # more than an undo, a Retry-After or the schedule asks for
_OPEN: tuple[Any, ...] = (literal_column("'due'"), literal_column("'inflight'"), literal_column("'parked'"))


def bring_near() -> int:
    """Shorten leases, attempts and rests that end later than any could; returns how many.

    Each row is found by an index whose first column is named by a short list, so that looking costs little.
    """
    moment = now()
    leases = (
        update(Review)
        .where(Review.claimed_by.in_(select(Person.id)), Review.lease_expires_at > moment + HOLD + SLACK)
        .values(lease_expires_at=moment + LEASE)
    )
    attempts = (
        update(Delivery)
        .where(
            Delivery.backend_id.in_(select(Backend.id)),
            Delivery.state.in_(_OPEN),
            Delivery.next_attempt_at > moment + LONGEST_WAIT,
        )
        .values(next_attempt_at=moment)
    )
    longest = timedelta(seconds=PROBE_LONGEST) + SLACK
    rests = update(Endpoint).where(Endpoint.rest_until > moment + longest).values(rest_until=moment)
    with transaction() as session:
        return sum(
            hits(session.execute(change, execution_options={"synchronize_session": False}))
            for change in (leases, attempts, rests)
        )
