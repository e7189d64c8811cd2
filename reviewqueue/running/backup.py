"""A copy of all that happened while everything runs, and putting it back.

A backup holds the database and, when asked, the keys; Redis holds nothing that is needed. What is
incomplete or was changed on its way must never be put back.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import delete, inspect, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from reviewqueue import schema
from reviewqueue.config import KEY_NAMES, ConfigError, Settings, key_path, load_key
from reviewqueue.db import Base, db, now, stamp, transaction
from reviewqueue.errors import Conflict, Invalid
from reviewqueue.ledger import canonical, known
from reviewqueue.ledger.verify import Report, verify
from reviewqueue.models import Leader, LedgerHead, SignInLink, WebSession
from reviewqueue.running import postgresql

FORMAT = 1
BUSY_SECONDS = 30.0
MANIFEST = "manifest.json"
COPIES = {"sqlite": "database.sqlite3", "postgresql": "database.dump"}


@dataclass(frozen=True)
class Restored:
    """What was put back: its manifest, what verifying found, and what this machine had seen beyond it."""

    manifest: dict[str, Any]
    report: Report
    beyond: known.Known | None


def backup(settings: Settings, folder: Path, with_keys: bool = False) -> dict[str, Any]:
    """Copy the database of the current app into `folder`, new or empty; returns the manifest.

    The copy is of one moment and keeps nobody waiting. The manifest is written last: a backup without one
    was broken off. Conflict when the folder holds something, Invalid when a program is missing.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if any(folder.iterdir()):
            raise Conflict(f"{folder} is not empty: a backup never overwrites another one", "not_empty")
    except OSError as error:
        raise Invalid(f"{folder} cannot be written: {error.strerror}") from None
    kind = db.engine.dialect.name
    copy = folder / COPIES[kind]
    _private(copy)
    stands = _copy_sqlite(copy) if kind == "sqlite" else postgresql.dump(settings.database_url, copy)
    if with_keys:
        _copy_keys(settings.keys_dir, folder / "keys")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": FORMAT,
        "made_at": stamp(now()),
        "database": kind,
        **stands,
        "keys": with_keys,
        "ledger_key": canonical.key_id(settings.key("ledger")),
        "files": {str(path.relative_to(folder)): _checksum(path) for path in files},
    }
    for path in files:
        _sync(path)
    scratch = folder / f".{MANIFEST}"
    scratch.write_text(json.dumps(manifest, indent=2) + "\n")
    _sync(scratch)
    scratch.rename(folder / MANIFEST)
    _sync(folder)
    return manifest


def read(folder: Path) -> dict[str, Any]:
    """The manifest of a backup, every file of it checked; Invalid says what is wrong with it."""
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError):
        raise Invalid(f"{folder} holds no whole backup: its {MANIFEST} is missing or broken") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise Invalid(f"{folder} was made by another version: its format is not {FORMAT}")
    for name, sum_ in manifest["files"].items():
        path = folder / name
        if not path.is_file() or _checksum(path) != sum_:
            raise Invalid(f"{name} is missing or is not what was backed up: its checksum differs")
    return manifest


def bring_keys(settings: Settings, folder: Path, manifest: dict[str, Any]) -> None:
    """Make sure the keys here are those of the backup; those that are missing come out of it."""
    for name in KEY_NAMES:
        kept, here = folder / "keys" / f"{name}.key", key_path(settings.keys_dir, name)
        if kept.exists() and not here.exists():
            settings.keys_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            _private(here)
            here.write_bytes(kept.read_bytes())
    try:
        same = canonical.key_id(load_key(settings.keys_dir, "ledger")) == manifest["ledger_key"]
    except ConfigError as error:
        raise Invalid(f"the keys are kept apart from a backup; copy them back first: {error}") from None
    if not same:
        raise Invalid(
            f"the ledger key in {settings.keys_dir} is not the one this backup was sealed with; copy back "
            "the keys of the deployment it was made of"
        )


def restore(settings: Settings, folder: Path, manifest: dict[str, Any], force: bool = False) -> Restored:
    """Put a backup that `read` found whole into the database of the current app, migrate it and verify it.

    Conflict when the database holds something and `force` is not given. Replacing is one step: whoever is
    connected sees the one or the other. Everybody has to sign in again.
    """
    kind, copy = db.engine.dialect.name, folder / COPIES[str(manifest["database"])]
    if manifest["database"] != kind:
        raise Invalid(f"this backup is of {manifest['database']}, DATABASE_URL names {kind}")
    if not force and not _is_empty():
        raise Conflict("the database is not empty; --force replaces what it holds", "not_empty")
    before = known.known()
    db.session.remove()
    if kind == "sqlite":
        db.engine.dispose()
        _put_sqlite(copy)
    else:
        if schema.version() not in (None, manifest["schema"]):
            _drop_all()  # what a newer schema has is not in the backup and would stay
        postgresql.put(settings.database_url, copy)
    schema.migrate()
    with transaction() as session:
        # Who was signed in then need not be allowed to now.
        for table in (WebSession, SignInLink, Leader):
            session.execute(delete(table))
    report = verify()
    if report.kind == "rollback":
        return Restored(manifest, report, before)
    known.note()
    return Restored(manifest, report, None)


def _copy_sqlite(copy: Path) -> dict[str, Any]:
    source = sqlite3.connect(f"file:{make_url(str(db.engine.url)).database}?mode=ro", uri=True, timeout=60)
    target = sqlite3.connect(copy)
    try:
        source.backup(target)  # in one step: later writes are not in it, and writers do not wait
        target.execute("PRAGMA journal_mode=DELETE")
        (version,) = target.execute("SELECT version_num FROM alembic_version").fetchone()
        head = target.execute("SELECT origin, size, last_leaf FROM ledger_head").fetchone()
    finally:
        source.close()
        target.close()
    return {"schema": version, "ledger": postgresql.ledger(head)}


def _put_sqlite(copy: Path) -> None:
    path = make_url(str(db.engine.url)).database
    assert path is not None
    source = sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True)
    target = sqlite3.connect(path, timeout=60)
    try:
        source.backup(target, progress=_patience())
    except (sqlite3.Error, TimeoutError) as error:
        raise Conflict(f"the database cannot be replaced now: {error}; stop what uses it", "busy") from None
    finally:
        source.close()
        target.close()


def _patience() -> Callable[[int, int, int], None]:
    """The driver waits for ever for whoever keeps the file locked; we do not."""
    deadline = time.monotonic() + BUSY_SECONDS

    def look(_status: int, remaining: int, _total: int) -> None:
        if remaining and time.monotonic() > deadline:
            raise TimeoutError("somebody keeps it locked")

    return look


def _drop_all() -> None:
    with schema.connection() as live:
        for table in inspect(live).get_table_names():
            live.exec_driver_sql(f'DROP TABLE IF EXISTS "{table}" CASCADE')
        live.exec_driver_sql("DROP FUNCTION IF EXISTS ledger_refuse CASCADE")


def _is_empty() -> bool:
    """Whether no table of ours holds a row; a schema without rows is empty as well."""
    try:
        there = set(inspect(db.engine).get_table_names())
        with db.engine.connect() as connection:
            return not any(
                connection.execute(select(1).select_from(table).limit(1)).first()
                for table in Base.metadata.sorted_tables
                if table.name in there and table.name not in (Leader.__tablename__, LedgerHead.__tablename__)
            )
    except SQLAlchemyError:
        return False


def _copy_keys(source: Path, target: Path) -> None:
    target.mkdir(mode=0o700)
    for path in sorted(source.glob("*.key")):
        _private(target / path.name)
        shutil.copyfile(path, target / path.name)


def _private(path: Path) -> None:
    """Make the file, empty, for nobody but us."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _checksum(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    for block in _blocks(path):
        digest.update(block)
    return {"bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            yield block


def _sync(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
