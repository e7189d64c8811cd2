"""The whole stack is killed without warning, again and again, while backends submit and people decide.

What was acknowledged must be there once (R1), every decision complete (L2) and called back (R9), the same
bytes at every attempt (R11). What is promised is larger: FIRE_KILLS=500 FIRE_SUBMISSIONS=100000, on each
database. FIRE_SEED repeats a run's moments.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text, update

from reviewqueue import create_base
from reviewqueue.config import Settings
from reviewqueue.db import db, now, transaction
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Delivery
from tests.fire.deployment import Deployment
from tests.fire.halves import half_done
from tests.fire.load import Work, deciding, prepare, reached, submitting
from tests.listener import Listener, listener

USUAL = {"sqlite": (2000, 10), "postgresql": (150, 1)}  # submissions, kills
SEED = int(os.environ.get("FIRE_SEED", "20"))
IN_FLIGHT = 8  # attempts that one worker and the relay may be making when they die


@pytest.fixture
def database_url(request: pytest.FixtureRequest) -> Iterator[str | None]:
    """A fresh, empty PostgreSQL database; None for the embedded SQLite."""
    if request.config.getoption("--database") not in (None, request.param):
        pytest.skip(f"not on {request.param}")
    if request.param == "sqlite":
        yield None
        return
    postgres = request.getfixturevalue("postgres")
    yield postgres.create("fire")
    postgres.drop("fire")


@pytest.mark.parametrize("database_url", USUAL, indirect=True)
def test_kill_of_the_whole_stack_loses_nothing(tmp_path: Path, database_url: str | None) -> None:
    usual = USUAL["postgresql" if database_url else "sqlite"]
    names = ("FIRE_SUBMISSIONS", "FIRE_KILLS")
    count, kills = (int(os.environ.get(name, most)) for name, most in zip(names, usual, strict=True))
    work = Work()
    more = {"DATABASE_URL": database_url} if database_url else {}
    stack = Deployment(tmp_path / "var", **more)
    moments = random.Random(SEED)
    with listener() as called:
        try:
            stack.start("app.py")
            stack.wait_for()
            key, links = prepare(stack, called, tmp_path)
            run(stack, key, links, moments, work, count, kills)
            leases_run_out(stack)
            stack.start("app.py")
            stack.wait_for()
            wait_for_callbacks(stack, called)
        finally:
            stack.kill()
        compare(stack, work, called)
        assert len(work.acknowledged) >= count
        attempts = called.accepted()
        assert attempts.total() - len(attempts) <= (kills + 1) * IN_FLIGHT
        stack.close()


def run(
    stack: Deployment, key: str, links: list[str], moments: random.Random, work: Work, count: int, kills: int
) -> None:
    """Keep clients busy, and kill all of it so many times."""
    clients = [threading.Thread(target=submitting, args=(stack.url, key, work)) for _ in range(4)]
    clients += [threading.Thread(target=deciding, args=(stack.url, link, work)) for link in links]
    for client in clients:
        client.start()
    try:
        for number in range(1, kills + 1):
            reached(work, number * count // (kills + 1))
            time.sleep(moments.random() * 0.3)
            assert stack.kill() >= 5  # supervisor, Redis, web, worker, relay at the least
            inspect(stack, f"after kill {number}")
            stack.start("app.py")
        reached(work, count)
        deadline = time.monotonic() + 60
        while (
            not work.decided and time.monotonic() < deadline
        ):  # with few kills the people may just be beginning
            time.sleep(0.1)
    finally:
        work.stop.set()
        for client in clients:
            client.join(60)
    stack.kill()
    inspect(stack, "at the end")


def inspect(stack: Deployment, when: str) -> None:
    """What is on disk is whole: nothing half done, and the ledger verifies."""
    app = create_base(Settings.load(stack.environ | {"REVIEWQUEUE_ENV": "test"}))
    with app.app_context():
        assert half_done() == [], when
        db.session.remove()
        report = verify()
        assert report.ok, f"{when}: {report.problem}"
        db.engine.dispose()


def leases_run_out(stack: Deployment) -> None:
    """As if the minute had passed for which the dead processes' attempts are nobody else's."""
    app = create_base(Settings.load(stack.environ | {"REVIEWQUEUE_ENV": "test"}))
    with app.app_context():
        with transaction() as session:
            taken = update(Delivery).where(Delivery.state == "inflight")
            session.execute(taken.values(next_attempt_at=now()))
        db.engine.dispose()


def wait_for_callbacks(stack: Deployment, called: Listener, seconds: float = 90) -> None:
    """Until nothing is on its way any more."""
    app = create_base(Settings.load(stack.environ | {"REVIEWQUEUE_ENV": "test"}))
    deadline = time.monotonic() + seconds
    query = text("SELECT count(*) FROM delivery WHERE state NOT IN ('delivered', 'cancelled')")
    with app.app_context():
        while left := db.session.execute(query).scalar_one():
            db.session.rollback()
            assert time.monotonic() < deadline, f"{left} decisions were not called back"
            time.sleep(0.2)
        db.session.remove()
        db.engine.dispose()


def compare(stack: Deployment, work: Work, called: Listener) -> None:
    """What the clients were told against what is there."""
    app = create_base(Settings.load(stack.environ | {"REVIEWQUEUE_ENV": "test"}))
    with app.app_context():
        stored: dict[str, str] = dict(rows("SELECT key, item_id FROM submission"))
        items = rows("SELECT external_id, id FROM item")
        decisions = {
            id: (item, verdict) for id, item, verdict in rows("SELECT id, item_id, verdict FROM decision")
        }
        told = dict(rows("SELECT id, item_id FROM delivery"))
        db.session.remove()
        db.engine.dispose()
    lost = {key for key, item in work.acknowledged.items() if stored.get(key) != item}
    assert not work.wrong, work.wrong[:3]
    assert not lost, f"{len(lost)} of {len(work.acknowledged)} acknowledged submissions are lost"
    assert len(items) == len(stored) == len(dict(items)), "an item is there twice"
    assert work.unknown > 0, "no request was cut off: the kills came at idle moments"

    assert work.decided, "nobody decided anything"
    assert {id: decisions.get(id) for id in work.decided} == work.decided
    assert not called.forged
    assert {callback.id: callback.item for callback in called.once()} == told
    assert len({(callback.id, callback.body) for callback in called.callbacks}) == len(called.accepted())


def rows(query: str) -> list[Any]:
    return [tuple(row) for row in db.session.execute(text(query))]
