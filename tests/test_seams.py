"""The seams for tests: a statement that fails or ends the process, a clock that is wrong."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta

import pytest

from reviewqueue import create_base, seams
from reviewqueue.db import db, now, transaction
from reviewqueue.models import Leader
from tests.conftest import load_settings


def test_fault_lets_every_statement_fail_and_the_commit(base):
    for number in (1, 2, 3):  # BEGIN (of PostgreSQL: none), the INSERT, COMMIT
        with seams.fault(db.engine, "fail", number) as count:
            if number > 2 and "postgresql" in str(db.engine.url):
                assert count() == 0
                continue
            with pytest.raises(seams.Fault), transaction() as session:
                session.add(Leader(duty="test", holder="me", expires_at=now()))
            assert count() >= number
        assert db.session.get(Leader, "test") is None
        db.session.rollback()
    with seams.fault(db.engine, "fail", 99) as count, transaction() as session:
        session.add(Leader(duty="test", holder="me", expires_at=now()))
    assert count() == (2 if "postgresql" in str(db.engine.url) else 3)
    with transaction():
        pass
    assert db.session.get(Leader, "test") is not None


@pytest.mark.sqlite
def test_fault_of_a_setting_ends_the_process(settings, database, keys_dir):
    if child := os.fork():
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == seams.EXIT_STATUS
        return
    try:
        given = {"DATABASE_URL": database, "REVIEWQUEUE_TEST_FAULT": "exit:2"}
        with create_base(load_settings(settings.data_dir, keys_dir, **given)).app_context():
            db.session.execute(db.select(Leader.duty))
    finally:
        os._exit(1)


def test_clock_is_as_wrong_as_its_file_says(base, tmp_path, monkeypatch):
    assert abs(now() - datetime.now(UTC)) < timedelta(seconds=5)
    monkeypatch.setattr(seams, "_clock_file", tmp_path / "clock")
    assert abs(now() - datetime.now(UTC)) < timedelta(seconds=5)
    (tmp_path / "clock").write_text("-3600")
    assert abs(now() - datetime.now(UTC) + timedelta(hours=1)) < timedelta(seconds=5)


@pytest.mark.sqlite
def test_clock_of_a_setting_is_that_of_the_process(settings, keys_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(seams, "_clock_file", None)
    (tmp_path / "clock").write_text("86400")
    given = {"DATABASE_URL": settings.database_url.replace("+psycopg", "")}
    create_base(load_settings(tmp_path, keys_dir, REVIEWQUEUE_TEST_CLOCK=str(tmp_path / "clock"), **given))
    assert now() - datetime.now(UTC) > timedelta(hours=23)
