"""A TCP proxy that breaks: it passes bytes on, or hangs, drips, resets or refuses, as its `mode` says.

Stands between the product and a receiver, on a free port; the mode holds for connections from then on.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

MODES = ("pass", "hang", "drip", "reset")


class Proxy:
    """Counts what it did; `hang` holds a connection without a word until its caller gives up."""

    def __init__(self, target: str) -> None:
        behind = urlsplit(target)
        self.behind = (behind.hostname or "127.0.0.1", behind.port or 80)
        self.server = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self.server.getsockname()[1]}{behind.path}"
        self.mode = "pass"
        self.hung = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                caller, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(caller, self.mode), daemon=True).start()

    def _serve(self, caller: socket.socket, mode: str) -> None:
        with caller, suppress(OSError):
            if mode == "reset":
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif mode == "hang":
                self.hung += 1
                while caller.recv(65536):
                    pass
            else:
                self._pass(caller, byte_by_byte=mode == "drip")

    def _pass(self, caller: socket.socket, byte_by_byte: bool) -> None:
        with socket.create_connection(self.behind, timeout=30) as behind:
            threading.Thread(target=_copy, args=(caller, behind), daemon=True).start()
            while data := behind.recv(65536):
                for piece in (data[i : i + 1] for i in range(len(data))) if byte_by_byte else (data,):
                    caller.sendall(piece)
                    if byte_by_byte:
                        time.sleep(1)


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


@contextmanager
def proxy(target: str) -> Iterator[Proxy]:
    """A proxy in front of the receiver at `target`, until the block ends."""
    running = Proxy(target)
    try:
        yield running
    finally:
        running.server.close()
