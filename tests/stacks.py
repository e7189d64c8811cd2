"""The whole product as its user starts it: `python app.py` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from tests.servers import _die_with_parent

ROOT = Path(__file__).resolve().parent.parent


def environ(data_dir: Path, **settings: str) -> dict[str, str]:
    """A process environment with these settings and none that the tests themselves run with."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("REVIEWQUEUE_") and name not in ("DATABASE_URL", "REDIS_URL")
    }
    given = {
        "REVIEWQUEUE_DATA_DIR": str(data_dir),
        "REVIEWQUEUE_BIND": "127.0.0.1:0",
        "PYTHONUNBUFFERED": "1",
    }
    return kept | given | settings


class Stack:
    """A running `python app.py`, what it printed, and its children."""

    def __init__(self, data_dir: Path, *arguments: str, **settings: str) -> None:
        self.data_dir = data_dir
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "app.py"), *arguments],
            env=environ(data_dir, **settings),
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=_die_with_parent,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line.rstrip("\n"))

    @property
    def text(self) -> str:
        """All that was printed so far."""
        return "\n".join(self.said)

    def ready(self, seconds: float = 60) -> Stack:
        """Wait until it says that it runs."""
        wait_until(lambda: "Ctrl-C" in self.text or self.process.poll() is not None, seconds)
        assert "Ctrl-C" in self.text, self.text
        return self

    @property
    def url(self) -> str:
        found = re.search(r"^reviewqueue +(http\S+)", self.text, re.M)
        assert found, self.text
        return found[1]

    @property
    def links(self) -> list[str]:
        return re.findall(r"http\S+/login/link/\S+", self.text)

    def child(self, words: str) -> psutil.Process:
        """The child whose command line holds `words`."""
        for child in psutil.Process(self.process.pid).children():
            if words in " ".join(command_line(child)):
                return child
        raise AssertionError(f"no child {words}")

    def family(self) -> list[psutil.Process]:
        """Every process that hangs on this one."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=10)

    def stop(self, number: int = signal.SIGINT, seconds: float = 30) -> int:
        """End it as Ctrl-C does; gives its exit status."""
        self.process.send_signal(number)
        code = self.process.wait(seconds)
        self.reader.join(5)
        return code


@contextmanager
def running(data_dir: Path, *arguments: str, **settings: str) -> Iterator[Stack]:
    """A stack that is ready, and gone afterwards."""
    stack = Stack(data_dir, *arguments, **settings)
    try:
        yield stack.ready()
    finally:
        if stack.process.poll() is None:
            stack.stop()


def wait_until(true: object, seconds: float = 15.0) -> bool:
    """Ask until it is so, or the time is over; says which."""
    assert callable(true)
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def command_line(process: psutil.Process) -> list[str]:
    """How the process was started; empty once it has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of these runs any more."""
    return not any(command_line(process) for process in processes)
