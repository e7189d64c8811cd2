"""How much memory everything takes when nothing happens, and how long it takes from start to ready.

    python -m bench.footprint [--runs 3] [--json]

Starts `python app.py` on a folder of its own, waits for /readyz, lets it rest, and adds up the PSS (each
page counted once, shared ones by share) of the whole process tree. The first run warms the disk's cache.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
REST_SECONDS = 10.0
TARGET_MIB, TARGET_SECONDS = 250, 3.0


def pss(pid: int) -> int:
    """The proportional set size of a process in bytes; 0 once it is gone."""
    try:
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    except (OSError, ProcessLookupError):
        return 0
    return int(found[1]) * 1024 if found else 0


def _name(process: psutil.Process) -> str:
    line = " ".join(process.cmdline())
    for word in ("redis-server", "valkey-server", "gunicorn", "worker", "relay", "app.py"):
        if word in line:
            return word
    return process.name()


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def measure(folder: Path) -> dict[str, Any]:
    """One start: seconds until ready, MiB of each kind of process after a rest."""
    environ = {n: v for n, v in os.environ.items() if not n.startswith("REVIEWQUEUE_")}
    environ |= {
        "REVIEWQUEUE_DATA_DIR": str(folder),
        "REVIEWQUEUE_BIND": "127.0.0.1:0",
        "PYTHONUNBUFFERED": "1",
    }
    began = time.monotonic()
    stack = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py")], env=environ, cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        assert stack.stdout is not None
        url = ""
        while not url and (line := stack.stdout.readline()):
            if found := re.match(r"reviewqueue +(http\S+)", line):
                url = found[1]
        if not url:
            raise SystemExit("it did not start")
        while not _ready(url):
            time.sleep(0.01)
        ready = time.monotonic() - began
        time.sleep(REST_SECONDS)
        family = [psutil.Process(stack.pid), *psutil.Process(stack.pid).children(recursive=True)]
        parts: dict[str, list[float]] = {}
        for process in family:
            parts.setdefault(_name(process), []).append(pss(process.pid) / 2**20)
    finally:
        stack.send_signal(signal.SIGINT)
        stack.wait(30)
    return {"ready_seconds": ready, "mib": sum(map(sum, parts.values())), "parts": parts}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Idle memory and start time of the embedded stack.")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", dest="as_json")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = [measure(Path(folder) / "var") for _ in range(chosen.runs + 1)][1:]
    seconds = statistics.median(run["ready_seconds"] for run in runs)
    size = statistics.median(run["mib"] for run in runs)
    if chosen.as_json:
        print(json.dumps({"ready_seconds": seconds, "mib": size, "load": os.getloadavg()[0], "runs": runs}))
        return
    print(
        f"ready after {seconds:.2f} s (target {TARGET_SECONDS}), "
        f"{size:.0f} MiB PSS idle (target {TARGET_MIB})"
    )
    for name, sizes in sorted(runs[-1]["parts"].items()):
        print(f"  {name:14} {' + '.join(f'{each:.0f}' for each in sizes)} MiB")
    print(f"load of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
