"""The disk guard: while the disk is nearly full nothing new is taken in, so that work in hand gets done.

Asked with every submission, so the answer is remembered for a moment. It must never stand in the way of
reading, deciding or calling back.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from sqlalchemy.engine import make_url

from reviewqueue.config import current
from reviewqueue.errors import Busy

LEAST_FREE = 512 << 20  # bytes
LEAST_SHARE = 0.05  # of a small disk
REMEMBERED = 1.0  # seconds
RETRY_SECONDS = 5

_seen: dict[Path, tuple[float, bool]] = {}


def full() -> bool:
    """Whether less than 512 MiB is free, or less than 5 % of a small disk.

    Looks where the database's file lies or, with a database server, the data folder.
    """
    return spare() < 1


def spare() -> float:
    """How much is free there, as a multiple of what must be."""
    usage = shutil.disk_usage(_place())
    return usage.free / max(1.0, min(LEAST_FREE, LEAST_SHARE * usage.total))


def require_space() -> None:
    """Busy while the disk is nearly full; looks at the disk at most once a second."""
    place, moment = current().data_dir, time.monotonic()
    looked, is_full = _seen.get(place, (-REMEMBERED, False))
    if moment - looked >= REMEMBERED:
        is_full = full()
        _seen[place] = moment, is_full
    if is_full:
        raise Busy("the storage is full: nothing new is taken in", "storage_full", retry_after=RETRY_SECONDS)


def _place() -> Path:
    settings = current()
    if settings.database_url.startswith("sqlite"):
        return Path(make_url(settings.database_url).database or ".").absolute().parent
    return settings.data_dir
