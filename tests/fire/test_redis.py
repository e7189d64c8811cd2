"""Redis forgets everything, dies and comes back while people decide: every decision is called back.

Runs a real worker and a real relay as processes. The release gate is larger: FIRE_DECISIONS=10000.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select, update

from reviewqueue.config import Settings
from reviewqueue.db import db, now, transaction
from reviewqueue.models import Attempt, Delivery
from reviewqueue.people.access import Actor, backend_actor
from tests.fire.deployment import Deployment
from tests.listener import Listener, listener
from tests.make import Make
from tests.servers import Redis

DECISIONS = int(os.environ.get("FIRE_DECISIONS", "200"))
FLUSHED_SECONDS = 15.0
AWAY_SECONDS = 30.0


@pytest.fixture
def processes(base: Flask, settings: Settings, tmp_path: Path) -> Iterator[Deployment]:
    """A worker and a relay on the test's own database and Redis."""
    given = {
        "REVIEWQUEUE_ENV": "test",
        "REVIEWQUEUE_KEYS_DIR": str(settings.keys_dir),
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
    }
    running = Deployment(tmp_path / "var", **given)
    running.start("-m", "reviewqueue", "worker")
    running.start("-m", "reviewqueue", "relay")
    yield running
    running.close()


def test_every_decision_is_called_back_whatever_redis_forgets(
    redis_server: Redis, processes: Deployment, make: Make
) -> None:
    with listener() as called:
        desk = Desk(make, called)
        warm_up(desk, processes)

        for _ in range(4):  # flushed in the midst of work
            desk.decide(DECISIONS // 8)
            with redis_server.client() as client:
                client.flushall()
        assert desk.seconds_until_told() < FLUSHED_SECONDS

        redis_server.kill()
        desk.decide(DECISIONS // 4)
        took = desk.seconds_until_told()
        assert took < AWAY_SECONDS
        assert (DECISIONS // 4) / took > 10 or took < 2

        desk.decide(DECISIONS // 8)
        redis_server.start()  # and it is empty
        desk.decide(DECISIONS // 8)
        assert desk.seconds_until_told() < AWAY_SECONDS

        assert not called.forged
        assert {callback.item for callback in called.once()} == set(desk.decided)
        assert len(called.once()) == len(desk.decided)
        bodies = {(callback.id, callback.body) for callback in called.callbacks}
        assert len(bodies) == len(called.once())


def test_a_worker_killed_while_it_calls_back_is_made_up_for(
    redis_server: Redis, processes: Deployment, make: Make
) -> None:
    with listener() as called:
        desk = Desk(make, called)
        warm_up(desk, processes)
        busy = slow(called)
        relay = processes.started[1].pid
        for _ in range(3):
            busy.clear()
            desk.decide(6)
            assert busy.wait(20)
            processes.kill([pid for pid in processes.processes() if pid != relay])
            leases_run_out()
            processes.start("-m", "reviewqueue", "worker")
        desk.seconds_until_told()
        assert len(called.once()) == len(desk.decided)
        outcomes = written_down(len(desk.decided))
        assert outcomes["ok"] == len(desk.decided)
        assert outcomes["killed"] > 0


class Desk:
    """Ada, who approves whatever comes, and the bot that waits to be told."""

    def __init__(self, make: Make, called: Listener) -> None:
        self.make, self.called = make, called
        self.project = make.project(undo_seconds=0)
        new = make.backend(self.project, callback=called.url)
        called.secret = new.callback_secret
        self.bot = backend_actor(new.backend.id, self.project.id, ["items:write"])
        self.ada: Actor = make.person("ada")
        self.decided: list[str] = []

    def decide(self, count: int) -> None:
        """Submit and approve so many items."""
        for _ in range(count):
            item = self.make.item(self.project)
            self.make.decide(self.ada, item)
            self.decided.append(item.id)

    def seconds_until_told(self, patience: float = 60) -> float:
        """How long it takes until the bot knows of every decision."""
        began = time.monotonic()
        told = {callback.item for callback in self.called.wait(len(self.decided), patience)}
        missing = set(self.decided) - told
        assert not missing, f"{len(missing)} of {len(self.decided)} decisions were not called back"
        return time.monotonic() - began


def warm_up(desk: Desk, processes: Deployment) -> None:
    """Until worker and relay are there: what is measured is not how long Python takes to import."""
    desk.decide(1)
    desk.seconds_until_told()
    assert not [process for process in processes.started if process.poll() is not None], processes.tail()


def written_down(count: int, seconds: float = 20) -> Counter[str | None]:
    """How attempts ended, once so many were accepted: the bot hears of an event before it is written down."""
    deadline = time.monotonic() + seconds
    while True:
        db.session.rollback()
        outcomes = Counter(db.session.scalars(select(Attempt.outcome)))
        if outcomes["ok"] >= count or time.monotonic() > deadline:
            return outcomes
        time.sleep(0.1)


def slow(called: Listener) -> threading.Event:
    """From now on the bot takes its time; the event is set whenever it is being told something."""
    busy = threading.Event()

    def answer(_event: str) -> int:
        busy.set()
        time.sleep(0.3)
        return 200

    called.refuse = answer
    return busy


def leases_run_out() -> None:
    """As if the minute had passed for which a dead worker's attempts are nobody else's."""
    with transaction() as session:
        # What is being written down at this moment is no loss, and waiting for it may deadlock.
        left = select(Delivery.id).where(Delivery.state == "inflight").with_for_update(skip_locked=True)
        session.execute(
            update(Delivery).where(Delivery.id.in_(session.scalars(left).all())).values(next_attempt_at=now())
        )
