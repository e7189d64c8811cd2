"""The demo's backends: a server that verifies every callback as a real receiver should, and prints it.

    RECEIVER_SECRETS='{"<backend>": ["whsec_…", …]}' python demo/receiver.py SOCKET_NUMBER

The path of a callback names its backend.
"""

import json
import os
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from reviewqueue.client import Unverified, verify_callback

SEEN: set[str] = set()


class Receiver(BaseHTTPRequestHandler):
    """Answers 204 to what is genuine, 401 to the rest."""

    protocol_version = "HTTP/1.1"
    secrets: dict[str, list[str]] = {}  # noqa: RUF012  set once, before the first request

    def do_POST(self) -> None:
        body = self.rfile.read(min(int(self.headers.get("content-length") or 0), 1 << 20))
        backend = self.path.strip("/")
        try:
            event = verify_callback(self.headers, body, self.secrets.get(backend, []))
        except Unverified as error:
            print(f"callback for {backend!r} refused: {error}", flush=True)
            self._answer(401, b"")
            return
        self._answer(200, json.dumps({"challenge": event["data"].get("challenge")}).encode())
        if self.headers["webhook-id"] not in SEEN:  # an event may come twice; it counts once
            SEEN.add(self.headers["webhook-id"])
            _show(backend, event)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_args: object) -> None:
        """What matters is printed already."""


def _show(backend: str, event: dict) -> None:
    data = event["data"]
    words = [event["type"], *(data.get(field) for field in ("external_id", "id", "verdict", "reason"))]
    print(f"callback {backend}: " + " · ".join(str(word) for word in words if word), flush=True)
    if data.get("edited"):
        print(f"  now: {json.dumps(data['output'], ensure_ascii=False)[:200]}", flush=True)


def main(number: str) -> None:
    """Serve on a socket that whoever started us opened."""
    Receiver.secrets = json.loads(os.environ.pop("RECEIVER_SECRETS"))
    listening = socket.socket(fileno=int(number))
    server = ThreadingHTTPServer(listening.getsockname()[:2], Receiver, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
