"""Many processes at once, forked from one that has imported everything: `crowd` runs them from one start.

A program of a crowd is a module with `main(start, *arguments)`; it calls `start()` when it is ready, which
returns once all are. What it prints is its result.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from reviewqueue.config import Settings

ROOT = Path(__file__).resolve().parents[1]
Start = Callable[[], object]


def crowd(
    settings: Settings, program: str, members: Sequence[Sequence[object]], seconds: float, **environ: str
) -> list[str]:
    """Run `program` once for each member, with its arguments; what each printed. Fails when one does."""
    given = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "REVIEWQUEUE_ENV": "test",
        "REVIEWQUEUE_DATA_DIR": str(settings.data_dir),
        "REVIEWQUEUE_KEYS_DIR": str(settings.keys_dir),
        "DATABASE_URL": settings.database_url.replace("+psycopg", ""),
        "REDIS_URL": settings.redis_url,
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", __name__, folder, program, json.dumps(members)]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=given | environ,
            stderr=subprocess.PIPE,
            text=True,
            timeout=seconds,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-5000:]
        return [(Path(folder) / str(number)).read_text() for number in range(len(members))]


def _member(file: str, program: str, start: Start, arguments: Sequence[object]) -> None:
    with Path(file).open("w") as sys.stdout:
        importlib.import_module(program).main(start, *arguments)


def _main(folder: str, program: str, members: Sequence[Sequence[object]]) -> int:
    importlib.import_module(program)
    forking = multiprocessing.get_context("fork")
    start = forking.Barrier(len(members), timeout=120).wait
    running = [
        forking.Process(target=_member, args=(f"{folder}/{number}", program, start, arguments), daemon=True)
        for number, arguments in enumerate(members)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join()
    return max(abs(process.exitcode or 0) for process in running)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
