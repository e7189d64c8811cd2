"""A trial: what another policy would have done with past items, and which known errors it would release.

Reads only. It must never present an error it cannot know as absent: only decided items count as known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.models import Decision, Item, Project
from reviewqueue.routing.projects import body_of, policy_of
from reviewqueue.routing.route import route
from reviewqueue.routing.rules import PolicyBody, parse_policy

LIMIT = 1000  # items
WRONG = ("edit", "reject")


@dataclass(frozen=True)
class Outcome:
    """What one policy does with the items of a trial. A released item may still be in the control sample."""

    reviewed: int
    released: int
    blocked: int
    errors_released: int  # of the known errors
    errors_caught: int


@dataclass(frozen=True)
class Trial:
    """A policy beside the one in force, over the same past items."""

    items: int
    known: int  # items a person decided
    errors: int  # of those: verdict edit or reject
    now: Outcome
    then: Outcome
    changes: list[str]  # in words: "confidence_below 0.8 → 0.7"


def trial(project: Project, changes: Mapping[str, Any], limit: int = LIMIT) -> Trial:
    """Route the newest `limit` items again, by the policy in force and with `changes` made to it.

    `changes` are fields of the [policy] table. Raises Invalid as publishing them would.
    """
    body = dict(policy_of(project).body)
    before = body_of(policy_of(project))
    after = parse_policy(body | dict(changes))
    counts = (Counter[str](), Counter[str]())
    items = known = errors = 0
    rows = db.session.execute(
        select(Item, Decision.verdict)
        .outerjoin(
            Decision,
            (Decision.item_id == Item.id) & Decision.undone_at.is_(None) & Decision.superseded_at.is_(None),
        )
        .where(Item.project_id == project.id, Item.status != "erased")
        .order_by(Item.number.desc())
        .limit(limit)
        .execution_options(yield_per=100)
    )
    for item, verdict in rows:
        items += 1
        known += verdict is not None
        errors += verdict in WRONG
        submitted = as_submitted(item, project.name)
        for policy, count in zip((before, after), counts, strict=True):
            # A released item is released, whether or not its coin then has it reviewed.
            decision = route(submitted, policy, item.coin).decision
            count[decision] += 1
            count[f"{decision} wrong"] += verdict in WRONG
    told = _changes(before, after)
    return Trial(items, known, errors, _outcome(counts[0]), _outcome(counts[1]), told)


def _outcome(count: Counter[str]) -> Outcome:
    return Outcome(
        reviewed=count["review"],
        released=count["release"],
        blocked=count["block"],
        errors_released=count["release wrong"],
        errors_caught=count["review wrong"] + count["block wrong"],
    )


def _changes(before: PolicyBody, after: PolicyBody) -> list[str]:
    old, new = before.model_dump(), after.model_dump()
    return [
        f"{name} {_shown(old[name])} → {_shown(new[name])}" if name != "rules" else "other rules"
        for name in new
        if old[name] != new[name]
    ]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def as_submitted(item: Item, project: str) -> dict[str, Any]:
    """The item as its backend submitted it, for rules to look into; what was left out is left out."""
    prompt: Any = item.prompt_name
    if item.prompt_version is not None:
        prompt = {"name": item.prompt_name, "version": item.prompt_version}
    fields = {
        "project": project,
        "output": item.output,
        "input": item.input,
        "context": item.context,
        "confidence": item.confidence,
        "samples": item.samples,
        "risk": item.risk,
        "risk_flags": item.risk_flags,
        "external_id": item.external_id,
        "model": item.model,
        "prompt": prompt,
        "example_set": item.example_set,
        "arm": item.arm,
        "usage": item.usage,
        "subject": item.subject,
        "feature": item.feature,
        "trace": item.trace,
        "metadata": item.details,
    }
    return {name: value for name, value in fields.items() if value is not None}
