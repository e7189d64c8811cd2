"""A person's own last 24 hours."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import update

from reviewqueue.db import now, transaction
from reviewqueue.models import Review
from reviewqueue.review.day import Day, day_of
from reviewqueue.review.decide import undo
from reviewqueue.review.settle import override


def test_day_counts_ones_own_and_no_more(make: Any, client: Callable[..., Any]) -> None:
    project = make.project(undo_seconds=600, reasons=["tone"])
    ada, cleo = make.person("ada"), make.person("cleo")
    assert day_of(ada) == Day(0, None, 0, 0)
    items = [make.item(project, output=f"Parcel {n}") for n in range(5)]
    for item in items[:4]:
        given = make.decide(ada, item, "approve")
    make.decide(cleo, items[4], "approve")
    with transaction() as session:
        for item, seconds in zip(items, (2, 10, 4, 90), strict=False):
            session.execute(update(Review).where(Review.item_id == item.id).values(dwell_ms=seconds * 1000))
    undo(ada, given.decision.id)
    override(cleo, items[0].id, "reject", None, "tone")
    assert day_of(ada) == Day(decided=3, seconds=4.0, undone=1, overturned=1)
    page = client(ada).get("/").text.partition("Your last 24 hours")[2]
    assert "<strong>3</strong><span>decided" in page
    assert "<strong>4 s</strong>" in page
    with transaction() as session:
        session.execute(
            update(Review).where(Review.given_by == ada.id).values(given_at=now() - timedelta(hours=25))
        )
    assert day_of(ada).decided == 0
