"""How much a backend may submit, and how many may wait: token buckets and a count, in this process.

Each web process has its share of REVIEWQUEUE_INTAKE_RATE. Nothing here outlives the process, and a lost
count must never cost more than a little patience.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from reviewqueue.config import current
from reviewqueue.errors import Busy

LONGEST_RETRY = 60  # seconds


class Rate:
    """A bucket of tokens for each backend; an item takes one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._levels: dict[str, tuple[float, float]] = {}  # backend → (tokens, at)

    def take(self, backend: str, items: int = 1) -> None:
        """Busy, with the seconds to wait, unless the backend may submit that many items now."""
        limit = current().intake_rate
        if limit is None:
            return
        workers = current().web_workers
        speed, burst = limit[0] / workers, max(1.0, limit[1] / workers)
        # What is larger than any bucket is let through when the bucket is full.
        cost = min(float(items), burst)
        moment = time.monotonic()
        with self._lock:
            tokens, at = self._levels.get(backend, (burst, moment))
            tokens = min(burst, tokens + (moment - at) * speed)
            enough = tokens >= cost
            self._levels[backend] = (tokens - cost if enough else tokens, moment)
        if not enough:
            wait = min(LONGEST_RETRY, math.ceil((cost - tokens) / speed))
            raise Busy("this backend submits more than it may", "rate_limited", retry_after=max(1, wait))

    def check(self, backend: str) -> None:
        """Busy when not even one item could be taken."""
        self.take(backend, 0)


rate = Rate()

_lock = threading.Lock()
_waiting = 0


@contextmanager
def waiting() -> Iterator[bool]:
    """Whether one more request may be held: at most half of the threads may wait for decisions."""
    global _waiting
    with _lock:
        _waiting += 1
        allowed = _waiting <= max(1, current().web_threads // 2)
    try:
        yield allowed
    finally:
        with _lock:
            _waiting -= 1
