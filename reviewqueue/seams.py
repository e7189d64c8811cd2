"""Where a test takes hold of the running product: its clock, and the fate of one statement.

Both are settings that refuse start-up in every environment but `test`. Switched off they must cost nothing
and change nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from reviewqueue.config import Settings

EXIT_STATUS = 70  # of a process that ends at a statement: nothing else of ours ends with it

_clock_file: Path | None = None


class Fault(OperationalError):
    """A statement failed because a test wanted it to."""

    def __init__(self) -> None:
        super().__init__(None, None, Exception("this statement was made to fail"))


def install(settings: Settings, engine: Engine) -> None:
    """Do as the settings of this process say: shift its clock, let its n-th statement fail or end it."""
    global _clock_file
    _clock_file = settings.test_clock
    if settings.test_fault is not None:
        _watch(engine, *settings.test_fault)


def clock() -> datetime:
    """The time, aware, in UTC; shifted by the seconds that REVIEWQUEUE_TEST_CLOCK's file says."""
    moment = datetime.now(UTC)
    if _clock_file is None:
        return moment
    try:
        return moment + timedelta(seconds=float(_clock_file.read_text()))
    except (FileNotFoundError, ValueError):
        return moment  # not there yet, or just being written


@contextmanager
def fault(engine: Engine, kind: str, number: int) -> Iterator[Callable[[], int]]:
    """In this block the `number`-th statement fails ("fail") or ends the process ("exit"), before it is sent.

    BEGIN and COMMIT count as statements. Gives a function that tells how many have come so far.
    """
    count, detach = _watch(engine, kind, number)
    try:
        yield count
    finally:
        detach()


def _watch(engine: Engine, kind: str, number: int) -> tuple[Callable[[], int], Callable[[], None]]:
    seen = 0

    def count(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen == number:
            if kind == "exit":
                os._exit(EXIT_STATUS)
            raise Fault

    for name in ("before_cursor_execute", "commit"):
        event.listen(engine, name, count)

    def detach() -> None:
        for name in ("before_cursor_execute", "commit"):
            event.remove(engine, name, count)

    return lambda: seen, detach
