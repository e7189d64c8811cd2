"""PostgreSQL's own programs for copying a database out and back in: pg_dump and pg_restore.

A password must never stand in an argument, where every user of the machine could read it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from psycopg.conninfo import make_conninfo
from sqlalchemy.engine import make_url

from reviewqueue.db import db
from reviewqueue.errors import Invalid


def dump(url: str, copy: Path) -> dict[str, Any]:
    """Copy the database at `url` as it is at one moment; gives its schema and the end of its ledger."""
    program = _program("pg_dump")
    with db.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        # What we read and what pg_dump copies is the same moment.
        moment = connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one()
        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one()
        head = connection.exec_driver_sql("SELECT origin, size, last_leaf FROM ledger_head").first()
        options = ["--format=custom", "--no-owner", "--no-privileges", f"--snapshot={moment}"]
        _run([program, *options, f"--file={copy}", f"--dbname={_address(url)}"], url)
    return {"schema": version, "ledger": ledger(head)}


def put(url: str, copy: Path) -> None:
    """Replace what the database at `url` holds by the copy, in one transaction.

    Other connections of ours are ended first: one that forgot its transaction would keep us waiting for ever.
    """
    program = _program("pg_restore")
    with db.engine.connect() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND usename = current_user AND pid <> pg_backend_pid()"
        )
    db.engine.dispose()
    options = ["--single-transaction", "--clean", "--if-exists", "--no-owner", "--no-privileges"]
    _run([program, *options, f"--dbname={_address(url)}", str(copy)], url)


def ledger(head: Sequence[Any] | None) -> dict[str, Any] | None:
    """The end of a ledger as a manifest tells it; None when nothing was ever recorded."""
    return None if head is None else dict(zip(("origin", "size", "leaf"), head, strict=True))


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Invalid(
            f"{name} is not on PATH: install PostgreSQL's client programs of the server's version, for "
            "example by apt-get install postgresql-client"
        )
    return found


def _address(url: str) -> str:
    """The database as libpq's own words, without the password."""
    parts = make_url(url)
    known = {"host": parts.host, "port": parts.port, "user": parts.username, "dbname": parts.database}
    given = {name: str(value) for name, value in known.items() if value is not None}
    return make_conninfo(**given, **{name: str(value) for name, value in parts.query.items()})


def _run(command: list[str], url: str) -> None:
    password = make_url(url).password
    environ = os.environ | ({"PGPASSWORD": str(password)} if password else {})
    done = subprocess.run(
        command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        why = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "no reason")
        raise Invalid(f"{Path(command[0]).name} failed: {why}")
