"""What another policy would have done with past items, and what is known of those it would have let go.

Reads only, and routes with the very function that routes new items. A verdict nobody gave is never
guessed: errors are counted among items that people decided, and said to be so.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import load_only

from reviewqueue.db import db
from reviewqueue.models import Decision, Item, Project
from reviewqueue.routing.route import route
from reviewqueue.routing.rules import PolicyBody

MOST_ITEMS = 5000
BATCH = 200
WRONG = ("edit", "reject")

_SUBMITTED = (
    "output", "input", "context", "confidence", "samples", "risk", "risk_flags", "external_id", "model",
    "example_set", "arm", "usage", "subject", "feature", "trace",
)  # fmt: skip
_WITHOUT_CONTENT = (
    Item.id, Item.created_at, Item.route, Item.sampled, Item.coin, Item.confidence, Item.risk,
)  # fmt: skip


@dataclass
class Outcome:
    """Where items went: how many each way, and how many people found wrong among those they decided."""

    items: Counter[str] = field(default_factory=Counter)
    decided: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    sampled: int = 0

    def add(self, decision: str, sampled: bool, verdict: str | None) -> None:
        """Count one item that went the way of `decision`."""
        self.items[decision] += 1
        self.sampled += sampled and decision == "release"
        if verdict is not None:
            self.decided[decision] += 1
            self.wrong[decision] += verdict in WRONG


@dataclass
class Trial:
    """The same items under the policies they were routed by, and under the one on trial."""

    items: int = 0
    oldest: datetime | None = None
    was: Outcome = field(default_factory=Outcome)
    would: Outcome = field(default_factory=Outcome)
    moves: Counter[tuple[str, str]] = field(default_factory=Counter)


def trial(project: Project, policy: PolicyBody, limit: int = 1000) -> Trial:
    """Route the newest `limit` items (at most 5,000) of `project` by `policy`, and count.

    Erased items are left out: there is nothing to route. Each item keeps its coin, so that the control
    sample is the one it would have been.
    """
    result = Trial()
    query = (
        select(Item, Decision.verdict)
        .outerjoin(
            Decision,
            (Decision.item_id == Item.id) & Decision.undone_at.is_(None) & Decision.superseded_at.is_(None),
        )
        .where(Item.project_id == project.id, Item.status != "erased")
        .order_by(Item.number.desc())
        .limit(min(limit, MOST_ITEMS))
        .execution_options(yield_per=BATCH)
    )
    if not policy.rules:
        # Thresholds look at two numbers; a thousand outputs need not be read for them.
        query = query.options(load_only(*_WITHOUT_CONTENT))
    for item, verdict in db.session.execute(query):
        submitted = as_submitted(item, project.name) if policy.rules else _signals(item)
        answer = route(submitted, policy, item.coin)
        result.items += 1
        result.oldest = item.created_at
        result.was.add(item.route, item.sampled, verdict)
        result.would.add(answer.decision, answer.sampled, verdict)
        if item.route != answer.decision:
            result.moves[item.route, answer.decision] += 1
        db.session.expunge(item)
    return result


def as_submitted(item: Item, project_name: str) -> dict[str, Any]:
    """The item as rules saw it when it came in; what was left out is left out here."""
    prompt = {"name": item.prompt_name, "version": item.prompt_version}
    said = {name: getattr(item, name) for name in _SUBMITTED} | {
        "project": project_name,
        "prompt": prompt if item.prompt_version is not None else item.prompt_name,
        "metadata": item.details,
    }
    return {name: value for name, value in said.items() if value is not None}


def _signals(item: Item) -> dict[str, Any]:
    return {"confidence": item.confidence, "risk": item.risk}
