"""One HTTP call that carries a callback: the client that sends bytes to strangers.

It must never follow, decompress or wait for more than its limits say: whatever answers is hostile.
"""

from __future__ import annotations

import functools
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import certifi
import httpcore

from reviewqueue.delivery import guard
from reviewqueue.errors import Invalid
from reviewqueue.seams import clock

DEADLINE = 20.0  # seconds for the whole attempt
BODY_LIMIT = 64 * 1024
HEADER_LIMIT = 32 * 1024
KEPT = 4 * 1024  # bytes of the answer that are kept, for people
FRAMING = 4 * 1024  # bytes an honest receiver may spend on chunk sizes beyond the body itself
STEP = 4 * 1024

Word = Literal[
    "ok", "http_4xx", "http_5xx", "redirect", "gone", "throttled", "dns", "blocked", "tls",
    "connect_timeout", "deadline", "reset", "too_large",
]  # fmt: skip

MEANING: dict[Word, str] = {
    "ok": "The receiver accepted the callback.",
    "http_4xx": "The receiver refused the callback.",
    "http_5xx": "The receiver failed.",
    "redirect": "The receiver points elsewhere; redirects are never followed.",
    "gone": "The receiver is gone for good (410).",
    "throttled": "The receiver asks for fewer callbacks, or cannot take any just now.",
    "dns": "The receiver's name has no address, or the name servers did not answer.",
    "blocked": guard.REFUSED,
    "tls": "No trusted TLS connection could be made: check the receiver's certificate.",
    "connect_timeout": "The receiver could not be reached.",
    "deadline": "The receiver did not answer completely in time.",
    "reset": "The receiver closed the connection or did not speak HTTP.",
    "too_large": "The receiver's answer was too large.",
}

_KEPT_HEADERS = re.compile("content-(encoding|length|type)|date|location|retry-after|server|via|x-request-id")


@dataclass
class Outcome:
    """What became of one attempt; texts of the answer are hostile."""

    outcome: Word
    status: int | None = None
    peer: str | None = None
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    duration: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the receiver has it."""
        return self.outcome == "ok"

    @property
    def message(self) -> str:
        """The outcome in a sentence for people."""
        return MEANING[self.outcome]


def send(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    allow: Sequence[guard.Network] = (),
    resolver: guard.Resolver = guard.lookup,
    deadline: float = DEADLINE,
    *,
    deny: Sequence[guard.Network] = (),
    floor: float = guard.FLOOR,
    tls: ssl.SSLContext | None = None,
    now: float | None = None,
) -> Outcome:
    """POST `body` once and say what became of it, within `deadline` seconds; never raises for the network.

    `tls` replaces the trusted certificates; `now` (seconds since 1970) is the time a Retry-After date is
    read against.
    """
    started = time.monotonic()
    result = Outcome("reset")

    def left() -> float:
        remaining = started + deadline - time.monotonic()
        if remaining <= 0:
            raise _Ended("deadline")
        return remaining

    try:
        target = guard.parse(url)
        with closing(_Stream(guard.connect(target, allow, deny, resolver, left), left)) as stream:
            result.peer = stream.sock.getpeername()[0]
            _post(target, headers, body, stream, tls or _trusted(), result)
        result.outcome = _word(result.status or 0)
    except (guard.Blocked, Invalid):
        guard.hold(started, floor)
        result = Outcome("blocked")
    except guard.Unresolved:
        result.outcome = "dns"
    except _Ended as ended:
        result.outcome = ended.word
    except (ConnectionError, httpcore.RemoteProtocolError):
        result.outcome = "reset"
    except OSError:
        result.outcome = "connect_timeout"
    moment = clock().timestamp() if now is None else now
    result.retry_after = retry_after(result.headers.get("retry-after"), moment)
    result.duration = time.monotonic() - started
    return result


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header (a number or an HTTP date), or None when it says nothing."""
    value = (value or "").strip()
    if re.fullmatch(r"[0-9]+", value, re.ASCII):
        return float(min(int(value[:10]), 10**9))
    try:
        date = parsedate_to_datetime(value)
        return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None


def _post(
    target: guard.Target,
    headers: Mapping[str, str],
    body: bytes,
    stream: _Stream,
    tls: ssl.SSLContext,
    result: Outcome,
) -> None:
    """One exchange over `stream`; fills `result` as the answer comes in."""
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    sent = {name.lower(): value for name, value in headers.items() if name.lower() != "transfer-encoding"}
    sent |= {
        "host": target.authority,
        "content-length": str(len(body)),
        "accept-encoding": "identity",
        "connection": "close",
        "user-agent": "reviewqueue",
    }
    with (
        httpcore.HTTPConnection(url.origin, tls, network_backend=_Backend(stream)) as connection,
        connection.stream("POST", url, headers=list(sent.items()), content=body) as response,
    ):
        result.status = response.status
        result.headers = _kept(response.headers)
        stream.room = BODY_LIMIT + FRAMING
        size, start = 0, bytearray()
        for chunk in response.iter_stream():
            size += len(chunk)
            start += chunk[: KEPT - len(start)]
            result.body = start.decode("utf-8", "replace").replace("\0", "\ufffd")
            if size > BODY_LIMIT:
                raise _Ended("too_large")


def _kept(headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    decoded = ((name.decode("ascii").lower(), value.decode("latin-1")[:256]) for name, value in headers)
    return {name: value for name, value in decoded if _KEPT_HEADERS.fullmatch(name)}


def _word(status: int) -> Word:
    if status in (429, 502, 503, 504):
        return "throttled"
    if status == 410:
        return "gone"
    words: dict[int, Word] = {2: "ok", 3: "redirect", 4: "http_4xx"}
    return words.get(status // 100, "http_5xx")


@functools.cache
def _trusted() -> ssl.SSLContext:
    """TLS 1.2 or later, certificate and name verified; nothing is read from the environment."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(certifi.where())
    return context


class _Ended(Exception):
    """The exchange stops here, with this outcome."""

    def __init__(self, word: Word) -> None:
        super().__init__(word)
        self.word: Word = word


class _Backend(httpcore.NetworkBackend):
    """Hands httpcore the one guarded connection, whatever it asks for; Unix sockets stay unsupported."""

    def __init__(self, stream: _Stream) -> None:
        self.stream = stream

    def connect_tcp(self, *_: Any, **__: Any) -> httpcore.NetworkStream:
        return self.stream


class _Stream(httpcore.NetworkStream):
    """A socket on which every step gets only the time and the room that are left of the whole.

    httpcore's own time-outs start anew with each read, which a receiver sending a byte a second outlives.
    """

    def __init__(self, sock: socket.socket, left: Callable[[], float]) -> None:
        self.sock = sock
        self.left = left
        self.room = HEADER_LIMIT

    @contextmanager
    def _step(self) -> Iterator[None]:
        try:
            self.sock.settimeout(self.left())
            yield
        except TimeoutError:
            raise _Ended("deadline") from None
        except ssl.SSLError:
            raise _Ended("tls") from None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if self.room <= 0:
            raise _Ended("too_large")
        with self._step():
            data = self.sock.recv(min(max_bytes, self.room, STEP))
        self.room -= len(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        view = memoryview(buffer)
        try:
            while view:
                with self._step():
                    view = view[self.sock.send(view) :]
        except OSError as error:
            raise httpcore.WriteError from error  # httpcore then reads what the receiver said before closing

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with self._step():
            self.sock = ssl_context.wrap_socket(self.sock, server_hostname=server_hostname)
        return self

    def close(self) -> None:
        self.sock.close()

    def get_extra_info(self, info: str) -> Any:
        return self.sock if info == "ssl_object" and isinstance(self.sock, ssl.SSLSocket) else None
