"""What stands in the way of a start: a database that would lose what it stored."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest

from reviewqueue.config import ConfigError
from reviewqueue.running import startup
from tests.conftest import load_settings
from tests.servers import Postgres


@pytest.fixture(params=["fsync", "full_page_writes"])
def unsafe(request: pytest.FixtureRequest, postgres: Postgres) -> Iterator[str]:
    """The name of a setting with which PostgreSQL runs meanwhile, and which loses data."""
    _set(postgres, request.param, "off")
    yield request.param
    _set(postgres, request.param, "on")


def _set(postgres: Postgres, name: str, to: str) -> None:
    postgres.admin(f"ALTER SYSTEM SET {name} = {to}")
    postgres.admin("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 10
    while postgres.admin(f"SHOW {name}") != [(to,)]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.postgresql
def test_production_refuses_a_database_that_loses_data_in_a_power_cut(
    unsafe, database, keys_dir, tmp_path
) -> None:
    given = {"DATABASE_URL": database, "REVIEWQUEUE_PUBLIC_URL": "https://review.example"}
    settings = load_settings(tmp_path, keys_dir, REVIEWQUEUE_ENV="production", **given)
    with pytest.raises(ConfigError, match=f"PostgreSQL runs with {unsafe} off"):
        startup.open_base(settings)
    assert startup.open_base(load_settings(tmp_path, keys_dir, **given))


@pytest.mark.postgresql
def test_production_starts_on_a_database_that_keeps_what_it_stored(database, keys_dir, tmp_path) -> None:
    given = {"DATABASE_URL": database, "REVIEWQUEUE_PUBLIC_URL": "https://review.example"}
    assert startup.open_base(load_settings(tmp_path, keys_dir, REVIEWQUEUE_ENV="production", **given))


@pytest.mark.postgresql
def test_our_connections_wait_until_a_commit_is_on_disk(base, database) -> None:
    from reviewqueue.db import db

    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as other:
        other.execute("ALTER ROLE CURRENT_USER SET synchronous_commit = off")
    try:
        db.engine.dispose()
        with db.engine.connect() as connection:
            assert startup.unsafe(connection) == []
    finally:
        with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as other:
            other.execute("ALTER ROLE CURRENT_USER RESET synchronous_commit")
