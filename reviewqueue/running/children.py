"""The processes a supervisor keeps running: started, watched, started again, ended.

A child that fails at once is started later and later; none may outlive whoever keeps it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from reviewqueue.running.forked import Forked, fork
from reviewqueue.running.orphans import die_with_parent

STOP_SECONDS = 15.0
HEALTHY_SECONDS = 10.0  # a child that lived this long is started again without delay
LONGEST_DELAY = 30.0


def say(text: str) -> None:
    """A line for whoever started us."""
    print(text, flush=True)


@dataclass
class Child:
    """A process we keep running."""

    name: str
    command: Sequence[str]
    environ: dict[str, str]
    fds: tuple[int, ...] = ()
    log: Path | None = None  # where it writes; else it writes where we do
    main: Callable[[], object] | None = None  # run in a child of our own kind, listed as `command`
    process: subprocess.Popen[bytes] | Forked | None = None
    started: float = 0.0
    delay: float = 0.5
    again_at: float = 0.0
    deaths: int = field(default=0)

    def start(self) -> None:
        """Start it in a process group of its own, so that Ctrl-C reaches only us."""
        self.started, self.again_at = time.monotonic(), 0.0
        if self.main is not None:
            self.process = fork(self.command, self.main, self.environ, self.fds, self.log)
            return
        parent = os.getpid()
        with self.log.open("ab") if self.log else nullcontext() as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                pass_fds=self.fds,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent),
            )

    def watch(self) -> None:
        """Start it again when it ended: at once when it had been well, else later and later."""
        ended = None if self.process is None else self.process.poll()
        if ended is None:
            return
        if not self.again_at:
            self.deaths += 1
            lived = time.monotonic() - self.started
            self.delay = 0.5 if lived > HEALTHY_SECONDS else min(self.delay * 2, LONGEST_DELAY)
            self.again_at = time.monotonic() + self.delay
            why = f", {self.log} may say why" if self.log else ""
            say(f"{self.name} ended ({_ending(ended)}{why}); again in {self.delay:g} s")
        elif time.monotonic() >= self.again_at:
            self.start()

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def _ending(code: int) -> str:
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


def stop(children: Sequence[Child], patience: float = STOP_SECONDS) -> None:
    """Ask all of them to end, wait, and kill what did not."""
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + patience
    for child in children:
        if child.process is not None:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
