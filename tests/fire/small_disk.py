"""A disk so small that a test can fill it: a tmpfs of a few megabytes."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.servers import NotAllowed


class SmallDisk:
    """A mounted folder; `fill` leaves no byte free, `free` gives the room back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.filler = folder / "filler"

    def fill(self) -> None:
        """Write until nothing fits any more, then byte by byte."""
        with self.filler.open("ab", buffering=0) as file:
            for size in (1 << 16, 1 << 12, 1):
                with pytest.raises(OSError, match="No space left on device"):
                    while True:
                        file.write(bytes(size))

    def free(self) -> None:
        self.filler.unlink()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[SmallDisk]:
    """Mount a disk of this size at `folder`; NotAllowed where nobody may mount."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except FileNotFoundError:
        raise NotAllowed("mount") from None
    if done.returncode:
        raise NotAllowed("the right to mount a tmpfs")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
