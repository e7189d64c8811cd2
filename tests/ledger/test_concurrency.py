"""Many processes append at once: one chain, no fork, no gap. LEDGER_APPENDS sets how many each appends.

Promised are 2,000 each on both databases; on PostgreSQL, where each takes five times as long, a quarter of
them when nothing is set.
"""

from __future__ import annotations

import json
import os

from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.ledger.verify import verify
from reviewqueue.models import LedgerEntry
from tests.crowd import crowd

PROCESSES = 8
APPENDS = {"sqlite": 2000, "postgresql": 500}


def _append_at_once(settings, how: str, count: int) -> list[tuple[int, int]]:
    told = crowd(
        settings, "tests.ledger.appending", [(number, count, how) for number in range(PROCESSES)], 60 + count
    )
    return [tuple(json.loads(out)) for out in told]


def test_record_by_many_processes_makes_one_chain(base, settings):
    count = int(os.environ.get("LEDGER_APPENDS", APPENDS[db.engine.dialect.name]))
    results = _append_at_once(settings, "locked", count)
    assert results == [(count, 0)] * PROCESSES
    report = verify()
    assert report.ok, report.problem
    assert report.entries == PROCESSES * count + 1
    told = [json.loads(body).get("target") for body in db.session.scalars(select(LedgerEntry.body))]
    assert len(set(told)) == len(told)


def test_record_without_the_lock_is_refused_rather_than_forked(base, settings):
    """Shows that the test above could fail: without the lock appends collide, and the database says so."""
    results = _append_at_once(settings, "unlocked", 60)
    assert sum(refused for _, refused in results) > 0
    report = verify()
    assert report.ok, report.problem
    assert report.entries == sum(recorded for recorded, _ in results) + 1
