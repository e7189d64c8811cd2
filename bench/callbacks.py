"""How many callbacks one worker sends: `python -m bench.callbacks [--events N] [--json] [--profile]`.

Decided events go to a receiver in a process of its own on this machine, each over a new connection, and what
came of each is written down with its ledger entry. DATABASE_URL chooses a database (it must be empty);
without it a fresh SQLite database is made and thrown away. CPU time is told beside the rate: it is what
stays the same on a busy machine.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import multiprocessing
import os
import pstats
import socket
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from reviewqueue import create_base
from reviewqueue.config import Settings, create_keys
from reviewqueue.delivery.deliver import deliver_due
from reviewqueue.delivery.endpoints import register
from reviewqueue.delivery.replay import Which, replay_all
from reviewqueue.intake.submit import submit_batch
from reviewqueue.people.access import SYSTEM, actor_of, authenticate_key
from reviewqueue.people.backends import add_backend
from reviewqueue.people.sign_in import add_person
from reviewqueue.review.settle import override
from reviewqueue.routing import projects
from reviewqueue.schema import migrate

PROJECT = """name = "callbacks-bench"
kind = "text"
reasons = ["tone"]
[policy]
confidence_below = 0.5
undo_seconds = 0
"""
OUTPUT = "Your parcel {number} left our warehouse on Monday; it may be returned within 30 days. " * 12
ROUNDS = 3


def receive(told: Connection) -> None:
    """A receiver that costs as little as one can, so that the sender is what is measured."""
    server = socket.create_server(("127.0.0.1", 0), backlog=256)
    told.send(server.getsockname()[1])
    while True:
        caller, _ = server.accept()
        with caller:
            head, _, body = caller.recv(65536).partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(body) < length:
                body += caller.recv(65536)
            caller.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


def fill(port: int, events: int) -> None:
    """A backend called back at `port`, and so many decisions to tell it."""
    projects.apply(PROJECT, SYSTEM)
    new = add_backend(SYSTEM, "bench", "callbacks-bench")
    register(SYSTEM, new.backend.id, f"http://127.0.0.1:{port}/callbacks", trusted=True)
    backend = authenticate_key(new.api_key)
    assert backend is not None
    items = [
        {"project": "callbacks-bench", "output": OUTPUT.format(number=number), "confidence": 0.9}
        for number in range(events)
    ]
    lead = actor_of(add_person(SYSTEM, "lead@example.org", "lead")[0])
    for first in range(0, events, 1000):
        answers, _ = submit_batch(items[first : first + 1000], backend)
        for answer in answers:
            # Nothing in these items can be refused.
            override(lead, answer.id, "reject", None, "tone")  # type: ignore[union-attr]


def measure(events: int, profile: bool) -> list[dict[str, Any]]:
    """One row for each round: what was sent, in which time, at which cost."""
    rows = []
    for number in range(1, ROUNDS + 1):
        profiler = cProfile.Profile() if profile and number == ROUNDS else None
        began, cpu = time.perf_counter(), time.process_time()
        if profiler:
            profiler.enable()
        sent = 0
        while sent < events:
            sent += deliver_due()
        if profiler:
            profiler.disable()
            pstats.Stats(profiler, stream=sys.stderr).sort_stats("cumulative").print_stats(40)
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        rows.append(
            {"round": number, "sent": sent, "seconds": round(seconds, 2), "per_second": round(sent / seconds),
             "cpu_ms_each": round(1000 * cpu / sent, 2), "per_cpu_second": round(sent / cpu)}
        )  # fmt: skip
        sum(replay_all(SYSTEM, Which()))
    return rows


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--events", type=int, default=500)
    options.add_argument("--json", action="store_true")
    options.add_argument("--profile", action="store_true", help="print where the time of the last round went")
    given = options.parse_args()
    ours, theirs = multiprocessing.Pipe()
    receiver = multiprocessing.Process(target=receive, args=(theirs,), daemon=True)
    receiver.start()
    with tempfile.TemporaryDirectory(prefix="rq-bench-") as folder:
        create_keys(Path(folder) / "keys")
        settings = {"REVIEWQUEUE_ENV": "test", "REVIEWQUEUE_DATA_DIR": folder}
        settings |= {"REVIEWQUEUE_CALLBACK_ALLOW": "127.0.0.0/8", "REDIS_URL": f"unix://{folder}/none.sock"}
        settings |= {name: os.environ[name] for name in ("DATABASE_URL",) if name in os.environ}
        with create_base(Settings.load(settings)).app_context():
            migrate()
            fill(ours.recv(), given.events)
            rows = measure(given.events, given.profile)
    receiver.kill()
    if given.json:
        print(json.dumps({"bench": "callbacks", "rows": rows}))
        return
    print(" ".join(f"{name:>14}" for name in rows[0]))
    for row in rows:
        print(" ".join(f"{row[name]:>14}" for name in row))


if __name__ == "__main__":
    main()
