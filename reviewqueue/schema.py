"""The schema of a live database: brings it to the newest migration, and says whether it is there.

All pending migrations are one transaction on both databases, so a process killed in the middle leaves
the old schema. This must never be called inside `transaction()`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from reviewqueue import models  # noqa: F401  the tables must be known before they are compared
from reviewqueue.db import WRITING, Base, Time, db

FOLDER = Path(__file__).resolve().parent.parent / "migrations"

# Full-text indexes are written by hand in each database's own words; the models do not describe them.
BY_HAND = "search_"
_LOCK = 7213905501  # PostgreSQL advisory lock: one machine migrates at a time


def _config(live: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = live
    return config


def _render(kind: str, thing: Any, _context: Any) -> str | bool:
    """Write our column type as the plain one: a migration must not change when our code does."""
    return "sa.DateTime(timezone=True)" if kind == "type" and isinstance(thing, Time) else False


def _include(name: str | None, kind: str, parents: Any) -> bool:
    table = name if kind == "table" else parents.get("table_name")
    return not (table or "").startswith(BY_HAND) and not (name or "").startswith(BY_HAND)


def options() -> dict[str, Any]:
    """What Alembic's context is configured with, here and where models and database are compared."""
    return {
        "target_metadata": Base.metadata,
        "render_as_batch": True,
        "transactional_ddl": True,
        "compare_type": True,
        "render_item": _render,
        "include_name": _include,
    }


@contextmanager
def connection() -> Iterator[Connection]:
    """A connection fit for migrations: no time-outs; on SQLite no foreign keys while tables are rebuilt."""
    with db.engine.connect() as raw:
        live = raw.execution_options(**WRITING)
        sqlite = live.dialect.name == "sqlite"
        driver = live.connection.driver_connection
        assert driver is not None
        if sqlite:
            # The pragma does nothing inside a transaction, and SQLAlchemy begins one for any statement.
            driver.execute("PRAGMA foreign_keys=OFF")
        try:
            with live.begin():
                if not sqlite:
                    live.exec_driver_sql("SET LOCAL statement_timeout = 0")
                    live.exec_driver_sql("SET LOCAL lock_timeout = 0")
                    live.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
                yield live
                if sqlite and live.exec_driver_sql("PRAGMA foreign_key_check").first():
                    raise RuntimeError("a migration left rows that refer to nothing")
        finally:
            if sqlite:
                driver.execute("PRAGMA foreign_keys=ON")


def run(context: Any, live: Connection) -> None:
    """What `migrations/env.py` does with a connection."""
    context.configure(connection=live, **options())
    with context.begin_transaction():
        context.run_migrations()


def migrate() -> bool:
    """Bring the database of the current app to the newest schema; returns whether anything changed."""
    with connection() as live:
        before = MigrationContext.configure(live).get_current_revision()
        command.upgrade(_config(live), "head")
    return before != head()


def version() -> str | None:
    """The migration the database stands at; None when it is empty."""
    with db.engine.connect() as live:
        return MigrationContext.configure(live).get_current_revision()


def head() -> str | None:
    """The newest migration this code brings."""
    return ScriptDirectory.from_config(_config()).get_current_head()
