"""One key is one item for ever: 64 threads in each of two processes submit the same 500 keys at once.

Redis has no part in it: none is there. REPEAT_KEYS sets the number of keys.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from reviewqueue.config import Settings
from reviewqueue.db import db
from reviewqueue.models import Item, Review, Submission

ROOT = Path(__file__).resolve().parents[2]
PROCESSES, THREADS = 2, 64
KEYS = int(os.environ.get("REPEAT_KEYS", "500"))


def test_many_processes_with_the_same_keys_make_one_item_each(
    base: Any, settings: Settings, make: Any
) -> None:
    key = make.backend(make.project()).api_key
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "REVIEWQUEUE_ENV": "test",
        "REVIEWQUEUE_DATA_DIR": str(settings.data_dir),
        "REVIEWQUEUE_KEYS_DIR": str(settings.keys_dir),
        "DATABASE_URL": settings.database_url.replace("+psycopg", ""),
        "REDIS_URL": f"unix://{settings.data_dir}/nobody.sock",
    }
    command = [sys.executable, str(Path(__file__).with_name("sender.py")), key, str(THREADS), str(KEYS)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [subprocess.Popen(command, cwd=ROOT, env=environ, text=True, **pipes) for _ in range(PROCESSES)]
    for process in running:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    new, told, times = Counter[str](), dict[str, set[str]](), Counter[str]()
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        out, error = process.communicate(timeout=600)
        assert process.returncode == 0, error
        said = json.loads(out)
        new.update(said["new"])
        for name, digest, count in said["told"]:
            told.setdefault(name, set()).add(digest)
            times[name] += count
    db.session.rollback()
    assert set(times.values()) == {PROCESSES * THREADS}
    assert set(new.values()) == {1}
    assert {len(digests) for digests in told.values()} == {1}
    assert len(told) == KEYS
    for table in (Item, Review, Submission):
        assert db.session.scalar(select(func.count()).select_from(table)) == KEYS
