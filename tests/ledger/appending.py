"""One process of test_concurrency.py: appends COUNT entries, prints how many were recorded and refused."""

from __future__ import annotations

import importlib
import json
import os

from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from reviewqueue import create_base
from reviewqueue.config import Settings
from reviewqueue.db import WRITING, transaction
from reviewqueue.errors import Busy
from reviewqueue.models import LedgerHead
from reviewqueue.prepared import Prepared
from tests.crowd import Start

record_file = importlib.import_module("reviewqueue.ledger.record")


def remove_the_lock() -> None:
    """Neither FOR UPDATE on PostgreSQL nor BEGIN IMMEDIATE on SQLite."""
    record_file._LOCK = Prepared(lambda _: select(LedgerHead.__table__).where(LedgerHead.id == 1))
    WRITING.clear()


def main(start: Start, name: int, count: int, how: str) -> None:
    locked = how == "locked"
    if not locked:
        remove_the_lock()
    recorded = refused = 0
    with create_base(Settings.load(os.environ)).app_context():
        start()
        for number in range(count):
            try:
                with transaction():
                    said = {"change": "appended", "target": f"{name}-{number}"}
                    record_file.record("config", said, parts={"why": "x" * 200})
                recorded += 1
            except (Busy, OperationalError):
                if locked:
                    raise
                refused += 1
    print(json.dumps([recorded, refused]))
