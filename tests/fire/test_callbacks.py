"""Callbacks under fire: workers, Redis and PostgreSQL are killed, receivers hang, secrets are rotated.

The release gate is larger: FIRE_CALLBACKS=10000 FIRE_CALLBACK_KILLS=100 FIRE_HANG_SECONDS=120
FIRE_ROTATED=5000. FIRE_SEED repeats a run's moments.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import pytest
from flask import Flask
from sqlalchemy import select
from sqlalchemy.exc import OperationalError
from standardwebhooks import Webhook, WebhookVerificationError

from reviewqueue.db import db
from reviewqueue.delivery.breaker import IN_FLIGHT
from reviewqueue.delivery.deliver import deliver_due
from reviewqueue.delivery.replay import Which, replay_all
from reviewqueue.delivery.signature import signed_headers
from reviewqueue.ids import new_id
from reviewqueue.models import Decision, Delivery, Item
from reviewqueue.people.backends import revoke_secrets, rotate_secret
from tests.fire.deployment import Deployment
from tests.fire.proxy import proxy
from tests.fire.test_redis import AWAY_SECONDS, Desk, leases_run_out, processes, warm_up
from tests.listener import listener
from tests.make import Make
from tests.receiver import Answer, Heard, receiver
from tests.servers import Postgres, Redis

__all__ = ["processes"]  # a fixture

CALLBACKS = int(os.environ.get("FIRE_CALLBACKS", "100"))
KILLS = int(os.environ.get("FIRE_CALLBACK_KILLS", "3"))
HANG_SECONDS = float(os.environ.get("FIRE_HANG_SECONDS", "12"))
ROTATED = int(os.environ.get("FIRE_ROTATED", "200"))
SEED = int(os.environ.get("FIRE_SEED", "20"))
ROTATIONS = 10
DOWN_SECONDS = 0.3  # of the database, besides what its start takes

T = TypeVar("T")


def test_every_decision_ends_delivered_while_workers_redis_and_the_database_are_killed(
    request: pytest.FixtureRequest, redis_server: Redis, processes: Deployment, make: Make
) -> None:
    moments = random.Random(SEED)
    with listener() as called:
        desk = Desk(make, called)
        warm_up(desk, processes)
        for kill in blows(request, redis_server, processes, desk):
            decide(desk, CALLBACKS // (2 * KILLS))
            time.sleep(moments.random() * 0.2)
            kill()
        decide(desk, CALLBACKS - len(desk.decided))
        leases_run_out()
        desk.seconds_until_told(90)

        assert not called.forged
        assert {callback.item for callback in called.once()} == set(desk.decided)
        assert len(called.once()) == len(desk.decided)
        again = called.accepted().total() - len(called.once())
        assert again <= (KILLS + 1) * IN_FLIGHT
        assert len({(callback.id, callback.body) for callback in called.callbacks}) == len(called.once())
        # What was killed between the answer and writing it down is attempted again after its lease.
        leases_run_out()
        wait_until(lambda: states() == {"delivered"}, 30)


def blows(
    request: pytest.FixtureRequest, redis_server: Redis, processes: Deployment, desk: Desk
) -> Iterator[Callable[[], object]]:
    """What is killed, in turn: a worker with its job, all that Redis knows, Redis, PostgreSQL."""
    relay = processes.started[1].pid

    def worker() -> None:
        processes.kill([pid for pid in processes.processes() if pid != relay])
        processes.start("-m", "reviewqueue", "worker")

    def flush() -> None:
        with redis_server.client() as client:
            client.flushall()

    def redis() -> None:
        redis_server.kill()
        redis_server.start()

    def database() -> None:
        if db.engine.dialect.name == "postgresql":
            running: Postgres = request.getfixturevalue("postgres")
            before = started_at(running)
            again = threading.Thread(target=running.restart, args=(DOWN_SECONDS,))
            again.start()
            met = sum(decide(desk, 1) for _ in iter(again.is_alive, False))
            again.join()
            assert started_at(running) > before
            assert met > 0, "nobody noticed that the database was away"

    for number in range(KILLS):
        yield worker
        yield (flush, redis, database)[number % 3]


def started_at(running: Postgres) -> Any:
    return running.admin("SELECT pg_postmaster_start_time()")


def decide(desk: Desk, count: int) -> int:
    """So many decisions, whatever the database has been through; how often it had no answer."""
    away = 0
    for _ in range(count):
        item, item_away = insist(lambda: str(desk.make.item(desk.project).id))
        _, decision_away = insist(lambda: decide_once(desk, item))  # noqa: B023
        desk.decided.append(item)
        away += item_away + decision_away
    return away


def decide_once(desk: Desk, item: str) -> None:
    """Decide the item unless it is decided: a commit that was not answered may have happened."""
    made = db.session.scalar(select(Decision.id).where(Decision.item_id == item))
    if made is None:
        desk.make.decide(desk.ada, db.session.scalars(select(Item).where(Item.id == item)).one())


def insist(act: Callable[[], T], seconds: float = 30) -> tuple[T, int]:
    """What `act` gives once the database answers, and how often it did not."""
    deadline = time.monotonic() + seconds
    for away in itertools.count():
        try:
            return act(), away
        except OperationalError:
            assert time.monotonic() < deadline
            with suppress(OperationalError):
                db.session.rollback()
            time.sleep(0.02)
    raise AssertionError


def states() -> set[str]:
    db.session.rollback()
    told = select(Delivery.state).where(Delivery.state != "cancelled").distinct()
    return set(db.session.scalars(told))


def wait_until(so: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.sqlite
def test_callbacks_go_on_while_redis_hangs_or_takes_no_writes(
    redis_server: Redis, processes: Deployment, make: Make
) -> None:
    with listener() as called:
        desk = Desk(make, called)
        warm_up(desk, processes)
        assert redis_server.child is not None
        redis_server.child.send_signal(signal.SIGSTOP)
        try:
            desk.decide(40)
            took = desk.seconds_until_told()
        finally:
            redis_server.child.send_signal(signal.SIGCONT)
        assert took < AWAY_SECONDS
        assert 40 / took > 10 or took < 5

        with redis_server.client() as client:
            client.replicaof("127.0.0.1", "1")
            try:
                desk.decide(20)
                assert desk.seconds_until_told() < AWAY_SECONDS
            finally:
                client.replicaof("NO", "ONE")
        desk.decide(5)
        assert desk.seconds_until_told() < AWAY_SECONDS


# --- receivers that hang --------------------------------------------------------------------------


@pytest.mark.sqlite
def test_receivers_that_hang_keep_no_other_waiting(
    redis_server: Redis, processes: Deployment, make: Make
) -> None:
    """Half of eight receivers hang: the others hear within three times what it took before, and 2 s."""
    processes.start("-m", "reviewqueue", "worker")
    heard_at: dict[str, float] = {}

    def note(heard: Heard) -> Answer:
        heard_at.setdefault(heard.event["data"]["id"], time.monotonic())
        return 200, {}, b""

    with receiver() as backend, proxy(backend.url) as hanging:
        backend.answer = note
        projects = [make.project(f"project-{number}", undo_seconds=0) for number in range(8)]
        for number, project in enumerate(projects):
            make.backend(project, callback=(hanging if number % 2 else backend).url)
        latencies(make, projects, heard_at, seconds=2)  # until the processes are there
        baseline = latencies(make, projects, heard_at, seconds=4)
        hanging.mode = "hang"
        well = latencies(make, projects, heard_at, seconds=HANG_SECONDS)[::2]
        assert hanging.hung >= 4
        hanging.mode = "reset"
        assert p95(well) <= min(max(3 * p95(baseline), 0.75), 2.0), (p95(well), p95(baseline))


def latencies(make: Make, projects: list[Any], heard_at: dict[str, float], seconds: float) -> list[float]:
    """How long it took until each decision was heard, at about five a second."""
    decided_at: dict[str, float] = {}
    ada, end = make.person("ada"), time.monotonic() + seconds
    for project in itertools.cycle(projects):
        if time.monotonic() > end and len(decided_at) % len(projects) == 0:
            break
        item = make.item(project)
        make.decide(ada, item)
        decided_at[item.id] = time.monotonic()
        time.sleep(0.17)
    time.sleep(2)
    return [heard_at.get(item, time.monotonic()) - at for item, at in decided_at.items()]


def p95(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]


# --- secrets --------------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_rotating_secrets_under_load_refuses_nothing_and_revoking_is_done_in_a_second(
    app: Flask, make: Make
) -> None:
    project = make.project(undo_seconds=0)
    with receiver() as backend:
        new = make.backend(project, callback=backend.url)
        caller = Caller(app, new.backend.name, new.inbound_secret, new.callback_secret)
        backend.answer = caller.judge
        for _ in range(5):
            make.decide(make.person("ada"), make.item(project))
        deliver_due()
        dora, lead = make.person("dora"), make.person("cleo")
        load = [threading.Thread(target=caller.submit_all), threading.Thread(target=caller.deliver_all)]
        for thread in load:
            thread.start()
        for number in range(ROTATIONS):
            wait_until(lambda: caller.answered() >= (number + 1) * ROTATED // (ROTATIONS + 1), 120)  # noqa: B023
            inbound = rotate_secret(dora, new.backend, "inbound")
            callback = rotate_secret(dora, new.backend, "callback")
            sum(replay_all(lead, Which()))
            # A moment later, as a person would.
            caller.earlier = caller.callback
            caller.inbound, caller.callback = inbound, callback
        wait_until(lambda: caller.answered() >= ROTATED, 120)
        caller.stop.set()
        for thread in load:
            thread.join(60)
        assert caller.refused == []
        assert len(caller.accepted) >= 5

        while states() != {"delivered"}:
            deliver_due()
        # Nothing is on its way now: whatever is signed from here on, the newest secret must verify.
        caller.earlier, before = None, len(caller.accepted)
        assert sum(replay_all(lead, Which())) >= 5
        deliver_due()
        assert caller.refused == []
        assert len(caller.accepted) >= before + 5

        old = caller.inbound
        caller.inbound = rotate_secret(dora, new.backend, "inbound")
        assert caller.submit(old) == 201
        began = time.monotonic()
        revoke_secrets(dora, new.backend, "inbound")
        while caller.submit(old) != 401:
            assert time.monotonic() - began < 1.0
        assert caller.submit(caller.inbound) == 201


class Caller:
    """A backend that submits, is called back, and learns of a new secret a moment after it was made."""

    def __init__(self, app: Flask, name: str, inbound: str, callback: str) -> None:
        self.app, self.path = app, f"/webhooks/{name}"
        self.inbound, self.callback = inbound, callback
        self.earlier: str | None = None  # the secret before, while what it signed may be on its way
        self.stop = threading.Event()
        self.statuses: list[int] = []
        self.accepted: list[str] = []
        self.refused: list[str] = []

    def answered(self) -> int:
        return len(self.statuses)

    def submit(self, secret: str) -> int:
        """The status of one submission signed with this secret."""
        data = {"project": "support-replies", "output": "It left on Monday.", "confidence": 0.99}
        body = json.dumps({"type": "item.submit", "data": data}).encode()
        headers = signed_headers(new_id("msg"), int(time.time()), body, [secret])
        return int(self.app.test_client().post(self.path, data=body, headers=headers).status_code)

    def submit_all(self) -> None:
        while not self.stop.is_set():
            status = self.submit(self.inbound)
            self.statuses.append(status)
            if status != 201:
                self.refused.append(f"submission {status}")

    def deliver_all(self) -> None:
        with self.app.app_context():
            while not self.stop.is_set():
                deliver_due()
                db.session.remove()
                time.sleep(0.01)

    def on_its_way(self, heard: Heard) -> bool:
        """Whether the secret before signed it: it was sent before this backend learned the new one."""
        if self.earlier is None:
            return False
        try:
            Webhook(self.earlier).verify(heard.body.decode(), heard.headers)
        except WebhookVerificationError:
            return False
        return True

    def judge(self, heard: Heard) -> Answer:
        try:
            Webhook(self.callback).verify(heard.body.decode(), heard.headers)
        except WebhookVerificationError:
            if not self.on_its_way(heard):
                self.refused.append(f"callback {heard.id}")
                return 401, {}, b""
        self.accepted.append(heard.id)
        return 200, {}, b""
