"""`web --history FILE` writes down what really was answered, in the form the history's checker reads.

The release gate is larger: FIRE_WEB_ITEMS=500.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from flask import Flask
from sqlalchemy import select, text

from reviewqueue.config import Settings
from reviewqueue.db import db
from reviewqueue.ids import new_id
from reviewqueue.models import Claim, Decision
from reviewqueue.running import history
from tests.fire.deployment import Deployment
from tests.fire.history import Call, impossible, read_history
from tests.make import Make
from tests.visitor import ReviewPage, Visitor

ITEMS = int(os.environ.get("FIRE_WEB_ITEMS", "20"))
VISITS = ITEMS * 2 // 5  # by each of them
ACTS = ("override", "undo", "renew", "release", "go on", "skip")
PEOPLE = ("ada", "ben", "cleo", "eve")
LEASE_NS = 600 * 10**9


@pytest.fixture
def web(base: Flask, settings: Settings, tmp_path: Path) -> Iterator[Deployment]:
    """Two web processes of four threads, which write into one file."""
    given = {
        "REVIEWQUEUE_ENV": "test",
        "REVIEWQUEUE_KEYS_DIR": str(settings.keys_dir),
        "REVIEWQUEUE_WEB_WORKERS": "2",
        "REVIEWQUEUE_WEB_THREADS": "4",
        "DATABASE_URL": settings.database_url,
    }
    running = Deployment(tmp_path / "var", **given)
    (tmp_path / "history").mkdir()
    try:
        running.start("-m", "reviewqueue", "web", "--history", str(tmp_path / "history" / "web.jsonl"))
        yield running
    finally:
        running.close()


class Race:
    """People who go for the same items, and the backend that reads them; `told` counts good answers."""

    def __init__(self, url: str, make: Make) -> None:
        project = make.project(reasons=["wrong fact"], undo_seconds=600)
        self.url = url
        self.bearer = {"Authorization": f"Bearer {make.backend(project).api_key}"}
        self.links = {name: make.sign_in_path(make.person(name, "lead", True)) for name in PEOPLE}
        self.items = [make.item(project, output=f"Canary {number} sang.").id for number in range(ITEMS)]
        self.told: Counter[str] = Counter()
        self.failed: list[str] = []
        db.session.remove()

    def bot(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, headers=self.bearer, timeout=30)

    def run(self, name: str) -> None:
        dice, acts = random.Random(name), itertools.cycle(ACTS)
        try:
            with Visitor(self.url, self.links[name]) as person, self.bot() as bot:
                for item in sorted(dice.sample(self.items, VISITS)):  # in one order, so that they meet
                    page = self.claim(person, item if dice.random() < 0.5 else None)
                    if page is not None:
                        self.act(person, page, next(acts))
                        self.read(bot, page.item)
                    self.read(bot, item)
        except Exception as error:
            self.failed.append(repr(error))

    def claim(self, person: Visitor, item: str | None) -> ReviewPage | None:
        """This item, or the next of the queue."""
        if item is None:
            return person.claim("support-replies")
        answer = person.send(f"/items/{item}/claims")
        path = answer.headers.get("location", "")
        return person.review(path) if path.startswith("/claims/") else None

    def act(self, person: Visitor, page: ReviewPage, act: str) -> None:
        """One of the things people do with what they hold."""
        if act in ("release", "skip"):
            self.good("release", person.send(f"/claims/{page.token}/{act}"))
            return
        if act == "renew":
            fields = {"csrf_token": person.csrf, "note": "quiet"}
            self.good("renew", person.http.put(f"/claims/{page.token}", data=fields))
        answer = person.decide(page, "approve")
        if not self.good("decide", answer):
            return
        if act == "go on":  # to the next one, which is offered and becomes theirs by being opened
            offered = person.review(answer.headers["location"])
            if offered is not None:
                self.good("decide", person.decide(offered, "approve"))
        elif act == "undo":
            self.good("undo", person.send(f"/decisions/{page.decision_id}/undo"))
        elif act == "override":
            fields = {"verdict": "reject", "reason": "wrong fact", "decision_id": new_id("dec")}
            self.good("override", person.send(f"/items/{page.item}/overrides", **fields))

    def read(self, bot: httpx.Client, item: str) -> None:
        assert self.good("read", bot.get(f"/api/v1/items/{item}"))

    def good(self, op: str, answer: httpx.Response) -> bool:
        assert answer.status_code < 500, f"{op}: {answer.status_code}"
        done = answer.status_code in (200, 303)
        self.told[op] += done
        return done


@pytest.mark.sqlite
def test_the_history_of_a_race_over_http_is_whole_and_can_be_explained(
    web: Deployment, make: Make, tmp_path: Path
) -> None:
    race = Race(web.url, make)
    web.wait_for()
    people = [threading.Thread(target=race.run, args=(name,)) for name in PEOPLE]
    for person in people:
        person.start()
    for person in people:
        person.join(60 + ITEMS)
    assert race.failed == []
    calls = read_history(tmp_path / "history")

    assert impossible(calls, LEASE_NS) == []
    ok = [call for call in calls if call["outcome"] == "ok"]
    counts = Counter(call["op"] for call in ok)
    for op in ("decide", "undo", "override", "renew", "release", "read"):
        assert counts[op] == race.told[op] > 0, op
    made = {
        (call["decision"], call["item"], call["rev"]) for call in ok if call["op"] in ("decide", "override")
    }
    stored = select(Decision.id, Decision.item_id, Decision.round)
    assert made == {tuple(row) for row in db.session.execute(stored)}
    claims = db.session.scalars(select(Claim)).all()
    granted = {(call["review"], call["token"]) for call in ok if call["op"] == "claim"}
    assert granted <= {(claim.review_id, claim.fence) for claim in claims}
    assert {(call["review"], call["token"]) for call in ok if call["op"] == "decide"} <= granted
    file = (tmp_path / "history" / "web.jsonl").read_text()
    secrets = [claim.token for claim in claims]
    assert not [word for word in ("Canary", "quiet", "wrong fact", *secrets) if word in file]
    spoiled_is_noticed(calls)


def spoiled_is_noticed(calls: list[Call]) -> None:
    """The checker finds what was changed in this very history."""
    claim = next(call for call in calls if call["op"] == "claim" and "review" in call)
    assert impossible([*calls, claim | {"number": -1}], LEASE_NS)
    decided = next(call for call in calls if call["op"] == "decide" and call["outcome"] == "ok")
    assert impossible([*calls, decided | {"number": -1, "decision": "dec_other"}], LEASE_NS)
    blind = {"op": "read", "item": decided["item"], "decision": "dec_ghost", "outcome": "ok"}
    later = max(call["return_ns"] for call in calls)
    assert impossible([*calls, blind | {"call_ns": later + 1, "return_ns": later + 2}], LEASE_NS)


@pytest.mark.sqlite
@pytest.mark.own_app
def test_what_was_not_answered_may_have_happened_and_what_is_no_id_is_not_written(
    app: Flask, make: Make, client: Callable[..., Any], tmp_path: Path
) -> None:
    history.install(app, tmp_path / "web.jsonl")
    ada, key = make.person("ada"), make.backend(make.project()).api_key
    item = make.item(make.project())
    token, id = make.claim(ada, item).token, new_id("dec")
    browser = client(ada)
    with db.engine.begin() as connection:
        connection.execute(text("ALTER TABLE ledger_entry RENAME TO away"))
    fields = {"verdict": "approve", "decision_id": id}
    assert browser.send(f"/claims/{token}/decision", fields).status_code >= 500
    (call,) = read_history(tmp_path)
    assert (call["op"], call["item"], call["decision"], call["token"]) == ("decide", item.id, id, 1)
    assert "outcome" not in call

    bearer = {"Authorization": f"Bearer {key}"}
    assert client().get(f"/api/v1/items/{'canary' * 5}", headers=bearer).status_code == 404
    assert browser.send("/items/canary/overrides", {"decision_id": "canary"}).status_code in (403, 404)
    browser.send(f"/claims/{token}/decision", {"verdict": "canary", "decision_id": "canary"})
    assert len(read_history(tmp_path)) >= 3
    assert "canary" not in (tmp_path / "web.jsonl").read_text()
