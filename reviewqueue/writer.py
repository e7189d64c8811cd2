"""Whose turn it is to write to a SQLite file: one thread of this process, one process of this machine.

SQLite lets writers wait too, but each sleeps by itself, up to a tenth of a second at a time: under load some
wait for seconds while others write again and again. It alone decides what is correct; without this file or
its lock everything only gets slower. One thing more comes of it: a turn lasts until after COMMIT, which is
where SQLite makes its checkpoints, so that none is made while another of our connections writes. Before
SQLite 3.51.3 that could lose pages; `doctor` warns all the same, since other programs know of no turns.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import threading
import time
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import OperationalError

from reviewqueue.prepared import as_it_stands

WAIT = 10.0  # seconds, as for SQLite itself
_FIRST, _LONGEST = 0.0002, 0.002  # seconds between two looks at the other processes' lock

_turns: dict[str, threading.Lock] = {}
os.register_at_fork(after_in_child=_turns.clear)  # a thread that holds one does not live on in the child


class _Turn:
    """Taken when made; OperationalError when the others do not end."""

    def __init__(self, database: str) -> None:
        self._thread = _turns.setdefault(database, threading.Lock())
        end = time.monotonic() + WAIT
        if not self._thread.acquire(timeout=WAIT):
            raise _locked()
        try:
            self._file = os.open(f"{database}-writer", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:  # a full disk, say: SQLite's own lock is enough
            self._file = -1
            return
        pause = _FIRST
        while not _lock(self._file):
            if time.monotonic() > end:
                self.end()
                raise _locked()
            time.sleep(pause)
            pause = min(pause * 1.5, _LONGEST)

    def end(self) -> None:
        if self._file >= 0:
            os.close(self._file)  # and with it goes the lock, also when the process is killed
        self._thread.release()


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: as above
        return True
    return True


def _locked() -> OperationalError:
    return OperationalError("BEGIN IMMEDIATE", None, sqlite3.OperationalError("database is locked"))


def begin(connection: Connection) -> None:
    """Begin a writing transaction when it is this connection's turn."""
    database = connection.engine.url.database
    if database:
        connection.info["reviewqueue_turn"] = _Turn(database)
    as_it_stands(connection, "BEGIN IMMEDIATE")


def attach(engine: Engine) -> None:
    """Let a connection's turn end when the connection goes back to the pool of `engine`, or is given up."""

    @event.listens_for(engine, "checkin")
    @event.listens_for(engine, "invalidate")
    def _over(_connection: object, record: Any, *_: object) -> None:
        turn = record.info.pop("reviewqueue_turn", None)
        if turn is not None:
            turn.end()
