"""The disk is full, again and again, while backends submit and people decide (R19).

Nothing is acknowledged that is not stored, reading goes on, and with room submitting does, too, without a
restart. FIRE_FULL says how many times; FIRE_FULL=20 is promised.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from sqlalchemy.exc import OperationalError

from reviewqueue import create_app, create_base
from reviewqueue.config import Settings
from reviewqueue.db import db
from reviewqueue.intake.submit import submit
from reviewqueue.ledger.verify import verify
from tests.conftest import load_settings, need
from tests.fire.deployment import Deployment
from tests.fire.halves import half_done
from tests.fire.powercut import lost
from tests.fire.small_disk import SmallDisk, small_disk
from tests.make import Make
from tests.servers import Postgres
from tests.visitor import Visitor

TIMES = int(os.environ.get("FIRE_FULL", "2"))
FULL_SECONDS = 2.5  # longer than what is known of the disk is believed
RESUMED_SECONDS = 10.0
PROJECT = 'name = "replies"\nkind = "text"\n[policy]\nundo_seconds = 0\n'
CALLBACK = ("--callback", "http://127.0.0.1:9/", "--trusted")  # nothing calls it here


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with contextlib.ExitStack() as stack:
        yield need(lambda: stack.enter_context(small_disk(tmp_path / "disk", 48)))


class Client:
    """A backend and a reviewer, and what they were told."""

    def __init__(self, url: str, key: str, link: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
        self.person = Visitor(url, link)
        self.acknowledged: dict[str, str] = {}
        self.refused: Counter[str] = Counter()
        self.number = 0

    def submit(self) -> bool:
        """Submit one item of some size; whether it was acknowledged."""
        self.number += 1
        key = f"key-{self.number}"
        body = {
            "project": "replies",
            "input": "Where is it?",
            "output": f"{self.number} " + "It left. " * 900,
        }
        answer = self.http.post("/api/v1/items", json=body, headers={"Idempotency-Key": key})
        if answer.status_code == 201:
            self.acknowledged[key] = answer.json()["id"]
            return True
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["Retry-After"]) <= RESUMED_SECONDS
        self.refused[answer.json()["code"]] += 1
        return False

    def decide(self) -> None:
        """Go on with whatever the desk offers; refused it may be, half done never."""
        held = re.search(r'href="(/claims/[^"/?]+)"', self.person.get("/"))
        path = held[1] if held else None
        if path is None:
            answer = self.person.send("/queues/replies/main/claims")
            path = answer.headers.get("location", "")
            self.refused["page"] += answer.status_code == 503
            assert answer.status_code in (200, 303, 503)
        page = self.person.review(path) if path.startswith("/claims/") else None
        if page is not None:
            answer = self.person.decide(page, "approve")
            assert answer.status_code in (303, 503), answer.text
            if answer.status_code == 303:
                self.acknowledged[page.decision_id] = page.item
            self.refused["page"] += answer.status_code == 503

    def read(self) -> None:
        """An item, the list and the desk can be read."""
        some = next(iter(self.acknowledged.values()))
        assert self.http.get(f"/api/v1/items/{some}").status_code == 200
        assert len(self.http.get("/api/v1/items").json()["items"]) > 0
        assert "replies" in self.person.get("/").lower()


def test_a_full_disk_loses_nothing_and_is_got_over(disk: SmallDisk, tmp_path: Path) -> None:
    given = {"REVIEWQUEUE_WEB_WORKERS": "1", "REDIS_URL": f"unix://{tmp_path}/none.sock"}
    web = Deployment(disk.folder / "var", REVIEWQUEUE_ENV="test", **given)
    try:
        (tmp_path / "replies.toml").write_text(PROJECT)
        web.command("projects", "apply", str(tmp_path / "replies.toml"))
        backend = web.command("backends", "add", "bot", "--project", "replies", *CALLBACK)
        ada = web.command("people", "add", "ada@example.org", "--role", "reviewer")
        process = web.start("-m", "reviewqueue", "web")
        web.wait_for()
        client = Client(web.url, backend["api_key"], ada["link"])
        for _ in range(TIMES):
            while_full(disk, client)
            disk.free()
            began = time.monotonic()
            while not client.submit():
                assert time.monotonic() - began < RESUMED_SECONDS
                time.sleep(0.2)
            client.decide()
        assert process.poll() is None, web.tail()
        assert client.refused["storage_full"] > 0
    finally:
        web.close()
    assert lost(disk.folder / "var" / "reviewqueue.sqlite3", set(client.acknowledged)) == []
    with create_base(Settings.load(web.environ)).app_context():
        assert half_done() == []
        assert verify().ok
        db.session.remove()
        db.engine.dispose()


def while_full(disk: SmallDisk, client: Client) -> None:
    """Work on a disk that fills up, until all of it was refused for a while."""
    for _ in range(5):
        assert client.submit()
    client.decide()
    disk.fill()
    began = time.monotonic()
    while time.monotonic() - began < FULL_SECONDS:
        client.submit()
        client.decide()
        client.read()
    assert not client.submit()


def test_a_full_disk_below_postgresql_is_told_and_got_over(
    postgres: Postgres, tmp_path: Path, keys_dir: Path
) -> None:
    with contextlib.ExitStack() as stack:
        disk = need(lambda: stack.enter_context(small_disk(postgres.folder / "disk", 64)))
        place, owner = disk.folder / "data", postgres.folder.stat()
        for folder in (disk.folder, place):
            folder.mkdir(exist_ok=True)
            os.chown(folder, owner.st_uid, owner.st_gid)
        postgres.admin(f"CREATE TABLESPACE small LOCATION '{place}'")
        postgres.admin("CREATE DATABASE small TEMPLATE template TABLESPACE small")
        try:
            fill_below(disk, load_settings(tmp_path, keys_dir, DATABASE_URL=postgres.url("small")))
        finally:
            disk.filler.unlink(missing_ok=True)
            postgres.drop("small")
            postgres.admin("DROP TABLESPACE small")


def fill_below(disk: SmallDisk, settings: Settings) -> None:
    """Submit until the database can take no more, read, make room and submit again."""
    app = create_app(settings)
    with app.app_context():
        make = Make()
        project = make.project()
        headers = {"Authorization": f"Bearer {make.backend(project).api_key}"}
        body = {"project": project.name, "output": "It left. " * 900}
        db.session.remove()
    api = app.test_client()
    submit = partial(api.post, "/api/v1/items", json=body, headers=headers)
    assert submit().status_code == 201
    disk.fill()
    answers = [submit() for _ in range(40)]
    refused = [answer for answer in answers if answer.status_code != 201]
    assert {(answer.status_code, answer.json["code"]) for answer in refused} == {(503, "storage_full")}
    listed = api.get("/api/v1/items?limit=200", headers=headers).json
    assert len(listed["items"]) == 1 + len(answers) - len(refused)
    disk.free()
    assert submit().status_code == 201
    with app.app_context():
        db.engine.dispose()


# --- can it fail? ---------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_the_tool_notices_what_a_full_disk_did_not_take(
    disk: SmallDisk, base: object, make: Make, settings: Settings, keys_dir: Path
) -> None:
    db.session.remove()
    db.engine.dispose()
    database = disk.folder / "reviewqueue.sqlite3"
    shutil.copyfile(settings.database_url.removeprefix("sqlite:///"), database)
    told = set()
    with create_base(
        load_settings(disk.folder, keys_dir, DATABASE_URL=f"sqlite:///{database}")
    ).app_context():
        project = make.project()
        actor = make.backend_actor(project)
        body = {"project": project.name, "output": "It left. " * 900}
        disk.fill()
        for number in range(50):
            with contextlib.suppress(OperationalError):
                submit(body, actor, f"key-{number}")
            told.add(f"key-{number}")
        db.session.remove()
        db.engine.dispose()
    assert lost(database, told)
