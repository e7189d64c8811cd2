"""What is wrong or risky in this deployment: one finding each, with an id and how to mend it.

It looks and never changes anything; a finding never shows a secret.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from sqlalchemy import Connection
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from reviewqueue import create_base, disk, schema
from reviewqueue.background import quarantined, redis_answers, redis_time
from reviewqueue.config import KEY_NAMES, ConfigError, Settings, load_key
from reviewqueue.db import db, now
from reviewqueue.ledger import known
from reviewqueue.running.startup import unsafe

SAFE_SQLITE = (3, 51, 3)  # before it, a checkpoint while somebody writes may lose committed pages
CLOCK_SECONDS = 5
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "9p", "ceph", "glusterfs")


@dataclass(frozen=True)
class Finding:
    """`level` is "error" (it will not work, or not keep its promises) or "warning" (you should know)."""

    id: str
    level: str
    problem: str
    remedy: str


def error(name: str, problem: str, remedy: str) -> Finding:
    """A finding that must be mended."""
    return Finding(name, "error", problem, remedy)


def warning(name: str, problem: str, remedy: str) -> Finding:
    """A finding to know of."""
    return Finding(name, "warning", problem, remedy)


def examine(environ: Mapping[str, str]) -> list[Finding]:
    """Every finding, in the order in which they are best mended."""
    try:
        settings = Settings.load(environ)
    except ConfigError as refusal:
        return [error("settings", str(refusal), "correct this setting")]
    found = list(_debug(environ))
    found += [finding for look in (_folder, _keys, _address, _allowed) for finding in look(settings)]
    if any(finding.id.startswith("key-") for finding in found):
        return found  # nothing opens without its keys
    with create_base(settings).app_context():
        found += _disk()
        found += _redis(settings)
        found += _database(settings)
    return found


def _debug(environ: Mapping[str, str]) -> Iterator[Finding]:
    if environ.get("FLASK_DEBUG", "").lower() not in ("", "0", "false", "no"):
        yield error("debug", "FLASK_DEBUG is on: errors show what was sent", "unset FLASK_DEBUG")


def _folder(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield error(
            "data-folder", f"{folder} is not there or cannot be written", "make it, or mend its permissions"
        )
    elif stat.S_IMODE(folder.stat().st_mode) & 0o077:
        yield warning("data-folder-open", f"{folder} can be read by others", f"chmod 700 {folder}")


def _disk() -> Iterator[Finding]:
    try:
        spare = disk.spare()
    except OSError:
        return  # a folder that is not there has been named
    if spare < 2:
        said = "is full: nothing new is taken" if spare < 1 else "is nearly full"
        yield (error if spare < 1 else warning)("disk", f"the disk {said}", "make room")


def _keys(settings: Settings) -> Iterator[Finding]:
    for name in KEY_NAMES:
        try:
            load_key(settings.keys_dir, name)
        except ConfigError as refusal:
            problem, _, remedy = str(refusal).partition("; ")
            yield error(f"key-{name}", problem, remedy or "mend its permissions")


def _address(settings: Settings) -> Iterator[Finding]:
    host = settings.bind.rpartition(":")[0]
    if settings.env != "production" and host not in ("127.0.0.1", "localhost", "[::1]"):
        yield warning(
            "development-open",
            f"{settings.env} mode listens on {host}",
            "set REVIEWQUEUE_ENV=production, or listen on 127.0.0.1",
        )
    if not settings.secure and urlsplit(settings.public_url).hostname not in (
        "127.0.0.1",
        "localhost",
        "::1",
    ):
        yield warning(
            "public-http",
            "browsers reach this by plain http",
            "put a TLS proxy in front and set REVIEWQUEUE_PUBLIC_URL",
        )


def _allowed(settings: Settings) -> Iterator[Finding]:
    if settings.callback_allow:
        listed = ", ".join(str(network) for network in settings.callback_allow)
        yield warning("callback-allow", f"callbacks may reach {listed}", "keep this list as short as can be")


def _redis(settings: Settings) -> Iterator[Finding]:
    parts = urlsplit(settings.redis_url)
    if parts.scheme in ("redis", "rediss") and not parts.password:
        yield warning("redis-password", "Redis is reached without a password", "set one, and use rediss://")
    yield from _clock("Redis", redis_time())
    if not redis_answers():
        yield warning(
            "redis", "Redis does not answer; the relay does the work, slower", "start it, or set REDIS_URL"
        )
    for name in quarantined():
        problem = f"the job {name} ended its worker again and again and is left alone for five minutes"
        yield error("job-quarantined", problem, "read the worker's log, and report what it did last")


def _clock(other: str, theirs: datetime | None) -> Iterator[Finding]:
    off = abs((now() - theirs).total_seconds()) if theirs is not None else 0.0
    if off > CLOCK_SECONDS:
        said = f"this machine's clock and that of {other} are {off:.0f} s apart"
        yield error("clock", said, "run a time service (chrony, systemd-timesyncd) on both")


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        with db.engine.connect() as connection:
            yield from _schema()
            yield from _ledger(connection)
            looks: dict[str, Callable[[Connection], Iterator[Finding]]]
            looks = {"sqlite": _sqlite, "postgresql": _postgresql}
            yield from looks[connection.dialect.name](connection)
    except SQLAlchemyError as refusal:
        reason = str(getattr(refusal, "orig", None) or refusal).strip().splitlines()[0]
        yield error("database", f"the database cannot be opened: {reason}", "start it, or set DATABASE_URL")


def _ledger(connection: Connection) -> Iterator[Finding]:
    if connection.dialect.has_table(connection, "ledger_entry"):
        gone = known.lost(connection, known.known())
        if gone is not None:
            problem, _, remedy = gone.words.partition("; ")
            yield error("ledger-rolled-back", problem, f"if that is meant: {remedy}")


def _schema() -> Iterator[Finding]:
    stands, wanted = schema.version(), schema.head()
    if stands != wanted:
        problem = f"the database stands at {stands or 'nothing'}, this version needs {wanted}"
        yield error("schema", problem, "back it up, then run `python -m reviewqueue migrate`")


def _sqlite(connection: Connection) -> Iterator[Finding]:
    if sqlite3.sqlite_version_info < SAFE_SQLITE:
        yield warning(
            "sqlite-version",
            f"SQLite {sqlite3.sqlite_version} is older than {'.'.join(map(str, SAFE_SQLITE))}",
            "use a Python with a newer SQLite, or PostgreSQL",
        )
    path = Path(make_url(str(connection.engine.url)).database or "").resolve()
    kind = _file_system(path)
    if kind in _REMOTE:
        yield error("sqlite-remote", f"the database lies on {kind}, where locks fail", "use a local disk")


def _file_system(path: Path) -> str:
    """The kind of file system `path` lies on; empty where the system does not say."""
    mounts = Path("/proc/mounts")
    if not mounts.exists():
        return ""
    lines = [line.split() for line in mounts.read_text().splitlines()]
    holding = [(len(line[1]), line[2]) for line in lines if path.is_relative_to(line[1])]
    return max(holding, default=(0, ""))[1]


def _postgresql(connection: Connection) -> Iterator[Finding]:
    yield from _clock("PostgreSQL", connection.exec_driver_sql("SELECT clock_timestamp()").scalar())
    if connection.exec_driver_sql("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").scalar():
        yield warning("database-superuser", "we connect as a superuser", "connect as a role of its own")
    for name in unsafe(connection):
        yield error(f"postgresql-{name}", f"PostgreSQL runs with {name} off", f"set {name} = on")
