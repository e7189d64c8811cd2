"""Power cuts at every fifth acknowledgement (R2): what the disk had not yet written is gone, or half of it.

FIRE_CUTS says how many; FIRE_CUTS=1000 is promised.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from reviewqueue.config import Settings
from reviewqueue.db import db
from tests.conftest import need
from tests.fire.powercut import EVERYTHING, NOTHING, Machine, Stored, dice, lost, traced
from tests.make import Make
from tests.servers import strace

CUTS = int(os.environ.get("FIRE_CUTS", "20"))
EVERY = 5  # acknowledgements between two cuts

pytestmark = pytest.mark.sqlite


def run(settings: Settings, folder: Path, cuts: int, how: str = "safe") -> tuple[Machine, list[str]]:
    """Let the writer work, cut the power `cuts` times; the machine and what was lost or broken."""
    need(strace)
    database = Path(make_url(settings.database_url).database or "")
    acknowledged = folder / "acknowledged"
    acknowledged.touch()
    found = folder / "found"
    machine, wrong, count = Machine(database, acknowledged), [], 0
    given = {
        "REVIEWQUEUE_ENV": "test",
        "REVIEWQUEUE_DATA_DIR": str(settings.data_dir),
        "REVIEWQUEUE_KEYS_DIR": str(settings.keys_dir),
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
    }
    items = cuts * EVERY * 3 // 4 + 1  # every third is decided, which is acknowledged, too
    only = [database, Path(f"{database}-wal"), Path(f"{database}-journal"), acknowledged]
    program = Path(__file__).with_name("writer.py")
    arguments = (json.dumps(given), str(acknowledged), str(items), how)
    for line in traced(program, *arguments, only=only, folder=folder):
        if machine.feed(line):
            count += 1
            if count % EVERY == 0:
                for lucky in (NOTHING, dice(str(count))):
                    shutil.rmtree(found, ignore_errors=True)
                    found.mkdir()
                    wrong += lost(machine.cut(found, lucky), machine.acknowledged)
    assert count >= cuts * EVERY
    assert machine.acknowledged == set(acknowledged.read_text().split())
    return machine, wrong


@pytest.fixture
def prepared(base: Any, make: Make, settings: Settings) -> Settings:
    """A project whose items are all reviewed, a backend and Ada; nobody has the database open."""
    project = make.project()
    make.backend(project)
    make.person("ada")
    db.session.remove()
    db.engine.dispose()
    return settings


def test_a_power_cut_loses_nothing_that_was_acknowledged(prepared: Settings, tmp_path: Path) -> None:
    machine, wrong = run(prepared, tmp_path, CUTS)
    assert wrong == []
    assert machine.resets >= 2, "no checkpoint was made: the dangerous moments were left out"
    final = tmp_path / "final"
    final.mkdir()
    assert lost(machine.cut(final, EVERYTHING), machine.acknowledged) == []


# --- can it fail? ---------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["normal", "early"])
def test_the_tool_notices_what_is_acknowledged_too_early(
    how: str, prepared: Settings, tmp_path: Path
) -> None:
    _, wrong = run(prepared, tmp_path, 4, how)
    assert wrong, f"{how} lost nothing"


def test_a_cut_keeps_what_was_synced_and_some_of_the_rest() -> None:
    file = Stored(bytearray(b"a" * 1024))
    file.unsynced.append((512, b"b" * 1024))
    assert file.after_cut(NOTHING) == b"a" * 1024
    assert file.after_cut(EVERYTHING) == b"a" * 512 + b"b" * 1024
    seen = iter([False, True])
    assert file.after_cut(lambda: next(seen)) == b"a" * 1024 + b"b" * 512
    file.sync()
    file.unsynced.append((512, None))
    assert file.after_cut(NOTHING) == b"a" * 512 + b"b" * 1024
    assert file.after_cut(EVERYTHING) == b"a" * 512
