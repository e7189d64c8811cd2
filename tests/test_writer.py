"""Writers of one SQLite file: each in turn, whatever becomes of the one before."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from reviewqueue import writer
from reviewqueue.db import WRITING, attach

HOLD = """
import fcntl, os, sys, time
file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    engine = create_engine(f"sqlite:///{tmp_path}/some.db")
    attach(engine)
    with engine.execution_options(**WRITING).begin() as connection:
        connection.execute(text("CREATE TABLE line (at INTEGER)"))
    yield engine.execution_options(**WRITING)
    engine.dispose()


def test_many_threads_write_one_after_another(engine: Any) -> None:
    def write() -> None:
        for _ in range(20):
            with engine.begin() as connection:
                count = connection.execute(text("SELECT count(*) FROM line")).scalar_one()
                connection.execute(text("INSERT INTO line VALUES (:at)"), {"at": count})

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT at FROM line ORDER BY at")).scalars().all() == list(range(160))


def test_a_turn_ends_with_its_transaction_however_that_ends(engine: Any) -> None:
    with pytest.raises(ZeroDivisionError), engine.begin():
        raise ZeroDivisionError
    with engine.connect() as connection:
        connection.begin()
        connection.invalidate()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO line VALUES (1)"))


def test_a_turn_is_waited_for_and_ends_with_the_process_that_held_it(engine: Any) -> None:
    command = [sys.executable, "-c", HOLD, f"{engine.url.database}-writer"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        threading.Timer(0.3, os.kill, (other.pid, signal.SIGKILL)).start()
        began = time.monotonic()
        with engine.begin() as connection:
            connection.execute(text("INSERT INTO line VALUES (1)"))
        assert time.monotonic() - began > 0.2


def test_who_waits_too_long_is_told_that_the_database_is_busy(engine: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(writer, "WAIT", 0.2)
    with engine.begin(), pytest.raises(OperationalError, match="locked"):
        engine.connect().begin()
    command = [sys.executable, "-c", HOLD, f"{engine.url.database}-writer"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(OperationalError, match="locked"):
            engine.connect().begin()
        other.kill()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO line VALUES (1)"))
