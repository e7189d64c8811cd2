"""What the tests of deliveries share: a receiver, a clock that can be moved, and decided items."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import time_machine

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
