"""Many processes append at once: one chain, no fork, no gap. LEDGER_APPENDS sets how many each appends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.ledger.verify import verify
from reviewqueue.models import LedgerEntry

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = 8
APPENDS = int(os.environ.get("LEDGER_APPENDS", "2000"))


def _append_at_once(settings, how: str, count: int) -> list[tuple[int, int]]:
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "REVIEWQUEUE_ENV": "test",
        "REVIEWQUEUE_DATA_DIR": str(settings.data_dir),
        "REVIEWQUEUE_KEYS_DIR": str(settings.keys_dir),
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
    }
    command = [sys.executable, str(Path(__file__).with_name("appending.py")), str(count), how]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, cwd=ROOT, env=environ, **pipes) for _ in range(PROCESSES)]
    results = []
    for process in running:
        out, error = process.communicate(timeout=60 + count)
        assert process.returncode == 0, error
        recorded, refused = out.split()
        results.append((int(recorded), int(refused)))
    return results


def test_record_by_many_processes_makes_one_chain(base, settings):
    results = _append_at_once(settings, "locked", APPENDS)
    assert results == [(APPENDS, 0)] * PROCESSES
    report = verify()
    assert report.ok, report.problem
    assert report.entries == PROCESSES * APPENDS + 1
    told = [json.loads(body).get("target") for body in db.session.scalars(select(LedgerEntry.body))]
    assert len(set(told)) == len(told)


def test_record_without_the_lock_is_refused_rather_than_forked(base, settings):
    """Shows that the test above could fail: without the lock appends collide, and the database says so."""
    results = _append_at_once(settings, "unlocked", 60)
    assert sum(refused for _, refused in results) > 0
    report = verify()
    assert report.ok, report.problem
    assert report.entries == sum(recorded for recorded, _ in results) + 1
