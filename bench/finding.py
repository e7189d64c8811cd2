"""How fast items are found: `python -m bench.finding`, each filter alone and in twos, threes and fours.

A fresh database is filled in a folder of its own (SQLite) or at `--url` (an empty PostgreSQL), indexed by the
catalogue's own job and asked through the verbs behind the lists. Wall-clock times of one process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import select, text

from bench import fill
from reviewqueue import create_base
from reviewqueue.config import Settings, create_keys, use
from reviewqueue.db import db, transaction
from reviewqueue.finding import asked, catalogue, find
from reviewqueue.models import Person, Queue
from reviewqueue.people.access import SYSTEM, Actor, actor_of
from reviewqueue.people.backends import add_backend
from reviewqueue.people.sign_in import add_person
from reviewqueue.review import queues
from reviewqueue.routing import projects
from reviewqueue.schema import migrate

NAME = "finding-bench"
PROJECT = f'name = "{NAME}"\nkind = "text"\nreasons = ["tone", "wrong fact"]\ncauses = ["prompt", "model"]\n'
WAITING = 100_000  # at most; the others are decided
VARIED = """UPDATE item SET model = 'model-' || (number * 7 % 20), prompt_name = 'reply',
 prompt_version = 'v' || (number / :each), confidence = (number * 7919 % 1000) / 1000.0,
 risk = (number * 104729 % 1000) / 1000.0,
 risk_flags = CASE WHEN number % 50 = 0 THEN '["toxic"]' WHEN number % 30 = 0 THEN '["spam", "late"]' END"""
ANYWHERE: dict[str, tuple[str, ...]] = {
    "text": ("parcel", "street 17", "friend 123", '"street 17"', '"your parcel"', "frien*"),
    "model": ("model-3", "model-19"),
    "prompt": ("reply@v3", "reply@v49"), "flag": ("toxic", "late"), "confidence_from": ("0.9", "0.3"),
    "confidence_to": ("0.05",), "risk_from": ("0.95", "0.2"), "age": ("4", "168"), "overdue": ("yes",),
}  # fmt: skip
ITEMS = ANYWHERE | {
    "project": (NAME,), "queue": (f"{NAME}/main",), "status": ("pending", "decided", "released"),
    "verdict": ("edit", "reject"), "reason": ("tone",), "cause": ("model",), "within": ("1", "24"),
}  # fmt: skip
WAITS = ANYWHERE | {"priority": ("normal", "urgent"), "claimed": ("yes", "no")}
BUDGET = {"sqlite": 300.0, "postgresql": 150.0}  # ms, p95 at a million items


def prepare(size: int) -> tuple[Actor, Queue]:
    """A project with `size` items, the newest of them waiting, all in the catalogue."""
    migrate()
    projects.apply(PROJECT, SYSTEM)
    add_backend(SYSTEM, NAME, NAME)
    lead, _ = add_person(SYSTEM, "lead@example.org", "lead", name="Lead")
    where = fill.place(NAME, lead.id, lead.id)
    waiting = min(WAITING, size // 2)
    fill.items(where, 1, size - waiting, status="decided")
    fill.decided(where, 1, size - waiting)
    fill.items(where, size - waiting + 1, size)
    fill.waiting(where, size - waiting + 1, size)
    with transaction() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text("SET LOCAL statement_timeout = 0"))
        session.execute(text(VARIED), {"each": max(1, size // 50)})
    started = time.monotonic()
    while catalogue.unlisted():
        catalogue.index_due()
        print(
            f"  {size - catalogue.unlisted():,} in the catalogue, {time.monotonic() - started:.0f} s",
            flush=True,
        )
    fill.analyse()
    return actor_of(db.session.get_one(Person, lead.id)), db.session.scalars(
        select(Queue).where(Queue.name == "main")
    ).one()


def questions(offered: dict[str, tuple[str, ...]], many: int) -> Iterator[dict[str, str]]:
    """None, each filter with each of its values, every two of them, and some threes and fours."""
    chance = random.Random(7)
    yield {}
    for name, values in offered.items():
        yield from ({name: value} for value in values)
    for two in itertools.combinations(offered, 2):
        yield {name: chance.choice(offered[name]) for name in two}
    for _ in range(many):
        some = chance.sample(list(offered), chance.choice((3, 4)))
        yield {name: chance.choice(offered[name]) for name in some}


def timed(ask: Callable[[], Any]) -> float:
    """Milliseconds of one answer, the better of two: the first may be the first ever to read its pages."""
    times = []
    for _ in range(2):
        db.session.rollback()
        started = time.perf_counter()
        ask()
        times.append((time.perf_counter() - started) * 1000)
    return min(times)


def measure(lead: Actor, queue: Queue, many: int) -> dict[str, dict[str, Any]]:
    """p50, p95 and the slowest question of both lists, their counts included."""
    page = (NAME, "main")
    asks: dict[str, tuple[dict[str, tuple[str, ...]], Callable[[dict[str, str]], object]]] = {
        "items": (ITEMS, lambda given: find.find(lead, asked.question(given))),
        "items, counted": (ITEMS, lambda given: find.count(lead, asked.question(given))),
        "queue": (WAITS, lambda given: queues.page(lead, *page, find.of_queue(queue, given))),
        "queue, newest": (
            WAITS, lambda given: queues.page(lead, *page, find.of_queue(queue, given), sort="newest")
        ),
        "queue, counted": (
            WAITS, lambda given: queues.matching(lead, *page, find.of_queue(queue, given), find.COUNTED + 1)
        ),
    }  # fmt: skip
    told = {}
    for name, (offered, ask) in asks.items():
        # The lambda is called at once, before `ask` and `given` change.
        times = sorted((timed(lambda: ask(given)), str(given)) for given in questions(offered, many))  # noqa: B023
        told[name] = {
            "questions": len(times), "p50": times[len(times) // 2][0],
            "p95": times[len(times) * 95 // 100][0], "slowest": times[-1][0], "was": times[-1][1],
        }  # fmt: skip
    return told


def main() -> None:
    """Fill, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--questions", type=int, default=60, help="of three and four filters")
    parser.add_argument("--url", help="an empty PostgreSQL database")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        create_keys(Path(folder) / "keys")
        environ = {"REVIEWQUEUE_DATA_DIR": folder, "REDIS_URL": f"unix://{folder}/none.sock"}
        settings = Settings.load(environ | ({"DATABASE_URL": options.url} if options.url else {}))
        use(settings)
        with create_base(settings).app_context():
            told = measure(*prepare(options.items), options.questions)
            budget = BUDGET[db.engine.dialect.name]
            db.engine.dispose()
    if options.json:
        print(json.dumps(told))
        return
    print(f"{options.items:,} items; budget at a million: p95 {budget:.0f} ms")
    for name, row in told.items():
        print(
            f"{name:<16}{row['questions']:>5} questions  p50 {row['p50']:>6.1f} ms  p95 {row['p95']:>6.1f} ms"
        )
        print(f"{'':<16}slowest {row['slowest']:.1f} ms {row['was']}")


if __name__ == "__main__":
    main()
