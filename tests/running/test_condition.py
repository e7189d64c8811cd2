"""What is wrong is said on every page of who is signed in, calmly, and no page waits for it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from reviewqueue import background
from reviewqueue.db import db, now, transaction
from reviewqueue.models import Delivery, Leader, LedgerHead
from reviewqueue.running import condition
from reviewqueue.running.condition import Watch, look
from tests.make import Make
from tests.servers import Redis


def said() -> list[str]:
    return [found.text for found in look()]


@pytest.fixture
def leading(settings: Any, redis_server: Redis, base: Flask) -> Iterator[Redis]:
    """All is well: Redis answers and a relay leads."""
    lead(now() + timedelta(seconds=10))
    assert said() == []
    yield redis_server
    (settings.data_dir / "redis-away").unlink(missing_ok=True)


def lead(until: Any) -> None:
    with transaction() as session:
        session.merge(Leader(duty="relay", holder="me", expires_at=until))


def told(make: Make, **values: Any) -> Delivery:
    """A delivery that is due, or whatever `values` make of it."""
    project = make.project(undo_seconds=0)
    make.backend(project, callback="http://127.0.0.1:9/")
    make.decide(make.person("ada"), make.item(project))
    with transaction() as session:
        session.execute(update(Delivery).values(**values))
    return db.session.query(Delivery).one()


def test_look_says_since_when_redis_is_away(leading: Redis) -> None:
    leading.kill()
    began = now()
    assert not background.ring("deliver")
    time.sleep(0.05)
    (found,) = look()
    assert found.text == "Callbacks may be delayed: Redis away"
    assert found.since is not None
    assert abs(found.since - began) < timedelta(seconds=2)
    assert [again.since for again in look()] == [found.since], "since then, not since the last look"
    leading.start()
    assert said() == []


def test_look_says_since_when_no_relay_runs(leading: Redis) -> None:
    ended = now() - timedelta(seconds=30)
    lead(ended)
    (found,) = look()
    assert (found.text, found.since) == ("Callbacks may be delayed: no relay running", ended)


def test_look_says_that_callbacks_are_late_and_tells_receivers_faults_apart(
    leading: Redis, make: Make
) -> None:
    since = now() - timedelta(minutes=5)
    told(make, next_attempt_at=since)
    (found,) = look()
    assert (found.text, found.since) == ("Callbacks are late: the oldest waits", since)
    lead(since)
    assert said() == ["Callbacks are late: no relay running"]
    lead(now() + timedelta(seconds=10))
    with transaction() as session:
        session.execute(db.text("UPDATE endpoint SET failing_since = :now"), {"now": now().isoformat(" ")})
    assert said() == []


def test_look_says_how_many_callbacks_died_lately(leading: Redis, make: Make) -> None:
    told(make, state="dead", ended_at=now())
    (found,) = look()
    assert (found.text, found.address) == (
        "1 callback could not be delivered in the last 3 days", "/deliveries?state=dead",
    )  # fmt: skip
    with transaction() as session:
        session.execute(update(Delivery).values(ended_at=now() - timedelta(days=4)))
    assert said() == []


def test_look_says_that_the_ledger_has_stopped(leading: Redis, make: Make) -> None:
    make.person("ada")
    with transaction() as session:
        session.execute(update(LedgerHead).values(size=LedgerHead.size + 1))
    assert said() == ["The ledger has stopped: nothing can be decided until an operator has looked at it"]


@pytest.mark.sqlite
def test_look_says_that_the_disk_fills(leading: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    for free, words in (
        (600 << 20, "The storage is nearly full"),
        (100 << 20, "The storage is full: nothing"),
    ):
        usage = shutil._ntuple_diskusage(100 << 30, 0, free)
        monkeypatch.setattr(shutil, "disk_usage", lambda _path, usage=usage: usage)
        (found,) = look()
        assert found.text.startswith(words)


@pytest.mark.sqlite
def test_pages_show_what_was_found_last_and_wait_for_nothing(
    app: Flask, client: Callable[..., Any], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, nobody = client(make.person("ada")), client()
    monkeypatch.setattr(
        condition, "look", lambda: time.sleep(0.3) or [condition.Condition("Callbacks <late>")]
    )
    app.extensions["conditions"] = watch = Watch(app)
    try:
        began = time.monotonic()
        assert "Callbacks" not in ada.get("/").text
        assert time.monotonic() - began < 0.3
        assert watch.looking.acquire(timeout=5)
        watch.looking.release()
        assert "Callbacks &lt;late&gt;" in ada.get("/account").text
        assert "Callbacks" not in nobody.get("/login").text
    finally:
        del app.extensions["conditions"]
