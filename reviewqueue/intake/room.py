"""How many reviews may wait in a queue: beyond it a submission is refused, never accepted and dropped.

Counts are remembered for a moment, so that a submission pays microseconds; a queue may therefore end up a
little over its cap, by what all processes took in that moment.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import func, literal_column, select
from sqlalchemy.engine import Connection

from reviewqueue.config import current
from reviewqueue.errors import Busy
from reviewqueue.models import Review

REMEMBERED = 5.0  # seconds; at most one while a queue is more than half full
RETRY_SECONDS = 30  # people make room, and that takes a while

_known: dict[str, tuple[float, int]] = {}  # queue → counted when, and how many waited then or came since
_unlimited: ContextVar[bool] = ContextVar("unlimited", default=False)


def require_room(connection: Connection, queues: Iterable[str]) -> None:
    """Busy when a queue cannot take the reviews that come: one for each time its id is in `queues`.

    Call it before they are inserted, in the transaction that stores them, so that all of it rolls back.
    """
    cap = current().queue_cap
    if cap == 0 or _unlimited.get():
        return
    for queue, coming in Counter(queues).items():
        counted, waiting = _known.get(queue, (-REMEMBERED, 0))
        if time.monotonic() - counted > (1.0 if waiting * 2 > cap else REMEMBERED):
            counted, waiting = time.monotonic(), _count(connection, queue, cap)
        if waiting + coming > cap:
            _known[queue] = counted, waiting
            said = f"a queue of this project is full: {cap} reviews wait in it"
            raise Busy(said, "queue_full", retry_after=RETRY_SECONDS)
        _known[queue] = counted, waiting + coming


@contextmanager
def unlimited() -> Iterator[None]:
    """In this block no queue is ever full: an operator who loads a file knows how much is in it."""
    before = _unlimited.set(True)
    try:
        yield
    finally:
        _unlimited.reset(before)


def _count(connection: Connection, queue: str, cap: int) -> int:
    """How many reviews wait, counted up to the cap, in the index that only holds waiting ones."""
    waiting = (Review.queue_id == queue, Review.state == literal_column("'wanted'"))
    some = select(Review.item_number).where(*waiting).limit(cap + 1)
    return connection.execute(select(func.count()).select_from(some.subquery())).scalar_one()
