"""Cuts the power of a machine that never had one: rebuilds files from what a process wrote and synced.

strace tells every write, sync and truncation of the database's files, and every acknowledgement, in their
order. At a cut a file holds what was synced, and of the rest whichever sectors chance let through.
"""

from __future__ import annotations

import os
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.servers import strace

ROOT = Path(__file__).parents[2]
SECTOR = 512  # bytes a disk writes at once, or not at all
CALLS = "openat,write,pwrite64,fsync,fdatasync,ftruncate,unlink"
_LINE = re.compile(rb"(\w+)\((.*)\) += (-?\d+)")
_TEXT = re.compile(rb"\\x([0-9a-f]{2})")

# Of an unsynced sector: whether the disk has it all the same.
NOTHING: Callable[[], bool] = lambda: False  # noqa: E731
EVERYTHING: Callable[[], bool] = lambda: True  # noqa: E731


@dataclass
class Stored:
    """A file on a disk that has a cache: what is safe, and the changes since the last sync in their order."""

    safe: bytearray = field(default_factory=bytearray)
    unsynced: list[tuple[int, bytes | None]] = field(default_factory=list)  # offset and data; None: cut here

    def sync(self) -> None:
        self.safe = self.after_cut(EVERYTHING)
        self.unsynced.clear()

    def after_cut(self, lucky: Callable[[], bool]) -> bytearray:
        """What a machine finds when its power comes back; asks `lucky` for each unsynced sector."""
        found = bytearray(self.safe)
        for offset, data in self.unsynced:
            if data is None:
                if lucky():
                    del found[offset:]
                continue
            for start in range(0, len(data), SECTOR):
                if lucky():
                    sector, at = data[start : start + SECTOR], offset + start
                    found.extend(bytes(max(0, at - len(found))))
                    found[at : at + len(sector)] = sector
        return found


class Machine:
    """The disk below one database, fed with what a traced process did to it."""

    def __init__(self, database: Path, acknowledgements: Path) -> None:
        self.database, self.acknowledgements = str(database), str(acknowledgements)
        self.files = {self.database: Stored(bytearray(database.read_bytes()))}
        self.acknowledged: set[str] = set()
        self.resets = 0  # how often the log was begun anew, after a checkpoint

    def feed(self, line: bytes) -> bool:
        """Do what a line of strace says; returns whether it was an acknowledgement."""
        match = _LINE.search(line)
        if match is None or int(match[3]) < 0:
            return False
        call, arguments = match[1].decode(), match[2].split(b", ")
        path = _path(arguments[1] if call == "openat" else arguments[0])
        if call == "write" and path == self.acknowledgements:
            self.acknowledged.add(_text(arguments[1]).decode().strip())
            return True
        if path.startswith(self.database) and not path.endswith("-shm"):
            self._change(call, path, arguments)
        return False

    def _change(self, call: str, path: str, arguments: list[bytes]) -> None:
        file = self.files.setdefault(path, Stored())
        if call == "pwrite64":
            file.unsynced.append((int(arguments[3]), _text(arguments[1])))
            self.resets += path.endswith("-wal") and arguments[3] == b"0"
        elif call == "ftruncate":
            file.unsynced.append((int(arguments[1]), None))
        elif call in ("fsync", "fdatasync"):
            file.sync()
        elif call == "unlink":
            del self.files[path]
        elif call == "write":
            raise AssertionError(f"{path} was written without an offset")

    def cut(self, folder: Path, lucky: Callable[[], bool]) -> Path:
        """Lay the files as they are after a power cut into `folder`; gives the database's path."""
        for path, file in self.files.items():
            (folder / Path(path).name).write_bytes(file.after_cut(lucky))
        return folder / Path(self.database).name


def _text(argument: bytes) -> bytes:
    assert argument.endswith(b'"'), "strace cut a string short"
    return bytes.fromhex(argument[1:-1].replace(b"\\x", b"").decode())


def _path(argument: bytes) -> str:
    plain = argument.partition(b"<")[2].rpartition(b">")[0] or argument.strip(b'"')
    return _TEXT.sub(lambda code: bytes.fromhex(code[1].decode()), plain).decode()


def lost(database: Path, acknowledged: set[str]) -> list[str]:
    """What is wrong with a database that was found after a power cut; nothing, when all is well."""
    live = sqlite3.connect(database, isolation_level=None)
    try:
        wrong = [str(row[0]) for row in live.execute("PRAGMA integrity_check") if row[0] != "ok"]
        stored = {row[0] for row in live.execute("SELECT key FROM submission UNION SELECT id FROM decision")}
        return wrong + sorted(acknowledged - stored)
    except sqlite3.DatabaseError as error:
        return [f"the database cannot be read: {error}"]
    finally:
        live.close()


def traced(program: Path, *arguments: str, only: list[Path], folder: Path) -> Iterator[bytes]:
    """Run a Python program under strace; every line it writes about the files `only`, as it comes."""
    pipe = folder / "trace"
    os.mkfifo(pipe)
    chosen = [word for path in only for word in ("-P", str(path))]
    options = ["-qq", "-y", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "-e", "signal=none", *chosen]
    command = [strace(), *options, "-o", str(pipe), sys.executable, str(program), *arguments]
    environ = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    running = subprocess.Popen(command, cwd=ROOT, env=environ, stderr=subprocess.PIPE)
    try:
        with pipe.open("rb") as lines:
            yield from lines
        said = running.communicate(timeout=60)[1]
        assert running.returncode == 0, said.decode()[-2000:]
    finally:
        running.kill()
        running.wait()


def dice(seed: str) -> Callable[[], bool]:
    """Every other unsynced sector, by chance."""
    source = random.Random(seed)
    return lambda: source.random() < 0.5
