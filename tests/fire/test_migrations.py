"""A migration that is cut off at any statement (R21) leaves the old version; the next start mends that.

FIRE_MIGRATIONS=1 ends the process at every statement; here it ends at a few that chance picks.
"""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from flask import Flask

from reviewqueue import create_base, schema, seams
from reviewqueue.config import Settings
from reviewqueue.db import db
from reviewqueue.running import startup
from tests.conftest import load_settings

ALL = os.environ.get("FIRE_MIGRATIONS") == "1"
SOME = 3  # statements to end at, besides the last

SQLITE_SCHEMA = "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2"
POSTGRES_SCHEMA = """
    SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns
    WHERE table_schema = 'public'
    UNION ALL SELECT indexname, indexdef, '', '', '' FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT tgrelid::regclass::text, tgname, '', '', '' FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '' FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2, 3
"""


@pytest.fixture
def empty(request: pytest.FixtureRequest, database: str, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database of the same kind as `database`."""
    if database.startswith("sqlite"):
        yield f"sqlite:///{tmp_path}/empty.sqlite3"
        return
    postgres = request.getfixturevalue("postgres")
    yield postgres.create("empty")
    postgres.drop("empty")


def described(url: str) -> list[Any]:
    """Every table, column, index, constraint and trigger, through a connection of its own."""
    if url.startswith("sqlite"):
        live = sqlite3.connect(url.removeprefix("sqlite:///"))
        rows = live.execute(SQLITE_SCHEMA).fetchall()
        live.close()
        return rows
    with psycopg.connect(url) as connection:
        return connection.execute(POSTGRES_SCHEMA).fetchall()


def stands_at(app: Flask) -> str | None:
    with app.app_context():
        found = schema.version()
        db.session.remove()
        db.engine.dispose()
    return found


def upgrade(to: str) -> None:
    with schema.connection() as live:
        command.upgrade(schema._config(live), to)


def cut_off(app: Flask, number: int, to: str) -> bool:
    """Migrate in a process that ends at this statement; whether it came so far."""
    child = os.fork()
    if child == 0:
        try:
            with app.app_context(), seams.fault(db.engine, "exit", number):
                upgrade(to)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == seams.EXIT_STATUS


def statements(app: Flask, to: str) -> int:
    """How many statements a migration sends up to its COMMIT, which is kept from happening."""
    with app.app_context(), seams.fault(db.engine, "fail", 10**9) as count:
        with pytest.raises(seams.Fault), schema.connection() as live:
            command.upgrade(schema._config(live), to)
            raise seams.Fault
        db.engine.dispose()
        return count() + 1


@pytest.mark.parametrize("old", [None, "0001"])
def test_a_migration_that_is_cut_off_is_mended_by_the_next_start(
    old: str | None, empty: str, database: str, tmp_path: Path, keys_dir: Path
) -> None:
    settings = load_settings(tmp_path, keys_dir, DATABASE_URL=empty)
    app = create_base(settings)
    if old is not None:
        with app.app_context():
            upgrade(old)
            db.engine.dispose()
    count = statements(app, "head")
    assert count > 5
    check(app, empty, range(1, count + 1) if ALL else [*random.sample(range(1, count), SOME), count])
    mended(settings, database)


def check(app: Flask, url: str, chosen: Iterable[int]) -> None:
    """Cut a migration to the newest schema off at the `chosen` statements: nothing may have changed."""
    before, old = described(url), stands_at(app)
    for number in chosen:
        assert cut_off(app, number, "head"), f"it did not come to statement {number}"
        assert described(url) == before, f"changed by what came before statement {number}"
        assert stands_at(app) == old


def mended(settings: Settings, database: str) -> None:
    """The next start makes the schema that an undisturbed one makes."""
    app = startup.open_base(settings)
    assert stands_at(app) == schema_head(app)
    assert described(settings.database_url.replace("+psycopg", "")) == described(database)


def schema_head(app: Flask) -> str | None:
    with app.app_context():
        return schema.head()


# --- can it fail? ---------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_the_tool_notices_a_migration_outside_a_transaction(
    empty: str, tmp_path: Path, keys_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_base(load_settings(tmp_path, keys_dir, DATABASE_URL=empty))
    count, connection = statements(app, "head"), schema.connection

    @contextmanager
    def hasty() -> Iterator[Any]:
        with connection() as live:
            driver: Any = live.connection.driver_connection
            driver.execute("COMMIT")  # every statement for itself
            yield live

    monkeypatch.setattr(schema, "connection", hasty)
    with pytest.raises(AssertionError, match="changed by what came before"):
        check(app, empty, [count // 2])
