"""What deploy/ describes, with its parts killed in turn while backends submit and people decide.

Two web servers behind nginx, three workers, two relays, PostgreSQL and Redis: nothing that was acknowledged
is lost, every decision is called back, and another relay leads within ten seconds. The release gate is
larger: FIRE_ROUNDS=10.
"""

from __future__ import annotations

import math
import os
import re
import shlex
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from reviewqueue import create_base
from reviewqueue.config import Settings
from reviewqueue.db import db
from tests.conftest import need
from tests.fire.deployment import ROOT, Deployment, free_port
from tests.fire.halves import half_done
from tests.fire.load import Work, deciding, prepare, reached, submitting
from tests.fire.nginx import Nginx
from tests.listener import Listener, listener
from tests.servers import Postgres, Redis

ROUNDS = int(os.environ.get("FIRE_ROUNDS", "1"))
BETWEEN = 25  # submissions acknowledged between two kills
TAKEOVER_SECONDS = 10.0
DATABASE = "topology"


def unit(name: str) -> list[str]:
    """What a unit of deploy/ starts, after its Python."""
    found = re.search(
        r"^ExecStart=(.*)$", (ROOT / "deploy" / f"reviewqueue-{name}.service").read_text(), re.M
    )
    assert found
    program, *arguments = shlex.split(found[1])
    assert program.endswith("/python")
    return arguments


class Site:
    """All machines of a deployment, on this one."""

    def __init__(self, folder: Path, postgres: Postgres, redis: Redis) -> None:
        self.postgres, self.redis = postgres, redis
        self.ports = [free_port(), free_port()]
        self.nginx = need(lambda: Nginx(folder / "nginx", self.ports))
        self.deployment = Deployment(
            folder / "var",
            REVIEWQUEUE_ENV="production",
            REVIEWQUEUE_PUBLIC_URL=self.nginx.url,
            REVIEWQUEUE_PROXY_HOPS="1",
            REVIEWQUEUE_KEYS_DIR=str(folder / "keys"),
            REVIEWQUEUE_WEB_WORKERS="1",
            DATABASE_URL=postgres.create(DATABASE),
            REDIS_URL=redis.url,
        )
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        assert len(self.deployment.command("keys", "create")["made"]) == 5
        self.deployment.command("migrate")
        for name in ("web 0", "web 1", "worker@ 1", "worker@ 2", "worker@ 3", "relay 1", "relay 2"):
            self.begin(name)
        for port in self.ports:
            self.deployment.wait_for(f"http://127.0.0.1:{port}")
        self.nginx.start()

    def begin(self, name: str) -> None:
        """Start one part, as systemd does when it has ended."""
        kind, number = name.split()
        more = {"REVIEWQUEUE_BIND": f"127.0.0.1:{self.ports[int(number)]}"} if kind == "web" else {}
        self.running[name] = self.deployment.start(*unit(kind), **more)

    def kill(self, name: str) -> None:
        self.deployment.kill(family(self.running[name].pid))

    def again(self, name: str) -> None:
        """`kill -9`, and a new start."""
        self.kill(name)
        self.begin(name)

    def one(self, query: str) -> Any:
        with psycopg.connect(self.postgres.url(DATABASE)) as database:
            row = database.execute(query).fetchone()
            return row and row[0]

    def leader(self) -> int | None:
        """The process whose relay leads."""
        holder = self.one("SELECT holder FROM leader WHERE duty = 'relay' AND expires_at > now()")
        return int(holder.split(":")[1]) if holder else None

    def kill_the_leading_relay(self) -> float:
        """Seconds until the other one leads."""
        leads = self.leader()
        name = next(name for name, process in self.running.items() if process.pid == leads)
        self.kill(name)
        took = until_another_leads(self.leader, leads)
        self.begin(name)
        return took

    def lose_redis(self) -> None:
        self.redis.kill()
        time.sleep(1)
        self.redis.start()

    def lose_nginx(self) -> None:
        self.nginx.kill()
        self.nginx.start()

    def close(self) -> None:
        self.nginx.kill()
        self.deployment.close()
        self.postgres.drop(DATABASE)


def until_another_leads(
    leader: Callable[[], int | None], before: int | None, patience: float = 3 * TAKEOVER_SECONDS
) -> float:
    """Seconds until somebody leads who did not before; without end when that does not happen."""
    began = time.monotonic()
    while leader() in (before, None):
        if time.monotonic() - began > patience:
            return math.inf
        time.sleep(0.1)
    return time.monotonic() - began


def family(pid: int) -> list[int]:
    """A process and those it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    below = [int(child) for child in children.read_text().split()] if children.exists() else []
    return [pid, *(each for child in below for each in family(child))]


@pytest.fixture
def site(tmp_path: Path, postgres: Postgres, redis_server: Redis) -> Iterator[Site]:
    site = Site(tmp_path, postgres, redis_server)
    try:
        site.start()
        yield site
    finally:
        site.close()


def test_many_machines_lose_nothing_while_their_parts_are_killed_in_turn(site: Site, tmp_path: Path) -> None:
    with listener() as called:
        key, links = prepare(site.deployment, called, tmp_path)
        work = Work(trusted=site.nginx.trusted)
        clients = [threading.Thread(target=submitting, args=(site.nginx.url, key, work)) for _ in range(2)]
        clients += [threading.Thread(target=deciding, args=(site.nginx.url, link, work)) for link in links]
        for client in clients:
            client.start()
        try:
            took = [round_of_kills(site, work) for _ in range(ROUNDS)]
        finally:
            work.stop.set()
            for client in clients:
                client.join(60)
        assert max(took) <= TAKEOVER_SECONDS
        assert not work.wrong, work.wrong[:3]
        assert work.unknown + work.refused > 0, "no client noticed anything: the kills came at idle moments"
        told = wait_until_told(site, called)
        compare(site, work, called, told)
    ready_and_metrics(site)


def round_of_kills(site: Site, work: Work) -> float:
    """Each part once, under load; how long the relays took."""
    took: list[float] = []
    kills: list[Callable[[], Any]] = [
        lambda: site.again("web 0"),
        lambda: site.again("worker@ 1"),
        lambda: took.append(site.kill_the_leading_relay()),
        site.lose_redis,
        site.postgres.restart,
        lambda: site.again("web 1"),
        site.lose_nginx,
    ]
    for kill in kills:
        reached(work, len(work.acknowledged) + BETWEEN)
        kill()
    reached(work, len(work.acknowledged) + BETWEEN)
    return took[0]


def wait_until_told(site: Site, called: Listener, seconds: float = 90) -> set[str]:
    """The items of every decision that is to be told, once all were; dead workers' leases end after 60 s."""
    query = "SELECT count(*) FROM delivery WHERE state <> 'cancelled'"
    deadline = time.monotonic() + seconds
    with psycopg.connect(site.postgres.url(DATABASE), autocommit=True) as database:
        database.execute("UPDATE delivery SET next_attempt_at = now() WHERE state = 'inflight'")
    while len(called.once()) < site.one(query):
        assert time.monotonic() < deadline, site.deployment.tail()
        time.sleep(0.1)
    with psycopg.connect(site.postgres.url(DATABASE)) as database:
        return {
            item for (item,) in database.execute("SELECT item_id FROM delivery WHERE state <> 'cancelled'")
        }


@dataclass
class Stored:
    """What the database holds at the end."""

    submissions: dict[str, str]  # idempotency key → item id
    items: list[str]  # the external id of each
    decisions: dict[str, tuple[str, str]]  # decision id → item id, verdict
    to_tell: set[str]  # items with an event
    released: set[str] = field(default_factory=set)  # items that nobody had to wait for


def compare(site: Site, work: Work, called: Listener, told: set[str]) -> None:
    """What clients were told against what is stored, and what the backend heard."""
    with psycopg.connect(site.postgres.url(DATABASE)) as database:
        stored = Stored(
            dict(database.execute("SELECT key, item_id FROM submission").fetchall()),
            [row[0] for row in database.execute("SELECT external_id FROM item")],
            {row[0]: row[1:] for row in database.execute("SELECT id, item_id, verdict FROM decision")},
            told,
            {row[0] for row in database.execute("SELECT id FROM item WHERE route = 'release'")},
        )
    assert wrong_with(work, stored, [callback.item for callback in called.once()], called.forged) == []
    assert len(work.decided) > ROUNDS
    with create_base(Settings.load(site.deployment.environ)).app_context():
        assert half_done() == []
        db.session.remove()
        db.engine.dispose()
    assert site.deployment.command("ledger", "verify")["ok"]


def wrong_with(work: Work, stored: Stored, heard: list[str], forged: list[str]) -> list[str]:
    """What clients were told and is not so, what is there twice, what the backend did not hear of."""
    wrong = [f"{name} was acknowledged as {item} and is {stored.submissions.get(name)}"
             for name, item in work.acknowledged.items() if stored.submissions.get(name) != item]  # fmt: skip
    wrong += [f"{name} is there {count} times" for name, count in Counter(stored.items).items() if count > 1]
    wrong += [f"decision {id} was answered and is {stored.decisions.get(id)}"
              for id, given in work.decided.items() if stored.decisions.get(id) != given]  # fmt: skip
    # Who approves what was released, for control, says nothing new: nobody is told.
    decided = {
        item for item, verdict in work.decided.values() if verdict != "approve" or item not in stored.released
    }
    wrong += [f"nothing is to be told of {item}" for item in decided - stored.to_tell]
    wrong += [f"nobody was told of {item}" for item in stored.to_tell.difference(heard)]
    wrong += [f"somebody was told of {item}" for item in set(heard) - stored.to_tell]
    wrong += [f"{item} was told in {count} events" for item, count in Counter(heard).items() if count > 1]
    return wrong + [f"{event} was signed by somebody else" for event in forged]


def ready_and_metrics(site: Site) -> None:
    """Through nginx a stranger's address is told nothing of metrics; every web machine is well again."""
    for port in site.ports:
        site.deployment.wait_for(f"http://127.0.0.1:{port}")  # the one killed last may still be starting
        ready = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=10)
        assert ready.status_code == 200, ready.text
        assert (
            httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text.count(
                "reviewqueue_double_claims 0.0"
            )
            == 1
        )


# --- can it fail? ---------------------------------------------------------------------------------


@dataclass
class Run:
    """A run in which all went well, to be spoiled."""

    work: Work = field(
        default_factory=lambda: Work({"k1": "i1", "k2": "i2", "k3": "i3"}, {"d1": ("i1", "edit")})
    )
    stored: Stored = field(
        default_factory=lambda: Stored(
            {"k1": "i1", "k2": "i2", "k3": "i3", "unheard": "i4"},
            ["r1", "r2", "r3", "r4"],
            {"d1": ("i1", "edit"), "d2": ("i2", "approve")},
            {"i1", "i2"},
        )
    )
    heard: list[str] = field(default_factory=lambda: ["i1", "i2"])
    forged: list[str] = field(default_factory=list)


SPOILED: dict[str, Callable[[Run], Any]] = {
    "k2 was acknowledged as i2 and is None": lambda run: run.stored.submissions.pop("k2"),
    "k2 was acknowledged as i2 and is i9": lambda run: run.stored.submissions.update(k2="i9"),
    "r3 is there 2 times": lambda run: run.stored.items.append("r3"),
    "decision d1 was answered and is None": lambda run: run.stored.decisions.pop("d1"),
    "decision d1 was answered and is ('i1', 'approve')":
        lambda run: run.stored.decisions.update(d1=("i1", "approve")),
    "nobody was told of i2": lambda run: run.heard.remove("i2"),
    "nothing is to be told of i1": lambda run: (run.stored.to_tell.remove("i1"), run.heard.remove("i1")),
    "somebody was told of i3": lambda run: run.heard.append("i3"),
    "i1 was told in 2 events": lambda run: run.heard.append("i1"),
    "evt_1 was signed by somebody else": lambda run: run.forged.append("evt_1"),
}  # fmt: skip


@pytest.mark.parametrize("words", [None, *SPOILED])
def test_the_comparison_notices_what_was_lost_or_doubled(words: str | None) -> None:
    run = Run()
    if words is not None:
        SPOILED[words](run)
    assert wrong_with(run.work, run.stored, run.heard, run.forged) == ([] if words is None else [words])


def test_a_relay_that_does_not_take_over_is_noticed() -> None:
    limit = TAKEOVER_SECONDS
    assert until_another_leads(lambda: 1, 1, patience=0.2) > limit
    assert until_another_leads(lambda: None, 1, patience=0.2) > limit
    leaders = iter([1, None, 2])
    assert 0.1 < until_another_leads(lambda: next(leaders), 1) < limit
