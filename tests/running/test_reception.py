"""Who sends slowly waits alone; what is whole is answered however it came."""

from __future__ import annotations

import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from reviewqueue.answers import HEADERS
from tests.fire.deployment import Deployment

SLOW = 30
HEAD = b"POST /api/v1/items HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    """One web process with two threads."""
    folder = tmp_path_factory.mktemp("reception") / "var"
    with ExitStack() as stack:
        running = Deployment(folder, REVIEWQUEUE_WEB_WORKERS="1", REVIEWQUEUE_WEB_THREADS="2")
        stack.callback(running.close)
        running.start("-m", "reviewqueue", "web")
        running.wait_for()
        yield running


def dial(server: Deployment) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def exchange(server: Deployment, *pieces: bytes, pause: float = 0.0) -> bytes:
    """What is answered to these pieces until the other side closes."""
    with dial(server) as line:
        for piece in pieces:
            line.sendall(piece)
            time.sleep(pause)
        said = b""
        while piece := line.recv(1 << 16):
            said += piece
        return said


def seconds(server: Deployment, count: int = 20) -> float:
    """What a page usually takes."""
    took = []
    with httpx.Client(base_url=server.url, timeout=10) as http:
        for _ in range(count):
            began = time.perf_counter()
            assert http.get("/login").status_code == 200
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def test_slow_clients_do_not_slow_others(server: Deployment) -> None:
    seconds(server)
    before = seconds(server)
    with ExitStack() as lines:
        slow = [lines.enter_context(dial(server)) for _ in range(SLOW)]
        for number, line in enumerate(slow):
            # A third says nothing, a third sends half a head, a third half a body.
            begun = (b"", HEAD, HEAD + b"Content-Length: 1000\r\n\r\n{")[number % 3]
            line.sendall(begun)
        for _ in range(3):
            for line in slow[2::3]:
                line.sendall(b" ")
            time.sleep(0.05)
        while_they_send = seconds(server)
        for line in slow[1::3]:
            line.sendall(b"Content-Length: 2\r\nConnection: close\r\n\r\n{}")
            assert line.recv(64).startswith(b"HTTP/1.1 401 ")
    assert while_they_send <= 3 * max(before, 0.01)


def test_who_does_not_hang_up_does_not_keep_others_waiting(server: Deployment) -> None:
    with dial(server) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert line.recv(64).startswith(b"HTTP/1.1 200 ")
        began = time.monotonic()
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert time.monotonic() - began < 1


def test_a_body_may_come_in_any_pieces(server: Deployment) -> None:
    last = HEAD + b"Connection: close\r\n"
    chunked = last + b"Transfer-Encoding: chunked\r\n\r\n"
    for pieces in (
        (last + b"Content-Length: 2\r\n\r\n", b"{", b"}"),
        (chunked, b"2\r\n{", b"}\r\n0\r\n", b"\r\n"),
        (chunked + b"0\r\n\r\n",),
        (last[:20], last[20:] + b"Content-Length: 0\r\n", b"\r", b"\n"),
    ):
        assert exchange(server, *pieces, pause=0.01).startswith(b"HTTP/1.1 401 "), pieces


def test_two_requests_in_one_piece_are_two_answers(server: Deployment) -> None:
    get = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    said = exchange(server, get + b"\r\n" + get + b"Connection: cl", b"ose\r\n\r\n", pause=0.05)
    assert said.count(b"HTTP/1.1 200 OK") == 2


def test_a_client_that_asks_first_is_told_to_continue(server: Deployment) -> None:
    with dial(server) as line:
        line.sendall(HEAD + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert line.recv(64) == b"HTTP/1.1 100 Continue\r\n\r\n"
        line.sendall(b"{}")
        said = b""
        while piece := line.recv(1 << 16):
            said += piece
        assert b" 401 " in said


def test_a_body_that_is_too_large_is_refused_at_once(server: Deployment) -> None:
    began = time.monotonic()
    with dial(server) as line:
        line.sendall(HEAD + b"Content-Length: 30000000\r\n\r\n{")
        assert line.recv(64).startswith(b"HTTP/1.1 413 ")
    whole = b"[" + b" " * (1 << 20) + b"]"
    assert httpx.post(f"{server.url}/api/v1/items", content=whole).status_code == 413
    assert time.monotonic() - began < 1


def test_a_head_without_end_is_refused_with_the_headers_of_every_answer(server: Deployment) -> None:
    said = exchange(server, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 70_000)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert all(f"\r\n{name}: {value}\r\n".encode() in said for name, value in HEADERS.items())
    counted = httpx.get(f"{server.url}/metrics").text
    assert 'reviewqueue_turned_away_total{status="431"} 1.0' in counted


def test_what_is_no_http_is_refused_by_the_server(server: Deployment) -> None:
    assert exchange(server, b"HELLO\r\n\r\n").startswith(b"HTTP/1.1 400 ")
    twice = HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}"
    assert exchange(server, twice).startswith(b"HTTP/1.1 400 ")
