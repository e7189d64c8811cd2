"""One callback against real receivers on this machine: polite, broken and hostile ones."""

from __future__ import annotations

import contextlib
import datetime
import gzip
import inspect
import logging
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from email.utils import format_datetime
from ipaddress import ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from reviewqueue import background
from reviewqueue.delivery import callback, deliver, guard, signature, taking

LOOPBACK = [ip_network("127.0.0.0/8")]
SECRET = "whsec_ERERERERERERERERERERERERERERERERERERERERERE="
BODY = b'{"type":"decision.final"}'
SIGNATURE = "v1,eTA1eEZZAvhHAn239/IApSji6tvnnYxuuR3/RjfA1ds="
AT = 1763632800

Answer = Callable[[socket.socket], None]


class Receiver:
    """A server of one behaviour: reads a whole request, keeps it, then lets `answer` do what it likes."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.answer, self.tls = answer, tls
        self.sock = socket.create_server((host, 0))
        self.port: int = self.sock.getsockname()[1]
        self.url = f"http://{host}:{self.port}/hook"
        self.requests: list[bytes] = []
        self.visits = 0
        self.closing = threading.Event()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            try:
                visitor = self.sock.accept()[0]
            except OSError:
                return
            self.visits += 1
            threading.Thread(target=self._meet, args=(visitor,), daemon=True).start()

    def _meet(self, visitor: socket.socket) -> None:
        visitor.settimeout(10)
        with contextlib.suppress(OSError), visitor:
            if self.tls:
                visitor = self.tls.wrap_socket(visitor, server_side=True)
            with visitor:
                self.requests.append(read_request(visitor))
                self.answer(visitor)

    def __enter__(self) -> Receiver:
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()


def read_request(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536) or b"\r\n\r\n"
    head, _, body = data.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    while len(body) < int(fields.get(b"content-length", b"0")):
        chunk = sock.recv(65536)
        if not chunk:
            break
        body += chunk
    return head + b"\r\n\r\n" + body


def say(status: str, *headers: str, body: bytes = b"thanks") -> Answer:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return lambda sock: sock.sendall("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


def send(to: Receiver | str, **options: object) -> callback.Outcome:
    url = to if isinstance(to, str) else to.url
    wanted: dict[str, object] = {"allow": LOOPBACK, "deadline": 5.0, "floor": 0.0} | options
    headers = signature.signed_headers("evt_1", AT, BODY, [SECRET])
    return callback.send(url, headers, BODY, **wanted)  # type: ignore[arg-type]


def test_send_posts_the_bytes_signed_and_asks_for_no_compression() -> None:
    with Receiver(say("200 OK", "X-Request-Id: abc", "Set-Cookie: a=b")) as receiver:
        answer = send(receiver.url + "?a=b")
        head, _, body = receiver.requests[0].partition(b"\r\n\r\n")
    first, *lines = head.decode().lower().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert first == "post /hook?a=b http/1.1"
    assert body == BODY
    assert headers == {
        "host": f"127.0.0.1:{receiver.port}",
        "content-type": "application/json",
        "content-length": str(len(BODY)),
        "webhook-id": "evt_1",
        "webhook-timestamp": str(AT),
        "webhook-signature": SIGNATURE.lower(),
        "webhook-attempt": "1",
        "accept-encoding": "identity",
        "connection": "close",
        "user-agent": "reviewqueue",
    }
    assert (answer.outcome, answer.ok, answer.status, answer.body) == ("ok", True, 200, "thanks")
    assert answer.peer == "127.0.0.1"
    assert answer.headers == {"content-length": "6", "x-request-id": "abc"}
    assert 0 < answer.duration < 5


def test_send_opens_a_new_connection_each_time_and_keeps_no_cookie() -> None:
    with Receiver(say("200 OK", "Set-Cookie: a=b", "Connection: keep-alive")) as receiver:
        assert send(receiver).ok
        assert send(receiver).ok
        assert receiver.visits == 2
        assert b"cookie" not in receiver.requests[1].lower()


def test_send_lets_no_caller_replace_the_framing() -> None:
    with Receiver(say("200 OK")) as receiver:
        odd = {
            "Host": "inside",
            "Content-Length": "1",
            "Transfer-Encoding": "chunked",
            "Accept-Encoding": "br",
        }
        assert callback.send(receiver.url, odd, BODY, LOOPBACK, deadline=5).ok
        head, _, body = receiver.requests[0].lower().partition(b"\r\n\r\n")
    assert body == BODY.lower()
    assert b"host: 127.0.0.1" in head
    assert not any(word in head for word in (b"inside", b"chunked", b"accept-encoding: br"))


def test_send_reads_no_proxy_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with Receiver(say("200 OK")) as receiver, Receiver(say("200 OK")) as proxy:
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert send(receiver).ok
        assert proxy.visits == 0


def test_send_writes_neither_address_nor_secret_to_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Receiver(say("200 OK")) as receiver:
        assert send(receiver.url + "?token=canary").ok
    assert "canary" not in caplog.text
    assert SIGNATURE not in caplog.text


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("200 OK", "ok"),
        ("201 Created", "ok"),
        ("202 Accepted", "ok"),
        ("299 Whatever", "ok"),
        ("300 Many", "redirect"),
        ("301 Moved", "redirect"),
        ("307 Elsewhere", "redirect"),
        ("308 Elsewhere", "redirect"),
        ("399 Odd", "redirect"),
        ("400 No", "http_4xx"),
        ("401 No", "http_4xx"),
        ("404 No", "http_4xx"),
        ("409 No", "http_4xx"),
        ("410 Gone", "gone"),
        ("429 Slower", "throttled"),
        ("500 Broken", "http_5xx"),
        ("501 Broken", "http_5xx"),
        ("502 Broken", "throttled"),
        ("503 Later", "throttled"),
        ("504 Later", "throttled"),
        ("599 Broken", "http_5xx"),
        ("999 Odd", "http_5xx"),
    ],
)
def test_send_names_the_outcome_by_the_status(status: str, outcome: str) -> None:
    with Receiver(say(status)) as receiver:
        answer = send(receiver)
    assert (answer.outcome, answer.status, answer.ok) == (outcome, int(status[:3]), outcome == "ok")
    assert answer.message


def test_send_takes_an_empty_204_and_waits_through_a_100() -> None:
    def answer(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    with Receiver(answer) as receiver:
        assert (send(receiver).outcome, send(receiver).body) == ("ok", "")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_send_never_follows_a_redirect(status: int) -> None:
    with (
        Receiver(say("200 OK")) as canary,
        Receiver(say(f"{status} X", f"Location: {canary.url}")) as receiver,
    ):
        answer = send(receiver)
        assert (answer.outcome, answer.headers["location"]) == ("redirect", canary.url)
        assert canary.visits == 0
        assert receiver.visits == 1


def test_send_tells_what_retry_after_says() -> None:
    date = format_datetime(datetime.datetime.fromtimestamp(AT + 90, datetime.UTC), usegmt=True)
    with Receiver(say("429 Slower", "Retry-After: 17")) as receiver:
        assert send(receiver).retry_after == 17.0
    with Receiver(say("503 Later", f"Retry-After: {date}")) as receiver:
        assert send(receiver, now=AT).retry_after == 90.0
    with Receiver(say("503 Later")) as receiver:
        assert send(receiver).retry_after is None


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("9" * 5000, 1e9),
        ("Thu, 20 Nov 2025 10:00:30 GMT", 30.0),
        ("Thu, 20 Nov 2025 09:00:00 GMT", 0.0),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("Thu, 99 Nov 2025 10:00:30 GMT", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_reads_seconds_and_dates(value: str | None, seconds: float | None) -> None:
    assert callback.retry_after(value, AT) == seconds


def test_send_keeps_4_kib_of_the_answer_as_storable_text() -> None:
    with Receiver(say("500 Broken", body=b"a\0\xff" + "é".encode() * 4000)) as receiver:
        answer = send(receiver)
    assert answer.body.startswith("a\ufffd\ufffdé")
    assert "\0" not in answer.body
    assert len(answer.body.encode("utf-8", "replace")) <= 3 * callback.KEPT
    assert answer.body.count("é") == (4096 - 3) // 2


def endless(first: bytes, again: bytes, pause: float = 0.0) -> Answer:
    def answer(sock: socket.socket) -> None:
        sock.sendall(first)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            sock.sendall(again)
            time.sleep(pause)

    return answer


HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
DRIPS = {
    "nothing": (b"", b""),
    "status line": (b"HTTP/1.1 2", b"0"),
    "header": (HEAD + b"x: ", b"x"),
    "headers": (HEAD, b"x: y\r\n"),
    "continue": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body": (HEAD + b"Content-Length: 1000\r\n\r\n", b"x"),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "chunk size": (CHUNKED, b"0"),
    "until close": (HEAD + b"\r\n", b"x"),
}


@pytest.mark.parametrize(("first", "again"), DRIPS.values(), ids=DRIPS)
def test_send_ends_with_the_deadline_however_slowly_the_answer_drips(first: bytes, again: bytes) -> None:
    with Receiver(endless(first, again, pause=0.05)) as receiver:
        started = time.monotonic()
        answer = send(receiver, deadline=0.5)
        assert time.monotonic() - started < 1.5
    assert answer.outcome == "deadline"


def test_send_ends_with_the_deadline_when_the_receiver_reads_nothing() -> None:
    def deaf(sock: socket.socket) -> None:
        time.sleep(3)

    with Receiver(say("200 OK")) as receiver:
        receiver._meet = deaf  # type: ignore[method-assign]
        answer = callback.send(receiver.url, {}, bytes(64 * 1024 * 1024), LOOPBACK, deadline=0.5)
    assert answer.outcome == "deadline"
    assert answer.duration < 1.5


FLOODS = {
    "body": HEAD + b"\r\n",
    "long body": HEAD + b"Content-Length: 1000000000\r\n\r\n",
    "header": HEAD + b"x: ",
    "status line": b"HTTP/1.1 200 ",
    "chunk extension": CHUNKED + b"1;",
}


@pytest.mark.parametrize("first", FLOODS.values(), ids=FLOODS)
def test_send_stops_reading_an_endless_answer(first: bytes) -> None:
    taken = [0]

    def answer(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
        sock.sendall(first)
        while True:
            taken[0] += sock.send(b"x" * 4096)

    with Receiver(answer) as receiver:
        result = send(receiver)
    assert result.outcome == "too_large"
    assert len(result.body) <= callback.KEPT
    assert taken[0] < 16 * 1024 * 1024  # what the system buffers, not what was read


@pytest.mark.parametrize("again", [b"x: y\r\n", b"y" * 63 + b": z\r\n"])
def test_send_refuses_headers_above_32_kib(again: bytes) -> None:
    count = callback.HEADER_LIMIT // len(again)
    for lines, outcome in ((count - 20, "ok"), (count + 1, "too_large")):
        with Receiver(lambda sock, lines=lines: sock.sendall(HEAD + again * lines + b"\r\n")) as receiver:
            assert send(receiver).outcome == outcome


@pytest.mark.parametrize(("size", "outcome"), [(65536, "ok"), (65537, "too_large")])
@pytest.mark.parametrize("chunked", [False, True])
def test_send_refuses_a_body_above_64_kib(size: int, outcome: str, chunked: bool) -> None:
    data = b"x" * size
    pieces = [data[at : at + 128] for at in range(0, size, 128)]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

    def answer(sock: socket.socket) -> None:
        sock.sendall(CHUNKED if chunked else HEAD + b"Content-Length: %d\r\n\r\n" % size)
        time.sleep(0.1)
        sock.sendall(chunks if chunked else data)

    with Receiver(answer) as receiver:
        result = send(receiver)
    assert (result.outcome, result.status, len(result.body)) == (outcome, 200, 4096)


def test_send_never_decompresses() -> None:
    bomb = gzip.compress(bytes(30_000_000))
    assert len(bomb) < 65536
    with Receiver(say("200 OK", "Content-Encoding: gzip", body=bomb)) as receiver:
        answer = send(receiver)
    assert answer.outcome == "ok"
    assert answer.body.startswith("\x1f\ufffd\x08")
    assert answer.duration < 2


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize(
    "answer",
    [
        reset,
        lambda sock: None,
        lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\n"),
        lambda sock: sock.sendall(HEAD + b"Content-Length: 10\r\n\r\nshort"),
        lambda sock: sock.sendall(CHUNKED + b"zz\r\n"),
        lambda sock: sock.sendall(b"SSH-2.0-OpenSSH_9.9\r\n\r\n"),
        lambda sock: sock.sendall(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    ],
    ids=["rst", "close", "half a head", "short body", "bad chunk", "not http", "upgrade", "two lengths"],
)
def test_send_calls_a_broken_conversation_reset(answer: Answer) -> None:
    with Receiver(answer) as receiver:
        assert send(receiver).outcome == "reset"


def test_send_calls_a_closed_port_reset() -> None:
    with Receiver(say("200 OK")) as receiver:
        pass
    assert send(receiver).outcome == "reset"


def test_send_hears_an_answer_given_before_the_body_was_read() -> None:
    with Receiver(say("200 OK")) as receiver:

        def early(sock: socket.socket) -> None:
            sock.recv(100)
            sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            time.sleep(0.2)
            sock.close()  # with most of the body unread: the sender's next write fails

        receiver._meet = early  # type: ignore[method-assign]
        answer = callback.send(receiver.url, {}, bytes(4 * 1024 * 1024), LOOPBACK, deadline=5)
    assert (answer.outcome, answer.status) == ("http_4xx", 413)


def test_send_says_blocked_in_one_way_and_not_before_the_floor() -> None:
    refused = [
        "http://127.0.0.1/",
        "https://10.0.0.7/",
        "ftp://x/",
        "https://u@h/",
        "https://inside.example/",
    ]
    answers = [
        callback.send(url, {}, BODY, resolver=lambda host: ["10.0.0.7"], floor=0.2, deadline=5)
        for url in refused
    ]
    assert {answer.duration >= 0.2 for answer in answers} == {True}
    for answer in answers:
        answer.duration = 0
    assert answers == [callback.Outcome("blocked")] * len(refused)
    assert {answer.message for answer in answers} == {guard.REFUSED}


def test_send_refuses_loopback_unless_it_is_allowed() -> None:
    with Receiver(say("200 OK")) as receiver:
        assert send(receiver, allow=[]).outcome == "blocked"
        assert send(receiver, allow=[ip_network("127.0.0.2/32")]).outcome == "blocked"
        assert receiver.visits == 0
        assert send(receiver).outcome == "ok"


def test_send_judges_each_attempt_anew_when_the_name_moves() -> None:
    with Receiver(say("200 OK"), host="127.0.0.2") as receiver, Receiver(say("200 OK")) as canary:
        answers = iter([["127.0.0.2"], ["127.0.0.1"], ["127.0.0.2", "127.0.0.1"], ["127.0.0.2"]])
        url, allow = f"http://moving.example:{receiver.port}/", [ip_network("127.0.0.2/32")]
        got = [send(url, allow=allow, resolver=lambda host: next(answers)).outcome for _ in range(4)]
        assert got == ["ok", "blocked", "blocked", "ok"]
        assert (receiver.visits, canary.visits) == (2, 0)


def test_send_asks_for_the_name_once_an_attempt() -> None:
    asked = []

    def resolver(host: str) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    with Receiver(say("200 OK")) as receiver:
        url = f"http://receiver.example:{receiver.port}/"
        assert send(url, resolver=resolver).ok
        assert b"\r\nhost: receiver.example:%d\r\n" % receiver.port in receiver.requests[0].lower()
    assert asked == ["receiver.example"]


def test_send_says_dns_when_there_is_no_address_or_no_answer() -> None:
    def missing(host: str) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    awake = threading.Event()

    def silent(host: str) -> list[str]:
        awake.wait(10)
        return []

    for resolver in (missing, silent, lambda host: []):
        answer = send("https://nowhere.example/", resolver=resolver, deadline=0.3)
        assert (answer.outcome, answer.peer) == ("dns", None)
        assert answer.duration < 1.3
    awake.set()


def test_send_says_connect_timeout_when_nobody_picks_up() -> None:
    # A full backlog: the system stops answering new connections.
    with socket.socket() as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(8):
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        answer = send(f"http://127.0.0.1:{deaf.getsockname()[1]}/", deadline=0.5)
    assert answer.outcome == "connect_timeout"
    assert answer.duration < 1.5


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for receiver.example and the key to it; the certificate is its own authority."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "receiver.example")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("receiver.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def server_side(authority: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority)
    return context


def trusting(authority: tuple[Path, Path]) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority[0]))


def to_loopback(host: str) -> list[str]:
    return ["127.0.0.1"]


def test_send_speaks_tls_with_the_name_while_connecting_to_the_address(authority: tuple[Path, Path]) -> None:
    asked: list[str | None] = []
    context = server_side(authority)
    context.sni_callback = lambda sock, name, _: asked.append(name)
    with Receiver(say("200 OK"), context) as receiver:
        url = f"https://receiver.example:{receiver.port}/"
        answer = send(url, resolver=to_loopback, tls=trusting(authority))
        assert b"\r\nhost: receiver.example:%d\r\n" % receiver.port in receiver.requests[0].lower()
    assert (answer.outcome, answer.peer, asked) == ("ok", "127.0.0.1", ["receiver.example"])


def test_send_refuses_an_untrusted_certificate_and_another_name(authority: tuple[Path, Path]) -> None:
    with Receiver(say("200 OK"), server_side(authority)) as receiver:
        url = f"https://receiver.example:{receiver.port}/"
        other = f"https://other.example:{receiver.port}/"
        assert send(url, resolver=to_loopback).outcome == "tls"
        assert send(other, resolver=to_loopback, tls=trusting(authority)).outcome == "tls"
        assert receiver.requests == []


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_send_refuses_tls_below_1_2(authority: tuple[Path, Path]) -> None:
    ours = callback._trusted.__wrapped__()
    ours.load_verify_locations(authority[0])
    ours.set_ciphers("ALL:@SECLEVEL=0")
    for version, outcome in ((ssl.TLSVersion.TLSv1_1, "tls"), (ssl.TLSVersion.TLSv1_2, "ok")):
        theirs = server_side(authority)
        theirs.set_ciphers("ALL:@SECLEVEL=0")
        theirs.minimum_version, theirs.maximum_version = ssl.TLSVersion.TLSv1, version
        with Receiver(say("200 OK"), theirs) as receiver:
            url = f"https://receiver.example:{receiver.port}/"
            assert send(url, resolver=to_loopback, tls=ours).outcome == outcome


def test_send_calls_plain_http_behind_https_a_tls_failure() -> None:
    with Receiver(lambda sock: None) as receiver:
        receiver._meet = lambda sock: sock.sendall(HEAD + b"\r\n")  # type: ignore[method-assign]
        assert send(f"https://receiver.example:{receiver.port}/", resolver=to_loopback).outcome == "tls"


def test_send_ends_with_the_deadline_in_a_dripping_handshake() -> None:
    def drip(sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for byte in b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03" + bytes(200):
                sock.sendall(bytes([byte]))
                time.sleep(0.05)

    with Receiver(lambda sock: None) as receiver:
        receiver._meet = drip  # type: ignore[method-assign]
        answer = send(f"https://receiver.example:{receiver.port}/", resolver=to_loopback, deadline=0.5)
    assert answer.outcome == "deadline"
    assert answer.duration < 1.5


def test_send_ends_with_the_deadline_in_a_dripping_answer_over_tls(authority: tuple[Path, Path]) -> None:
    with Receiver(endless(CHUNKED, b"1\r\nx\r\n", 0.05), server_side(authority)) as receiver:
        url = f"https://receiver.example:{receiver.port}/"
        answer = send(url, resolver=to_loopback, tls=trusting(authority), deadline=0.5)
    assert (answer.outcome, answer.status) == ("deadline", 200)
    assert answer.duration < 1.5


def test_an_attempt_ends_within_21_seconds_and_reads_64_kib_by_default() -> None:
    assert (callback.DEADLINE, callback.BODY_LIMIT, callback.HEADER_LIMIT) == (20.0, 64 * 1024, 32 * 1024)
    assert inspect.signature(callback.send).parameters["deadline"].default == callback.DEADLINE
    # Looking a name up is part of it, and a worker begins attempts only while they can end within its job.
    assert guard.LOOKUP_LIMIT < callback.DEADLINE
    assert deliver.TAKING + callback.DEADLINE + 1 < background.JOB_SECONDS
    assert taking.LEASE.total_seconds() > callback.DEADLINE + 1
