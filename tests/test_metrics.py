"""What is measured, that it is right, and that being scraped costs little."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, update

from reviewqueue import metrics
from reviewqueue.db import db, now, transaction
from reviewqueue.delivery.deliver import deliver_due
from reviewqueue.models import Claim, Delivery, Review
from tests.make import Make


@pytest.fixture
def read(app: Flask, client: Callable[..., Any]) -> Callable[[], dict[str, float]]:
    """The samples of /metrics now, by name with labels."""

    def scrape() -> dict[str, float]:
        app.extensions.pop("metrics", None)  # what was read a moment ago
        text = client().get("/metrics").text
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line[0] != "#"
        }

    return scrape


def test_metrics_tell_what_waits_and_for_how_long(read: Callable[[], dict[str, float]], make: Make) -> None:
    project = make.project(undo_seconds=0)
    make.backend(project, callback="http://127.0.0.1:9/")
    make.decide(make.person("ada"), make.item(project))
    make.item(project)
    found = read()
    assert found['reviewqueue_items{status="pending"}'] == found['reviewqueue_reviews{state="wanted"}'] == 1
    assert found['reviewqueue_deliveries{state="due"}'] == 1
    assert found["reviewqueue_dead_deliveries"] == found["reviewqueue_reviews_overdue"] == 0
    assert found["reviewqueue_double_claims"] == found["reviewqueue_relay_up"] == 0
    assert found["reviewqueue_ledger_entries"] > 3
    assert found["reviewqueue_disk_bytes"] >= found["reviewqueue_disk_free_bytes"] > 0
    past = now() - timedelta(minutes=10)
    with transaction() as session:
        session.execute(update(Delivery).values(next_attempt_at=past))
        session.execute(update(Review).values(due_at=past))
    found = read()
    assert found['reviewqueue_oldest_seconds{kind="delivery"}'] == pytest.approx(600, abs=30)
    assert 0 < found['reviewqueue_oldest_seconds{kind="review"}'] < 30
    assert found["reviewqueue_reviews_overdue"] == 1
    deliver_due()
    found = read()
    assert sum(count for name, count in found.items() if name.startswith("reviewqueue_attempts{")) == 1
    with transaction() as session:
        session.execute(update(Delivery).values(state="dead"))
    assert read()["reviewqueue_dead_deliveries"] == 1


def test_metrics_see_a_turn_that_was_given_twice(read: Callable[[], dict[str, float]], make: Make) -> None:
    claim = make.claim(make.person("ada"), make.item(make.project()))
    with transaction() as session:
        row = {column.name: getattr(claim, column.name) for column in Claim.__table__.columns}
        session.add(Claim(**row | {"token": "another"}))
    assert read()["reviewqueue_double_claims"] == 1


@pytest.mark.sqlite
def test_metrics_count_refusals_lost_claims_and_dropped_hints(
    read: Callable[[], dict[str, float]], client: Callable[..., Any], make: Make
) -> None:
    names = (
        'reviewqueue_refusals_total{code="signature_invalid"}',
        'reviewqueue_refusals_total{code="unauthenticated"}',
        "reviewqueue_lease_conflicts_total",
        'reviewqueue_hints_dropped_total{job="prepare"}',
    )
    before = read()
    ada, cleo = make.person("ada"), make.person("cleo")
    claim = make.claim(ada, make.item(make.project()))  # there is no Redis: the ring is dropped
    with transaction() as session:
        session.execute(update(Review).values(claim_token="taken", claimed_by=cleo.id))
    visitor = client(ada)
    visitor.post("/webhooks/nobody", json={}, headers={"webhook-id": "a" * 9})
    visitor.post("/api/v1/items", json={})
    token = {"X-CSRFToken": visitor.csrf()}
    assert visitor.put(f"/claims/{claim.token}", data={"output": "x"}, headers=token).status_code == 409
    after = read()
    assert [after[name] - before.get(name, 0) for name in names] == [1, 1, 1, 1]


def test_metrics_are_remembered_for_as_long_as_they_are_dear(
    app: Flask,
    read: Callable[[], dict[str, float]],
    client: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(metrics, "REMEMBERED", 1_000_000)
    read()
    statements: list[str] = []
    with app.app_context():
        listening = (db.engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
        event.listen(*listening)
    try:
        assert "reviewqueue_items" in client().get("/metrics").text
    finally:
        event.remove(*listening)
    assert not [statement for statement in statements if re.match(r"\s*SELECT", statement)]
