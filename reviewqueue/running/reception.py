"""gunicorn's threads, with a reception in front: a thread is given to a request once all of it is here.

Sending slowly therefore costs nobody but the sender, and what would wait too long is told so at once. Nothing
is understood here beyond where a request ends; gunicorn parses it, and refuses what is malformed.
"""

from __future__ import annotations

import json
import logging
import re
import socket
import struct
import time
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Any

from gunicorn.http.errors import (
    LimitRequestHeaders,
    LimitRequestLine,
    ParseException,
    UnsupportedTransferCoding,
)
from gunicorn.workers.gthread import ThreadWorker

from reviewqueue.config import current

# gunicorn loads this file before webserver has said where web processes add up their counts, and whatever
# counts must be imported after that: so the imports inside functions.

log = logging.getLogger("reviewqueue.running.reception")

WAITING = 64  # whole requests without a thread
ARRIVING = 500  # requests of which a part is here; who sends for longest gives way
ARRIVING_BYTES = 64 << 20
HEAD_BYTES = 64 << 10
ARRIVE_SECONDS = 30.0
LEAVE_SECONDS = 2.0  # for the other side to have read the answer
STUCK_SECONDS = 30  # one blocking read or write of a thread
PIECE = 1 << 16

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*\r\n", re.I)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[^\r\n]*chunked", re.I)
_EXPECTS = re.compile(rb"\r\nexpect:[ \t]*100-continue", re.I)
_HEALTH = (b"GET /healthz", b"GET /readyz", b"GET /metrics")


class Arrival:
    """What came of one request so far, and until when the rest may take."""

    def __init__(self, conn: Any, came: bytes) -> None:
        self.conn, self.came = conn, bytearray(came)
        self.until = time.monotonic() + ARRIVE_SECONDS
        self.registered = False
        self.size: int | None = None  # of the whole request, once its head is here; -1: not said
        self.head = 0

    def receive(self) -> bool:
        """Take in what is there: True when that is all a thread needs, BlockingIOError when more must come.

        ConnectionError when nothing more comes, ValueError when its head does not end.
        """
        while not self.whole():
            if self.size is None and len(self.came) > HEAD_BYTES:
                raise ValueError
            piece = self.conn.sock.recv(PIECE, socket.MSG_DONTWAIT)
            if not piece:
                raise ConnectionError
            self.came += piece
        return True

    def whole(self) -> bool:
        """Whether a thread can take it, or refuse it, without waiting for more."""
        if self.size is None and not self._read_head():
            return False
        if self.size == -1:
            body = self.came[self.head :]
            ended = body.endswith(b"\r\n\r\n") and (
                b"\r\n0\r\n" in body[-PIECE:] or body.startswith(b"0\r\n")
            )
            return ended or len(body) > self._limit()
        return len(self.came) >= (self.size or 0)

    def _read_head(self) -> bool:
        end = self.came.find(b"\r\n\r\n")
        if end < 0:
            return False
        self.head, self.size = end + 4, end + 4
        said = _LENGTH.search(self.came, 0, self.head)
        if _CHUNKED.search(self.came, 0, end):
            self.size = -1
        elif said is not None and int(said[1]) <= self._limit():
            self.size += int(said[1])
        if self.size != self.head and len(self.came) == self.head and _EXPECTS.search(self.came, 0, end):
            self.conn.sock.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        return True

    def _limit(self) -> int:
        """The largest body that is waited for: the application refuses a larger one without reading it."""
        from reviewqueue.admission import limit_of
        from reviewqueue.answers import DRAINED

        target = bytes(self.came[:PIECE]).split(b" ", 2)[1:2]
        return max(DRAINED, limit_of(target[0].decode("latin-1") if target else ""))


class ReceptionWorker(ThreadWorker):  # type: ignore[misc]  # gunicorn is not typed
    """gunicorn's thread worker, given whole requests only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.arriving: dict[Any, Arrival] = {}
        self.leaving: dict[Any, float] = {}

    def enqueue_req(self, conn: Any) -> None:
        """A connection has something to read, or read ahead: most often a whole request."""
        ahead = conn.parser.unreader.take_buffered() if conn.parser is not None else b""
        conn.arrival = arrival = Arrival(conn, ahead)
        if self._full():
            self._receive(arrival)
        else:
            super().enqueue_req(conn)

    def handle(self, conn: Any) -> Any:
        """In a thread: answer what is all here; give back, without having waited, what is not."""
        arrival, conn.arrival = conn.arrival, None
        if arrival is not None:
            try:
                arrival.receive()
            except (OSError, ValueError):
                return arrival
            _make_ready(arrival)
        return super().handle(conn)

    def _full(self) -> bool:
        return bool(self.tpool._work_queue.qsize() >= WAITING)

    def _receive(self, arrival: Arrival) -> None:
        """Take in what is there; a thread when that is all of it, else wait for more."""
        try:
            arrival.receive()
        except BlockingIOError:
            return self._wait(arrival)
        except ValueError:
            return self._refuse(arrival, 431)
        except OSError:
            return self._drop(arrival)
        return self._admit(arrival)

    def _wait(self, arrival: Arrival) -> None:
        if sum(len(other.came) for other in self.arriving.values()) > ARRIVING_BYTES:
            return self._refuse(arrival, 503)
        if not arrival.registered:
            if len(self.arriving) >= ARRIVING:
                self._refuse(next(iter(self.arriving.values())), 408)
            self.arriving[arrival.conn] = arrival
            self.poller.register(arrival.conn.sock, 1, lambda _sock: self._receive(arrival))
            arrival.registered = True
        return None

    def _admit(self, arrival: Arrival) -> None:
        if self._full() and not arrival.came.startswith(_HEALTH):
            return self._refuse(arrival, 503)
        self._forget(arrival)
        _make_ready(arrival)
        arrival.conn.arrival = None
        super().enqueue_req(arrival.conn)
        return None

    def _refuse(self, arrival: Arrival, status: int) -> None:
        """Answer without a thread, and end the connection."""
        from reviewqueue import metrics

        self._forget(arrival)
        metrics.TURNED_AWAY.labels(status).inc()
        with suppress(OSError):  # whoever does not read cannot be told
            arrival.conn.sock.send(refusal(status))
        self._leave(arrival.conn)

    def _drop(self, arrival: Arrival) -> None:
        self._forget(arrival)
        self._gone(arrival.conn)

    def _forget(self, arrival: Arrival) -> None:
        self.arriving.pop(arrival.conn, None)
        if arrival.registered:
            self.poller.unregister(arrival.conn.sock)
            arrival.registered = False

    def finish_request(self, conn: Any, fs: Future[Any]) -> None:
        """After an answer: keep the connection, or see it off without keeping everybody else waiting."""
        failed = fs.cancelled() or fs.exception() is not None
        if not failed and isinstance(fs.result(), Arrival):
            self._receive(fs.result())
        elif not failed and fs.result():
            super().finish_request(conn, fs)
        else:
            self._leave(conn)

    def _leave(self, conn: Any) -> None:
        """Say that nothing more comes, and close once the other side did, so that it reads the answer."""
        try:
            conn.sock.shutdown(socket.SHUT_WR)
            conn.sock.setblocking(False)
            self.poller.register(conn.sock, 1, partial(self._drain, conn))
            self.leaving[conn] = time.monotonic() + LEAVE_SECONDS
        except (OSError, KeyError, ValueError):
            self._gone(conn)

    def _drain(self, conn: Any, sock: socket.socket) -> None:
        try:
            if sock.recv(PIECE):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._left(conn)

    def _left(self, conn: Any) -> None:
        del self.leaving[conn]
        self.poller.unregister(conn.sock)
        self._gone(conn)

    def _gone(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """What gunicorn could not read, or what failed outside the application: told without a quotation."""
        known = {LimitRequestLine: 414, LimitRequestHeaders: 431, UnsupportedTransferCoding: 501}
        status = next((number for kind, number in known.items() if isinstance(exc, kind)), 400)
        if not isinstance(exc, ParseException):
            status = 500
            log.error("a request failed", exc_info=exc)
        with suppress(OSError):
            client.sendall(refusal(status))

    def murder_pending(self) -> None:
        """gunicorn asks every second: end what took too long to arrive or to leave."""
        moment = time.monotonic()
        for arrival in list(self.arriving.values()):
            if not arrival.came and (arrival.until < moment or not self.alive):
                self._drop(arrival)  # a connection that said nothing is closed as quietly
            elif arrival.until < moment:
                self._refuse(arrival, 408)
        for conn in [conn for conn, until in self.leaving.items() if until < moment]:
            self._left(conn)


def _make_ready(arrival: Arrival) -> None:
    """Give what came to gunicorn's parser, as if it had been read from the socket just now."""
    conn = arrival.conn
    if conn.parser is None:
        wait = struct.pack("ll", STUCK_SECONDS, 0)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            conn.sock.setsockopt(socket.SOL_SOCKET, option, wait)
        conn.init()
        conn.data_ready = True
    conn.parser.unreader.unread(bytes(arrival.came))


def refusal(status: int) -> bytes:
    """A whole answer that says no, as programs want it."""
    from reviewqueue.answers import HEADERS, HSTS

    title = HTTPStatus(status).phrase
    code = {503: "overloaded"}.get(status, title.lower().replace(" ", "_"))
    said = {503: "More requests wait than can be answered soon; try again."}.get(status, title)
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": said, "code": code})
    headers = HEADERS | {
        "Content-Type": "application/problem+json", "Content-Length": str(len(body)),
        "Cache-Control": "no-store", "Connection": "close",
    }  # fmt: skip
    if current().secure:
        headers["Strict-Transport-Security"] = HSTS
    if status == 503:
        headers["Retry-After"] = "1"
    lines = [f"HTTP/1.1 {status} {title}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()
