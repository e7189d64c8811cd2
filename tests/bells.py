"""Jobs for the tests of the bell: each call leaves a line in the file named by BELL_FILE."""

from __future__ import annotations

import os
import signal
from pathlib import Path


def _note(word: str) -> int:
    with Path(os.environ["BELL_FILE"]).open("a") as file:
        file.write(f"{word}\n")
    return 1


def chime() -> int:
    return _note("chime")


def chime_due() -> bool:
    return Path(os.environ["BELL_FILE"] + ".due").exists()


def once() -> int:
    Path(os.environ["BELL_FILE"] + ".due").unlink(missing_ok=True)
    return _note("once")


def once_due() -> bool:
    return chime_due()


def boom(*_args: object) -> None:
    """Never allowed; a worker that calls it, or even imports it by name, has been had."""
    _note("boom")


def ring_again() -> int:
    from reviewqueue.background import ring

    if not Path(os.environ["BELL_FILE"]).exists():
        ring("prepare")
    return _note("again")


def fails() -> None:
    _note("fails")
    raise RuntimeError("this job always fails")


def ends() -> None:
    """A job that takes its process with it."""
    _note("ends")
    os.kill(os.getpid(), signal.SIGKILL)


def ends_due() -> bool:
    return True
