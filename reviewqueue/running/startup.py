"""What every process does before it begins: a data folder, keys, the schema.

Whatever stands in the way becomes one ConfigError that says how to mend it. Keys are made in development
and tests only; production never gets one by itself.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from flask import Flask
from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from reviewqueue import create_base, logs, schema
from reviewqueue.config import KEY_NAMES, ConfigError, Settings, create_keys
from reviewqueue.db import db
from reviewqueue.ledger import known
from reviewqueue.running import traces

log = logging.getLogger("reviewqueue.running.startup")

# With one of these off a power cut takes back what PostgreSQL said was stored.
LASTING = ("fsync", "full_page_writes", "synchronous_commit")


def load(environ: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process, its data folder writable and its keys there."""
    settings = Settings.load(environ)
    _check_folder(settings.data_dir)
    if settings.env != "production":
        try:
            create_keys(settings.keys_dir)
        except OSError as error:
            raise ConfigError(f"keys cannot be made in {settings.keys_dir}: {error.strerror}") from None
    for name in KEY_NAMES:
        settings.key(name)  # also those this process never opens: a bad one is found now, not in an outage
    return settings


def _check_folder(folder: Path) -> None:
    remedy = "mend its permissions or set REVIEWQUEUE_DATA_DIR"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        probe = folder / f".probe.{secrets.token_hex(8)}"
        probe.touch()
        probe.unlink()
        list(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"the data folder {folder} cannot be used: {error.strerror}; {remedy}") from None


def open_base(settings: Settings) -> Flask:
    """The application without pages, its database at the newest schema.

    An empty database is always filled. An older one is migrated, but in production only by `migrate`.
    """
    app = create_base(settings)
    with app.app_context():
        ensure_schema(settings)
    return app


def open_for_jobs(stays: bool) -> Flask:
    """The application of a worker or relay; one that stays tells what it does in lines of JSON."""
    if stays:
        logs.configure_process()
        traces.install("jobs")
    return open_base(load())


def ensure_schema(settings: Settings) -> None:
    """Bring the database of the current app up to date, or ConfigError; leaves no connection open."""
    try:
        stands, wanted = schema.version(), schema.head()
        if stands is not None and stands != wanted and settings.env == "production":
            raise ConfigError(
                f"the database is at schema {stands} and this version needs {wanted}: back it up, then run "
                "`python -m reviewqueue migrate`"
            )
        if settings.env == "production":
            _check_lasting()
        if stands != wanted:
            schema.migrate()
        known.note()
        if (gone := known.rolled_back()) is not None:
            log.warning("%s", gone.words)
    except SQLAlchemyError as error:
        reason = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise ConfigError(f"the database cannot be opened (DATABASE_URL): {reason}") from None
    finally:
        db.session.remove()
        # A process that forks afterwards must not hand its connections to its children.
        db.engine.dispose()


def unsafe(connection: Connection) -> list[str]:
    """The settings of this PostgreSQL that are off and must be on; of SQLite we set them ourselves."""
    if connection.dialect.name != "postgresql":
        return []
    return [name for name in LASTING if connection.exec_driver_sql(f"SHOW {name}").scalar() == "off"]


def _check_lasting() -> None:
    with db.engine.connect() as connection:
        off = unsafe(connection)
    if off:
        raise ConfigError(
            f"PostgreSQL runs with {', '.join(off)} off and would lose decisions in a power cut: switch it "
            f"on (ALTER SYSTEM SET {off[0]} = on; SELECT pg_reload_conf();)"
        )
