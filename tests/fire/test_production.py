"""The parts as separate commands: two each of web, worker and relay, PostgreSQL, a Redis, https in front."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from tests.fire.deployment import Deployment, free_port
from tests.listener import Listener, listener
from tests.real.load import SETS, require
from tests.servers import Postgres, Redis
from tests.test_walkthrough import Place, walk
from tests.visitor import Visitor, told

CHOSEN = SETS["mlqe_pe"]
ADDRESS = "https://review.example.org"
ITEMS = int(os.environ.get("FIRE_ITEMS", "30"))
TAKEOVER_SECONDS = 25.0  # the lease of the relay that leads, and a look of the one that stands by

# Counts what must happen once: a review is prepared, a delivery ends.
WATCH = """
CREATE TABLE seen (what text, id text);
CREATE FUNCTION watch() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN INSERT INTO seen VALUES (TG_TABLE_NAME, NEW.id); RETURN NEW; END $$;
CREATE TRIGGER watch AFTER UPDATE ON review FOR EACH ROW
WHEN (NEW.prepared_at IS DISTINCT FROM OLD.prepared_at) EXECUTE FUNCTION watch();
CREATE TRIGGER watch AFTER UPDATE ON delivery FOR EACH ROW
WHEN (NEW.state = 'delivered') EXECUTE FUNCTION watch();
"""


class Front(httpx.HTTPTransport):
    """What stands in front: takes https for our address and passes requests to the web servers in turn."""

    def __init__(self, ports: list[int]) -> None:
        super().__init__()
        self.ports = itertools.cycle(ports)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert str(request.url).startswith(ADDRESS)
        behind = request.url.copy_with(scheme="http", host="127.0.0.1", port=next(self.ports))
        forwarded = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}
        headers = [*request.headers.raw, *forwarded.items()]
        passed = httpx.Request(
            request.method, behind, headers=headers, stream=request.stream, extensions=request.extensions
        )
        return super().handle_request(passed)


@pytest.fixture
def called() -> Iterator[Listener]:
    with listener() as listening:
        yield listening


@pytest.fixture
def deployment(
    postgres: Postgres, redis_server: Redis, tmp_path: Path, called: Listener
) -> Iterator[Deployment]:
    """Settings of a production, with keys and schema made by commands; nothing runs yet."""
    name = "production"
    running = Deployment(
        tmp_path / "var",
        REVIEWQUEUE_ENV="production",
        REVIEWQUEUE_PUBLIC_URL=ADDRESS,
        REVIEWQUEUE_PROXY_HOPS="1",
        REVIEWQUEUE_KEYS_DIR=str(tmp_path / "keys"),
        REVIEWQUEUE_WEB_WORKERS="1",
        DATABASE_URL=postgres.create(name),
        REDIS_URL=redis_server.url,
    )
    try:
        assert len(running.command("keys", "create")["made"]) == 5
        running.command("migrate")
        yield running
    finally:
        running.close()
        postgres.drop(name)


def test_production_walks_prepares_once_delivers_once_and_survives_its_leader(
    deployment: Deployment, redis_server: Redis, called: Listener, tmp_path: Path
) -> None:
    require(CHOSEN)
    secrets, links = set_up(deployment, called, tmp_path)
    database = psycopg.connect(deployment.environ["DATABASE_URL"], autocommit=True)
    database.execute(WATCH)
    front = start(deployment)
    ada, cleo, aud = (Visitor(ADDRESS, link, front) for link in links)
    place = Place(
        ADDRESS, secrets["backend"], secrets["api_key"], secrets["inbound_secret"], called, ada, cleo, aud,
        time_passes=lambda: wait_until_prepared(database), transport=front,
    )  # fmt: skip
    walk(place, CHOSEN)

    submit(place, 0, ITEMS)
    with ThreadPoolExecutor(2) as both:  # two people at once, each page from another server
        decided = sum(both.map(approve_all, (ada, cleo)))
    assert decided >= ITEMS
    told = int(one(database, "SELECT count(*) FROM delivery WHERE state <> 'cancelled'"))
    assert len(called.wait(told, 30)) == told
    assert set(called.accepted().values()) == {1}

    leader = one(database, "SELECT holder FROM leader WHERE duty = 'relay'")
    deployment.kill([int(leader.split(":")[1])])
    redis_server.kill()  # so that nobody but the other relay can do it
    submit(place, ITEMS, 10)
    approve_all(ada)
    began = time.monotonic()
    told = int(one(database, "SELECT count(*) FROM delivery WHERE state <> 'cancelled'"))
    assert len(called.wait(told, TAKEOVER_SECONDS)) == told, deployment.tail()
    assert one(database, "SELECT holder FROM leader WHERE duty = 'relay'") != leader
    assert time.monotonic() - began < TAKEOVER_SECONDS
    redis_server.start()

    twice = "SELECT what, id FROM seen GROUP BY what, id HAVING count(*) > 1"
    assert database.execute(twice).fetchall() == []
    prepared = one(database, "SELECT count(DISTINCT id) FROM seen WHERE what = 'review'")
    assert prepared == one(database, "SELECT count(*) FROM review WHERE prepared_at IS NOT NULL") > 0
    assert deployment.command("ledger", "verify")["ok"]
    assert set(called.accepted().values()) == {1}
    database.close()


def set_up(deployment: Deployment, called: Listener, folder: Path) -> tuple[dict[str, str], list[str]]:
    """The project, its backend's secrets, and sign-in links of Ada, Cleo and the auditor."""
    file = folder / "project.toml"
    file.write_text(CHOSEN.toml(), "utf-8")
    deployment.command("projects", "apply", str(file))
    new = (
        "backends",
        "add",
        "translator",
        "--project",
        CHOSEN.project,
        "--callback",
        called.url,
        "--trusted",
    )
    secrets: dict[str, str] = deployment.command(*new)
    called.secret = secrets["callback_secret"]
    cast = {"ada": "reviewer", "cleo": "lead", "aud": "auditor"}
    added = [
        deployment.command(
            "people", "add", f"{name}@example.org", "--role", role, "--name", name.capitalize()
        )
        for name, role in cast.items()
    ]
    return secrets, [person["link"] for person in added]


def start(deployment: Deployment) -> Front:
    """Start two of each part, and wait for the web servers."""
    ports = [free_port(), free_port()]
    for port in ports:
        deployment.start("-m", "reviewqueue", "web", REVIEWQUEUE_BIND=f"127.0.0.1:{port}")
    for part in ("worker", "worker", "relay", "relay"):
        deployment.start("-m", "reviewqueue", part)
    for port in ports:
        deployment.wait_for(f"http://127.0.0.1:{port}")
    return Front(ports)


def submit(place: Place, first: int, count: int) -> None:
    """So many real outputs, from this one on, that are sure to be reviewed."""
    rows = CHOSEN.rows(2000)[100 + first : 100 + first + count]
    items = [CHOSEN.submission(row) | {"confidence": 0.1} for row in rows]
    program = place.program(Authorization=f"Bearer {place.api_key}")
    results = program.post("/api/v1/items/batch", json={"items": items}).json()["results"]
    assert {result["status"] for result in results} <= {201}


def approve_all(person: Visitor) -> int:
    """Approve whatever comes next until nothing does; how many there were."""
    count, page = 0, person.claim(CHOSEN.project)
    while page is not None:
        answer = person.decide(page, "approve")
        assert answer.status_code == 303, f"{answer.status_code} {told(answer)}"
        count += 1
        after = answer.headers["location"]
        page = person.review(after) if after.startswith("/claims/") else None
    return count


def wait_until_prepared(database: psycopg.Connection[Any], seconds: float = 30) -> None:
    """Until the workers have seen every review that waits."""
    deadline = time.monotonic() + seconds
    while one(database, "SELECT count(*) FROM review WHERE state = 'wanted' AND prepared_at IS NULL"):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def one(database: psycopg.Connection[Any], query: str) -> Any:
    """The one value a query gives."""
    row = database.execute(query).fetchone()
    assert row is not None
    return row[0]
