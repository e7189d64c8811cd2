"""Children that go on from what their parent has loaded, instead of loading everything again.

They share its memory for as long as neither writes to it. The parent must have no thread, no open
connection to the database and none to Redis when it forks.
"""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path

from reviewqueue.running.orphans import die_with_parent

# What web server, workers and relay need between them, beside what they import by themselves.
LOADED = (
    "gunicorn.app.wsgiapp", "gunicorn.workers.gthread", "reviewqueue.cli", "reviewqueue.running.relay",
    "reviewqueue.web", "rq.worker",
)  # fmt: skip


# Open files that must end with the parent: a child that kept the lock or the port would keep others out.
OURS: set[int] = set()


class Forked:
    """A running child, with as much of subprocess.Popen as a supervisor uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status once it has ended, negative for a signal; None before."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status; subprocess.TimeoutExpired when it has not ended in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.01)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Signal it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at once."""
        self.send_signal(signal.SIGKILL)


def load() -> None:
    """Import all that children need, and keep the collector from touching, and so copying, its pages."""
    from reviewqueue.background import JOBS

    for name in (*LOADED, *(path.rpartition(".")[0] for path in JOBS.values())):
        import_module(name)
    gc.collect()
    gc.freeze()


def fork(
    words: Sequence[str],
    main: Callable[[], object],
    environ: Mapping[str, str],
    fds: Sequence[int],
    log: Path | None,
) -> Forked:
    """Run `main` in a child that is listed as `words`; it has this environment, and of OURS only `fds`."""
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    if pid := os.fork():
        return Forked(pid)
    code = 1
    try:
        os.setsid()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        die_with_parent(parent)
        _only(fds, log)
        os.environ.clear()
        os.environ.update(environ)
        _call(words)
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _only(fds: Sequence[int], log: Path | None) -> None:
    """Let go of what is the parent's alone, and write where a child is to write."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if log is not None:
        number = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(number, 1)
        os.dup2(number, 2)
    for number in OURS.difference(fds):
        os.close(number)


def _call(words: Sequence[str]) -> None:
    """Let `ps` list this process as `words`, as far as the command line it was forked with has room."""
    if sys.platform != "linux":
        return
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: proc(5), counted after the name
    name = "\0".join(words).encode()[: end - start - 1]
    ctypes.memmove(start, name.ljust(end - start, b"\0"), end - start)
