"""What the tests of deliveries share: a receiver, a clock that can be moved, and decided items."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine

from reviewqueue.config import Settings
from reviewqueue.db import now
from tests.receiver import Receiver, receiver


class Clock:
    """The wall clock of this process, running on from wherever it was moved to."""

    def __init__(self, traveller: time_machine.Traveller) -> None:
        self.traveller = traveller

    def move(self, **by: float) -> None:
        self.traveller.shift(timedelta(**by))


@pytest.fixture
def clock() -> Iterator[Clock]:
    with time_machine.travel(now(), tick=True) as traveller:
        yield Clock(traveller)


@pytest.fixture
def backend() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def project(make: Any, backend: Receiver) -> Any:
    """A project whose decisions are final at once and whose backend is called back."""
    project = make.project(undo_seconds=0)
    make.backend(project, callback=backend.url)
    return project


WORKER = """
from os import environ
from reviewqueue import create_base
from reviewqueue.config import Settings
from reviewqueue.delivery.deliver import deliver_due
with create_base(Settings.load(environ)).app_context():
    print(deliver_due())
"""


@pytest.fixture
def worker(settings: Settings, database: str) -> Callable[[], subprocess.Popen[str]]:
    """Starts a process of its own that delivers what is due and says how many attempts it made."""
    environ = {
        "PATH": os.environ["PATH"],
        "REVIEWQUEUE_ENV": "test",
        "REVIEWQUEUE_DATA_DIR": str(settings.data_dir),
        "REVIEWQUEUE_KEYS_DIR": str(settings.keys_dir),
        "REVIEWQUEUE_CALLBACK_ALLOW": "127.0.0.0/8",
        "REDIS_URL": settings.redis_url,
        "DATABASE_URL": database,
    }

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", WORKER], env=environ, stdout=subprocess.PIPE, text=True, cwd=os.getcwd()
        )

    return start
