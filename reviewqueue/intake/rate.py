"""How much a backend may submit, and how many requests may wait.

The buckets stand in one file of the data folder: whichever web process of this machine a backend reaches, it
gets its whole rate and no more. Losing the file must never cost more than a little patience.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from reviewqueue.config import current
from reviewqueue.errors import Busy

LONGEST_RETRY = 60  # seconds

_SLOT = struct.Struct("16sdd")  # the backend, its tokens, when: seconds of the clock all processes share
_SLOTS = 4096
_NEAR = 16  # slots a backend may have; the one that was quiet for longest gives way


class Rate:
    """A bucket of tokens for each backend; an item takes one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # between threads; the file's own lock is between processes

    def take(self, backend: str, items: int = 1) -> None:
        """Busy, with the seconds to wait, unless the backend may submit that many items now."""
        limit = current().intake_rate
        if limit is None:
            return
        speed, burst = limit[0], max(1.0, limit[1])
        # What is larger than any bucket is let through when the bucket is full.
        cost = min(float(items), burst)
        name = hashlib.sha256(backend.encode()).digest()[:16]
        try:
            with self._lock, _buckets() as file:
                tokens = _pour(file, name, speed, burst, cost)
        except OSError:  # a full disk, say: storing the item will say so
            return
        if tokens < cost:
            wait = min(LONGEST_RETRY, math.ceil((cost - tokens) / speed))
            raise Busy("this backend submits more than it may", "rate_limited", retry_after=max(1, wait))

    def check(self, backend: str) -> None:
        """Busy when not even one item could be taken."""
        self.take(backend, 0)


rate = Rate()


@contextmanager
def _buckets() -> Iterator[int]:
    """The file of buckets, locked; its descriptor."""
    file = os.open(current().data_dir / "intake-rate", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(file)  # and with it goes the lock, also when the process is killed here


def _pour(file: int, name: bytes, speed: float, burst: float, cost: float) -> float:
    """Fill the bucket up to now and take `cost` when it holds that much; returns what it held before."""
    start = int.from_bytes(name[:4], "big") % (_SLOTS - _NEAR) * _SLOT.size
    size = _NEAR * _SLOT.size
    slots = list(_SLOT.iter_unpack(os.pread(file, size, start).ljust(size, b"\0")))
    own = next((place for place, slot in enumerate(slots) if slot[0] == name), None)
    place = min(range(_NEAR), key=lambda at: slots[at][2]) if own is None else own
    _, tokens, at = slots[place]
    moment = time.monotonic()
    # A time to come is from before the machine started anew.
    known = own is not None and at <= moment
    tokens = min(burst, tokens + (moment - at) * speed) if known else burst
    left = tokens - cost if tokens >= cost else tokens
    os.pwrite(file, _SLOT.pack(name, left, moment), start + place * _SLOT.size)
    return tokens


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
