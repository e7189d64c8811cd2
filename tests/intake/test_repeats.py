"""One key is one item for ever: 64 threads in each of two processes submit the same 500 keys at once.

Redis has no part in it: none is there. REPEAT_KEYS sets the number of keys; on PostgreSQL, where each takes
four times as long, it is a fifth when nothing is set.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from typing import Any

from sqlalchemy import func, select

from reviewqueue.config import Settings
from reviewqueue.db import db
from reviewqueue.models import Item, Review, Submission
from tests.crowd import crowd

PROCESSES, THREADS = 2, 64
KEYS = {"sqlite": 500, "postgresql": 100}


def test_many_processes_with_the_same_keys_make_one_item_each(
    base: Any, settings: Settings, make: Any
) -> None:
    key = make.backend(make.project()).api_key
    keys = int(os.environ.get("REPEAT_KEYS", KEYS[db.engine.dialect.name]))
    new, told, times = Counter[str](), dict[str, set[str]](), Counter[str]()
    for out in crowd(settings, "tests.intake.sender", [(key, THREADS, keys)] * PROCESSES, 600):
        said = json.loads(out)
        new.update(said["new"])
        for name, digest, count in said["told"]:
            told.setdefault(name, set()).add(digest)
            times[name] += count
    db.session.rollback()
    assert set(times.values()) == {PROCESSES * THREADS}
    assert set(new.values()) == {1}
    assert {len(digests) for digests in told.values()} == {1}
    assert len(told) == keys
    for table in (Item, Review, Submission):
        assert db.session.scalar(select(func.count()).select_from(table)) == keys
