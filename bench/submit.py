"""How many submissions a second: `python -m bench.submit [--seconds S] [--rounds N] [--postgresql] [--json]`.

Beside each figure stands the limit of the same machine at the same moment: `bench.limit`, run with the same
workers and threads on a database of the same durability. The two take turns, so that whatever else the
machine does befalls both. Then batches of 1,000, beside `executemany` of the same rows. A PostgreSQL of its
own is started with --postgresql, where its programs are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import selectors
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from reviewqueue import create_base
from reviewqueue.config import Settings, create_keys
from reviewqueue.models import Item
from reviewqueue.people.access import SYSTEM
from reviewqueue.people.backends import add_backend
from reviewqueue.routing import projects
from reviewqueue.running import embedded_redis
from reviewqueue.schema import migrate

ROOT = Path(__file__).resolve().parent.parent
WORKERS, THREADS = 2, 8
CONCURRENCY = (8, 32)
PROJECT = """name = "support-replies"
kind = "text"
[policy]
confidence_below = 0.8
"""
BODY = {
    "project": "support-replies",
    "input": "Where is my parcel, and may I return it when it comes too late? " * 6,
    "output": "Your parcel left our warehouse on Monday; it may be returned within 30 days. " * 8,
    "context": [{"title": "Shipping", "text": "Parcels leave on Mondays. " * 8, "score": 0.7}],
    "model": "model-1", "prompt": {"name": "reply", "version": "4"}, "metadata": {"request": "r-1"},
}  # fmt: skip


@contextmanager
def server(command: list[str], environ: dict[str, str], listener: socket.socket) -> Iterator[int]:
    """gunicorn on `listener`; its port."""
    child = subprocess.Popen(
        command, cwd=ROOT, env=environ, pass_fds=[listener.fileno()], stderr=subprocess.DEVNULL
    )
    try:
        yield listener.getsockname()[1]
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(20)


def drive(port: int, key: str, concurrency: int, seconds: float) -> tuple[float, list[float]]:
    """Submit for so long over so many connections; answers a second, and how long each took, in ms."""
    selector, taken, errors = selectors.DefaultSelector(), [], 0
    body = {share: json.dumps(BODY | {"confidence": share}).encode() for share in (0.5, 0.9)}
    sent = 0

    def request() -> bytes:
        nonlocal sent
        sent += 1
        said = body[0.5 if sent % 10 == 0 else 0.9]  # one in ten is for review
        return (
            f"POST /api/v1/items HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
            f"Idempotency-Key: {secrets.token_hex(12)}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(said)}\r\n\r\n"
        ).encode() + said

    for _ in range(concurrency):
        peer: Any = socket.create_connection(("127.0.0.1", port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(peer, selectors.EVENT_READ, [time.perf_counter(), b""])
        peer.sendall(request())
    began = time.perf_counter()
    while time.perf_counter() - began < seconds or not taken:
        for ready, _ in selector.select(1.0):
            peer = ready.fileobj  # a socket: nothing else is registered
            state = ready.data
            state[1] += peer.recv(65536)
            head, found, rest = state[1].partition(b"\r\n\r\n")
            if not found or len(rest) < int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0]):
                continue
            moment = time.perf_counter()
            errors += b" 201 " not in head[:16]
            taken.append((moment - state[0]) * 1000)
            state[:] = [moment, b""]
            peer.sendall(request())
    elapsed = time.perf_counter() - began
    for ready in list(selector.get_map().values()):
        peer = ready.fileobj
        peer.close()
    assert not errors, f"{errors} of {len(taken)} were not answered 201"
    return len(taken) / elapsed, taken


def prepare(environ: dict[str, str], folder: Path) -> str:
    """A project and a backend; its key."""
    create_keys(folder / "keys")
    with create_base(Settings.load(environ)).app_context():
        migrate()
        projects.apply(PROJECT, SYSTEM)
        return add_backend(SYSTEM, "bench", "support-replies").api_key


def single(ours: int, limit: int, key: str, seconds: float, rounds: int) -> list[dict[str, Any]]:
    """One row for each concurrency: the median of the rounds."""
    rows = []
    for concurrency in CONCURRENCY:
        drive(limit, key, concurrency, 0.5)
        drive(ours, key, concurrency, 0.5)
        turns = [[drive(port, key, concurrency, seconds) for port in (limit, ours)] for _ in range(rounds)]
        row: dict[str, Any] = {"concurrency": concurrency}
        for name, place in (("limit", 0), ("ours", 1)):
            row[f"{name}_per_s"] = round(statistics.median(turn[place][0] for turn in turns))
            times = sorted(taken for turn in turns for taken in turn[place][1])
            row[f"{name}_p50_ms"] = round(times[len(times) // 2], 1)
            row[f"{name}_p99_ms"] = round(times[int(len(times) * 0.99)], 1)
        row["share"] = round(statistics.median(turn[1][0] / turn[0][0] for turn in turns), 2)
        row["p99_ratio"] = round(row["ours_p99_ms"] / row["limit_p99_ms"], 1)
        rows.append(row)
    return rows


def batches(port: int, key: str, url: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Items a second in batches of 1,000, and rows a second of `executemany` of the rows they made."""
    entries = [BODY | {"confidence": 0.9, "external_id": f"b-{number}"} for number in range(1000)]
    ours = []
    for turn in range(rounds):
        for entry in entries:
            entry["external_id"] = f"{turn}-{entry['external_id']}"
        said = json.dumps({"items": entries}).encode()
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.sendall(
                f"POST /api/v1/items/batch HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
                f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(said)}\r\n\r\n".encode()
                + said
            )
            answer = b"".join(iter(lambda: peer.recv(1 << 20), b""))
        ours.append(1000 / (time.perf_counter() - began))
        assert answer.count(b'"status":201') == 1000, answer[:500]
    raw = _executemany(url, folder, rounds)
    return {"ours_items_per_s": round(max(ours)), "executemany_rows_per_s": round(raw),
            "share": round(max(ours) / raw, 3)}  # fmt: skip


def _executemany(url: str, folder: Path, rounds: int) -> float:
    """The same columns into a table without anything else, by the driver alone."""
    names = [column.key for column in Item.__table__.columns if column.key != "number"]
    row = [json.dumps(BODY.get(name)) if name in BODY else "x" for name in names]
    columns = ", ".join(f'"{name}" TEXT' for name in names)
    best = 0.0
    if url.startswith("sqlite"):
        connection: Any = sqlite3.connect(folder / "raw.db", isolation_level=None)
        connection.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL")
        mark = "?"
    else:
        import psycopg

        connection, mark = psycopg.connect(url, autocommit=True), "%s"
    connection.execute(f"CREATE TABLE raw ({columns})")
    for _ in range(rounds):
        began = time.perf_counter()
        connection.execute("BEGIN")
        connection.cursor().executemany(
            f"INSERT INTO raw VALUES ({', '.join([mark] * len(names))})", [row] * 1000
        )
        connection.execute("COMMIT")
        best = max(best, 1000 / (time.perf_counter() - began))
    connection.close()
    return best


def measure(url: str | None, folder: Path, seconds: float, rounds: int) -> dict[str, Any]:
    """Everything on one kind of database."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("REVIEWQUEUE_")}
    own = {"REVIEWQUEUE_DATA_DIR": str(folder), "REVIEWQUEUE_ENV": "test",
           "REVIEWQUEUE_INTAKE_RATE": "1000000/10000000", "REVIEWQUEUE_WEB_WORKERS": str(WORKERS),
           "REVIEWQUEUE_WEB_THREADS": str(THREADS)}  # fmt: skip
    own |= {"DATABASE_URL": url} if url else {}
    key = prepare(own, folder)
    size = ["--workers", str(WORKERS), "--threads", str(THREADS), "--worker-class", "gthread"]
    with ExitStack() as stack:
        redis = subprocess.Popen(embedded_redis.command(Settings.load(own)), stdout=subprocess.DEVNULL)
        stack.callback(redis.kill)
        listeners = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        gunicorn = [sys.executable, "-m", "gunicorn", "--no-control-socket", "--log-level", "error"]
        binds = [["--bind", f"fd://{listener.fileno()}"] for listener in listeners]
        limit_url = url or f"sqlite:///{folder}/limit.db"
        limit = stack.enter_context(
            server([*gunicorn, *size, *binds[0], "bench.limit:app"], plain | {"DATABASE_URL": limit_url},
                   listeners[0])
        )  # fmt: skip
        product = [*gunicorn[:3], "--config", "python:reviewqueue.running.webserver", *size[:4]]
        ours = stack.enter_context(server([*product, *binds[1], "app:app"], plain | own, listeners[1]))
        rows = single(ours, limit, key, seconds, rounds)
        return {"database": "postgresql" if url else "sqlite", "single": rows,
                "batch": batches(ours, key, limit_url, folder, rounds)}  # fmt: skip


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--seconds", type=float, default=3.0, help="of each turn")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--postgresql", action="store_true")
    options.add_argument("--json", action="store_true")
    given = options.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rq-bench-")))
        url = None
        if given.postgresql:
            from tests.servers import postgres

            url = stack.enter_context(postgres()).create("bench")
        found = measure(url, folder, given.seconds, given.rounds)
    if given.json:
        print(json.dumps({"bench": "submit"} | found))
        return
    for row in [*found["single"], found["batch"]]:
        print("  ".join(f"{name} {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
