"""A backend that receives callbacks on a free port, as a real HTTP server, and remembers what it heard."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Heard:
    """One request: its headers in lower case, its bytes, and the status it was answered with."""

    headers: dict[str, str]
    body: bytes
    status: int = 0

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.body)
        return told

    @property
    def sequence(self) -> int:
        return int(self.event["data"]["sequence"])


@dataclass
class Receiver:
    """What was heard so far, in order; `answer` decides what is said to each request."""

    url: str
    answer: Callable[[Heard], Answer] = lambda heard: (200, {}, b"thanks")
    heard: list[Heard] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def says(self, status: int, body: bytes = b"", **headers: str) -> None:
        """Answer everything from now on in this one way; header names are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answer = lambda heard: (status, named, body)


def echo(heard: Heard) -> Answer:
    """Answer a challenge as a backend should, and everything else with thanks."""
    return 200, {}, str(heard.event["data"].get("challenge", "thanks")).encode()


@contextmanager
def receiver() -> Iterator[Receiver]:
    """A receiver that answers from a thread of its own for each request, until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    server.block_on_close = False
    running = Receiver(f"http://127.0.0.1:{server.server_port}/callbacks")
    _Handler.receivers[server.server_port] = running
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield running
    finally:
        server.shutdown()
        server.server_close()
        del _Handler.receivers[server.server_port]


class _Handler(BaseHTTPRequestHandler):
    receivers: ClassVar[dict[int, Receiver]] = {}

    def do_POST(self) -> None:
        running = self.receivers[self.server.server_address[1]]  # type: ignore[index]
        body = self.rfile.read(int(self.headers["content-length"]))
        heard = Heard({name.lower(): value for name, value in self.headers.items()}, body)
        with running.lock:
            running.heard.append(heard)
        heard.status, headers, said = running.answer(heard)
        try:
            self.send_response(heard.status)
            for name, value in {"content-length": str(len(said)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(said)
        except OSError:
            pass  # the caller went away, or was killed

    def log_message(self, *_: object) -> None:
        pass
