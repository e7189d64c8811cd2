"""What is not as it should be, in words for everybody who is signed in: late callbacks, a full disk.

A page never waits for any of this: it shows what was found last, and has it looked for again meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from flask import Flask
from sqlalchemy import func, literal_column, select

from reviewqueue import disk, metrics
from reviewqueue.background import away_since, redis_answers
from reviewqueue.db import db, now
from reviewqueue.ledger import known
from reviewqueue.ledger.reading import disagreement
from reviewqueue.models import Delivery, Leader

log = logging.getLogger("reviewqueue.running.condition")

REMEMBERED = 5.0  # seconds
LATE = timedelta(seconds=60)
DEAD_TOLD = timedelta(days=3)
DEAD_COUNTED = 100


@dataclass(frozen=True)
class Condition:
    """One line: what it means for people, since when, and where those with `right` see more."""

    text: str
    since: datetime | None = None
    address: str | None = None
    right: str | None = None


class Watch:
    """What was found last. `seen` never waits: it starts another look when the last one is too old."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.found: list[Condition] = []
        self.looked = -REMEMBERED
        self.looking = threading.Lock()

    def seen(self) -> list[Condition]:
        """What was found last; looks again in a thread of its own."""
        if time.monotonic() - self.looked > REMEMBERED and self.looking.acquire(blocking=False):
            threading.Thread(target=self._look, name="condition", daemon=True).start()
        return self.found

    def _look(self) -> None:
        try:
            with self.app.app_context():
                self.found = look()
        finally:
            self.looked = time.monotonic()
            self.looking.release()


def look() -> list[Condition]:
    """What is not as it should be now, the worst first."""
    found: list[Condition] = []
    for check in (_storage, _ledger, _callbacks, _dead):
        try:
            found += check()
        except Exception as error:
            # What cannot be looked at is told by the pages themselves, or by /readyz.
            log.warning("%s could not be looked at: %s", check.__name__, type(error).__name__)
            db.session.rollback()
    return found


def _storage() -> Iterator[Condition]:
    spare = disk.spare()
    if spare < 1:
        yield Condition("The storage is full: nothing new is taken until there is room")
    elif spare < 2:
        yield Condition("The storage is nearly full")


def _ledger() -> Iterator[Condition]:
    if disagreement() is not None:
        said = "The ledger has stopped: nothing can be decided until an operator has looked at it"
        yield Condition(said, address="/audit", right="read_audit")
    elif known.rolled_back() is not None:
        said = "An older backup was restored: decisions made since then are not here"
        yield Condition(said, address="/audit", right="read_audit")


def _callbacks() -> Iterator[Condition]:
    """Late callbacks with their cause, or a cause that will make them late."""
    moment, due = now(), metrics.oldest_due()
    late = due is not None and moment - due > LATE
    said = "Callbacks are late" if late else "Callbacks may be delayed"
    causes: tuple[tuple[str, Callable[[], datetime | None]], ...]
    causes = (("Redis away", _redis_away), ("no relay running", _relay_away))
    why = [(word, since) for word, gone in causes if (since := gone()) is not None]
    for word, since in why:
        yield Condition(f"{said}: {word}", since, "/deliveries", "read_deliveries")
    if late and not why:
        yield Condition("Callbacks are late: the oldest waits", due, "/deliveries", "read_deliveries")


def _redis_away() -> datetime | None:
    return None if redis_answers() else away_since() or now()


def _relay_away() -> datetime | None:
    """Since when nobody leads; None as well when nobody ever did and nothing waits for it."""
    until = db.session.scalar(select(Leader.expires_at).where(Leader.duty == "relay"))
    if until is None:
        due = metrics.oldest_due()
        return due if due is not None and now() - due > LATE else None
    return until if until < now() else None


def _dead() -> Iterator[Condition]:
    recent = (Delivery.state == literal_column("'dead'"), Delivery.ended_at > now() - DEAD_TOLD)
    some = select(Delivery.id).where(*recent).limit(DEAD_COUNTED)
    count = db.session.scalar(select(func.count()).select_from(some.subquery())) or 0
    if count:
        number = "1 callback" if count == 1 else f"{count}{'+' if count == DEAD_COUNTED else ''} callbacks"
        said = f"{number} could not be delivered in the last {DEAD_TOLD.days} days"
        yield Condition(said, address="/deliveries?state=dead", right="read_deliveries")
