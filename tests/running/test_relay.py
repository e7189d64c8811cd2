"""Nothing that is due is forgotten: with Redis, without it, and when it lost everything."""

from __future__ import annotations

import os
import signal
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select, update

from reviewqueue.background import JOBS, work
from reviewqueue.db import db, now, transaction
from reviewqueue.models import Leader
from reviewqueue.running import relay as relays
from reviewqueue.running.relay import LEASE, Relay, relay


@pytest.fixture
def heard(tmp_path, monkeypatch):
    """The only jobs here are those of tests/bells.py; nothing is due until `due()` is called."""
    path = tmp_path / "heard"
    monkeypatch.setenv("BELL_FILE", str(path))
    for name in list(JOBS):
        monkeypatch.delitem(JOBS, name)
    monkeypatch.setitem(JOBS, "prepare", "tests.bells.once")
    return lambda: path.read_text().split() if path.exists() else []


def _make_due() -> None:
    Path(os.environ["BELL_FILE"] + ".due").touch()


@pytest.fixture
def turn(base, heard):
    turn = Relay(base)
    yield turn
    turn.pool.shutdown()


def _soon(true, seconds=5.0):
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


def _let_the_lease_run_out() -> None:
    with transaction() as session:
        session.execute(update(Leader).values(expires_at=now() - timedelta(seconds=1)))


def test_leads_is_one_at_a_time_and_a_spare_takes_over(base, turn):
    spare = Relay(base)
    assert turn.leads()
    assert not spare.leads()
    assert db.session.scalars(select(Leader.holder)).all() == [turn.holder]
    db.session.rollback()
    _let_the_lease_run_out()
    spare.renew_at = turn.renew_at = 0.0
    assert spare.leads()
    assert not turn.leads()


def test_leads_keeps_its_lease_by_renewing_it(turn):
    assert turn.leads()
    before = db.session.scalar(select(Leader.expires_at))
    db.session.rollback()
    turn.renew_at = 0.0
    assert turn.leads()
    assert before < db.session.scalar(select(Leader.expires_at)) <= now() + LEASE


def test_leads_is_one_of_many_that_begin_at_once(base, turn):
    relays_ = [Relay(base) for _ in range(6)]
    gate = threading.Barrier(len(relays_))
    leading = []

    def ask(one: Relay) -> None:
        gate.wait()
        for _ in range(3):
            try:
                with base.app_context():
                    leading.append(one.holder) if one.leads() else None
                return
            except Exception:
                time.sleep(0.05)

    threads = [threading.Thread(target=ask, args=(one,)) for one in relays_]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(leading) == 1


def test_resign_lets_the_spare_lead_at_once(base, heard):
    first, spare = Relay(base), Relay(base)
    assert first.leads()
    first.resign()
    assert spare.leads()


@pytest.mark.sqlite
def test_tick_rings_what_is_due_and_leaves_it_to_workers(redis_server, base, turn, heard, quiet_signals):
    _make_due()
    turn.tick()
    assert heard() == []
    work(base, burst=True)
    assert heard() == ["once"]
    turn.tick()
    work(base, burst=True)
    assert heard() == ["once"]


@pytest.mark.sqlite
def test_tick_does_the_work_itself_when_redis_is_away(turn, heard):
    _make_due()
    turn.tick()
    assert _soon(lambda: heard() == ["once"])


@pytest.mark.sqlite
def test_tick_rings_again_when_redis_lost_everything(redis_server, base, turn, heard, quiet_signals):
    _make_due()
    turn.tick()
    with redis_server.client() as client:
        client.flushall()
    turn.tick()
    work(base, burst=True)
    assert heard() == ["once"]


@pytest.mark.sqlite
def test_tick_does_the_work_itself_when_nobody_came(redis_server, turn, heard, monkeypatch):
    monkeypatch.setattr(relays, "PATIENCE_SECONDS", 0.2)
    _make_due()
    turn.tick()
    turn.tick()
    assert heard() == []
    time.sleep(0.25)
    turn.tick()
    assert _soon(lambda: heard() == ["once"])


@pytest.mark.sqlite
def test_tick_is_patient_while_workers_come(redis_server, base, turn, heard, monkeypatch, quiet_signals):
    monkeypatch.setattr(relays, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setitem(JOBS, "prepare", "tests.bells.chime")  # stays due
    _make_due()
    for _ in range(4):
        turn.tick()
        work(base, burst=True)
        time.sleep(0.15)
    assert heard() == ["chime"] * 4


@pytest.mark.sqlite
def test_tick_asks_for_upkeep_every_minute_though_nothing_is_due(turn, heard, monkeypatch):
    monkeypatch.delitem(JOBS, "prepare")
    monkeypatch.setitem(JOBS, "upkeep", "tests.bells.chime")
    turn.tick()
    assert _soon(lambda: heard() == ["chime"])
    turn.tick()
    time.sleep(0.1)
    assert heard() == ["chime"]
    turn.upkeep_at -= relays.UPKEEP_SECONDS
    turn.tick()
    assert _soon(lambda: heard() == ["chime"] * 2)


@pytest.mark.sqlite
def test_tick_looks_after_the_others_when_one_job_cannot_be_asked(turn, heard, monkeypatch, caplog):
    monkeypatch.setitem(JOBS, "prepare", "tests.bells.missing")
    monkeypatch.setitem(JOBS, "learn", "tests.bells.once")
    _make_due()
    turn.tick()
    assert _soon(lambda: heard() == ["once"])
    assert "could not look after prepare" in caplog.text


@pytest.mark.sqlite
def test_relay_once_does_all_that_is_due_here_and_says_so(base, heard):
    _make_due()
    assert relay(base, once=True) == {"prepare": 1}
    assert heard() == ["once"]
    assert relay(base, once=True) == {}


@pytest.mark.sqlite
def test_relay_works_until_it_is_told_to_stop_and_gives_the_lease_back(base, heard, quiet_signals):
    _make_due()

    def tell() -> None:
        _soon(lambda: heard() == ["once"])
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=tell).start()
    relay(base)
    assert heard() == ["once"]
    assert db.session.scalars(select(Leader)).all() == []
