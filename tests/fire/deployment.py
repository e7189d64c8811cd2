"""reviewqueue as an operator runs it: commands and processes of their own, known by their data folder.

Nothing here reaches into the product: it starts programs, talks HTTP, and kills without warning.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from reviewqueue.running.orphans import die_with_parent

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


class Deployment:
    """The commands and processes of one data folder; `environ` are settings besides the usual ones."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        usual = {
            "REVIEWQUEUE_DATA_DIR": str(folder),
            "REVIEWQUEUE_BIND": f"127.0.0.1:{self.port}",
            "REVIEWQUEUE_CALLBACK_ALLOW": "127.0.0.0/8",
            "REVIEWQUEUE_INTAKE_RATE": "0",
            "REVIEWQUEUE_JOB_WORKERS": "1",
            "PYTHONPATH": str(ROOT),
        }
        clean = {name: text for name, text in os.environ.items() if not name.startswith("REVIEWQUEUE_")}
        self.environ = clean | usual | environ
        self.log = (folder.parent / f"{folder.name}.log").open("ab")
        self.started: list[subprocess.Popen[bytes]] = []

    def command(self, *arguments: str) -> Any:
        """What `python -m reviewqueue … --json` answers."""
        done = subprocess.run(
            [sys.executable, "-m", "reviewqueue", *arguments, "--json"],
            cwd=ROOT, env=self.environ, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, f"{arguments}: {done.stderr}{done.stdout}"
        return json.loads(done.stdout)

    def start(self, *command: str, **environ: str) -> subprocess.Popen[bytes]:
        """Start `python …` in a process group of its own; it ends with the tests at the latest."""
        parent = os.getpid()
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT, env=self.environ | environ, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            start_new_session=True, preexec_fn=lambda: die_with_parent(parent, signal.SIGKILL),
        )  # fmt: skip
        self.started.append(process)
        return process

    def wait_for(self, url: str | None = None, seconds: float = 120) -> None:
        """Until the web server at `url` answers."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if httpx.get(f"{url or self.url}/healthz", timeout=2).status_code == 200:
                    return
            except httpx.TransportError:
                if self.started and all(process.poll() is not None for process in self.started):
                    break
                time.sleep(0.05)
        raise AssertionError(f"nothing answers at {url or self.url}: {self.tail()}")

    def kill(self, which: Sequence[int] | None = None) -> int:
        """`kill -9` to these processes, or to all of this deployment, until none is left; how many died."""
        killed: set[int] = set()
        while alive := [pid for pid in self.processes() if which is None or pid in which]:
            for pid in alive:
                try:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
                except ProcessLookupError:
                    pass
            for process in self.started:
                process.poll()  # or the dead ones would stay zombies and be found again
            time.sleep(0.01)
        return len(killed)

    def processes(self) -> list[int]:
        """The processes whose environment names this data folder, whoever started them."""
        mark = f"REVIEWQUEUE_DATA_DIR={self.folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return found

    def tail(self) -> str:
        """The last lines the processes wrote."""
        self.log.flush()
        return Path(self.log.name).read_text("utf-8", "replace")[-3000:]

    def close(self) -> None:
        """Nothing of it goes on."""
        self.kill()
        for process in self.started:
            process.wait(10)
        self.log.close()
