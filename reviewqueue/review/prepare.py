"""What a reviewer should see beside an item: decisions on similar ones, and hints on hidden characters.

An item that is not prepared yet can be claimed all the same: this must never hold one back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

from sqlalchemy import select, update

from reviewqueue.content.hidden import hidden_characters
from reviewqueue.content.show import clip
from reviewqueue.db import db, hits, now, stamp, transaction
from reviewqueue.examples.retrieve import nearest_decided
from reviewqueue.models import Decision, Item, Review
from reviewqueue.review.queues import wanted
from reviewqueue.text import as_text

BATCH = 100
SIMILAR = 5
NEAR = 0.1  # below this score two inputs share a few words and no more
EXCERPT = 240  # characters
WORKING = 40.0  # seconds; an RQ job ends after 60, and what is left is found by the next one

log = logging.getLogger("reviewqueue.prepare")


def prepare_due(seconds: float = WORKING) -> int:
    """Prepare what waits, oldest first, for about `seconds`; returns how many reviews were prepared."""
    prepared, started = 0, time.monotonic()
    while batch := _unprepared(BATCH):
        hints: dict[str, dict[str, Any]] = {}
        for _, item in batch:
            if item.id not in hints:
                hints[item.id] = _hints_or_none(item)
        prepared += _attach({review.id: hints[item.id] for review, item in batch})
        if time.monotonic() - started > seconds:
            break
    return prepared


def unprepared() -> bool:
    """Whether a review waits to be prepared."""
    return bool(_unprepared(1))


def hints_for(item: Item) -> dict[str, Any]:
    """The hints of one item: {"similar": [{item, verdict, reason, shown, output, decided_at, score}],
    "hidden": [{where, name, codepoint, count}]}. Texts in it are hostile, as all content is."""
    near = (
        [] if item.input is None else nearest_decided(item.project_id, as_text(item.input), SIMILAR, item.id)
    )
    return {
        "similar": [_similar(*found) for found in near if found[2] >= NEAR and found[1].verdict],
        "hidden": [
            {"where": where, "name": char.name, "codepoint": char.codepoint, "count": char.count}
            for where in ("output", "input", "context")
            for char in hidden_characters("\n".join(_texts(getattr(item, where))))
            if not char.in_place
        ],
    }


def _unprepared(limit: int) -> list[Any]:
    query = (
        select(Review, Item)
        .join(Item, Item.number == Review.item_number)
        .where(wanted(), Review.prepared_at.is_(None))
        .order_by(Review.item_number)
        .limit(limit)
    )
    return list(db.session.execute(query))


def _hints_or_none(item: Item) -> dict[str, Any]:
    item_id = item.id
    try:
        return hints_for(item)
    except Exception:
        # One item that cannot be prepared must not keep all those behind it waiting for ever.
        db.session.rollback()
        log.exception("item %s could not be prepared", item_id)
        return {"similar": [], "hidden": []}


def _attach(hints: dict[str, dict[str, Any]]) -> int:
    """Write the hints to those reviews that nobody prepared meanwhile."""
    with transaction() as session:
        moment = now()
        return sum(
            hits(
                session.execute(
                    update(Review)
                    .where(Review.id == review_id, Review.prepared_at.is_(None))
                    .values(hints=found, prepared_at=moment)
                    .execution_options(synchronize_session=False)
                )
            )
            for review_id, found in hints.items()
        )


def _similar(item: Item, decision: Decision, score: float) -> dict[str, Any]:
    return {
        "item": item.id,
        "verdict": decision.verdict,
        "reason": decision.reason,
        "shown": clip(as_text(item.output), EXCERPT),
        "output": None if decision.output is None else clip(as_text(decision.output), EXCERPT),
        "decided_at": stamp(decision.decided_at),
        "score": round(score, 3),
    }


def _texts(value: Any) -> Iterator[str]:
    """Every string in a JSON value, keys too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from value
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
