from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from reviewqueue.db import db
from reviewqueue.intake import room
from reviewqueue.intake.bulk import import_lines
from reviewqueue.models import Item, Submission
from reviewqueue.people.access import SYSTEM
from tests.make import Make


@pytest.fixture
def environ() -> dict[str, str]:
    return {"REVIEWQUEUE_QUEUE_CAP": "3"}


class Bot:
    """A backend that submits with its key."""

    def __init__(self, visitor: Any, make: Make) -> None:
        self.visitor, self.project = visitor, make.project(confidence_below=0.8)
        self.headers = {"Authorization": f"Bearer {make.backend(self.project).api_key}"}

    def post(self, name: str, confidence: float = 0.1) -> Any:
        body = {"project": self.project.name, "output": name, "external_id": name, "confidence": confidence}
        headers = self.headers | {"Idempotency-Key": name}
        return self.visitor.post("/api/v1/items", json=body, headers=headers)


@pytest.fixture
def bot(client: Callable[..., Any], make: Make) -> Bot:
    return Bot(client(), make)


def count(table: Any) -> int:
    return int(db.session.scalar(select(func.count()).select_from(table)) or 0)


def test_require_room_refuses_what_a_full_queue_cannot_take_and_stores_nothing_of_it(bot: Bot) -> None:
    assert [bot.post(f"n{n}").status_code for n in range(3)] == [201] * 3
    refused = bot.post("n3")
    assert (refused.status_code, refused.json["code"]) == (503, "queue_full")
    assert int(refused.headers["Retry-After"]) > 0
    assert (count(Item), count(Submission)) == (3, 3)
    assert bot.post("n0").headers["Idempotency-Replayed"] == "true", "what was stored is acknowledged again"
    assert bot.post("released", confidence=0.9).status_code == 201, "what waits for nobody has room"
    items = [{"project": bot.project.name, "output": "x", "confidence": c} for c in (0.9, 0.1)]
    assert (
        bot.visitor.post("/api/v1/items/batch", json={"items": items}, headers=bot.headers).status_code == 503
    )
    assert count(Item) == 4


def test_require_room_takes_more_once_people_made_room(
    bot: Bot, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, *_ = [bot.post(f"n{n}").json["id"] for n in range(3)]
    assert bot.post("n3").status_code == 503
    make.decide(make.person("ada"), db.session.scalars(select(Item).where(Item.id == first)).one())
    assert bot.post("n3").status_code == 503, "the count is remembered for a moment"
    monkeypatch.setattr(room, "_known", {})  # the moment is over
    assert bot.post("n3").status_code == 201


@pytest.mark.sqlite
def test_import_of_an_operator_is_never_refused_for_room(bot: Bot) -> None:
    lines = [json.dumps({"output": f"n{n}", "confidence": 0.1}).encode() for n in range(5)]
    assert all(line.answer for line in import_lines(SYSTEM, bot.project.name, lines))
    assert count(Item) == 5
    assert bot.post("more").status_code == 503
