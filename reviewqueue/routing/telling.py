"""A policy in plain sentences, for those who must live by it. Pure; says nothing the policy does not."""

from __future__ import annotations

import json
from typing import Any

from reviewqueue.routing.route import shortest
from reviewqueue.routing.rules import Condition, PolicyBody, Rule

_OPS = {
    "eq": "is", "ne": "is not", "lt": "is less than", "lte": "is at most", "gt": "is more than",
    "gte": "is at least", "in": "is one of", "not_in": "is none of", "contains": "contains",
    "matches": "matches",
}  # fmt: skip
_TIMEOUT = {
    "wait": "an item that is overdue goes on waiting",
    "reject": "an item that is overdue expires, and its output may not be used",
    "release": "an item that is overdue expires, and its output may be used unreviewed",
}


def policy_in_words(policy: PolicyBody) -> list[str]:
    """What `policy` does, sentence by sentence, apart from its rules."""
    return [
        _thresholds(policy),
        *_missing(policy),
        _control(policy),
        _reviews(policy.reviews),
        f"A review is due within {_minutes(policy.due_minutes)}; {_TIMEOUT[policy.on_timeout]}.",
        _undo(policy.undo_seconds),
    ]


def rule_in_words(rule: Rule) -> str:
    """What `rule` asks and does, without its name."""
    asked = " and ".join(_condition(condition) for condition in rule.when)
    if rule.route == "review":
        people = "" if rule.reviews is None else f" by {_people(rule.reviews)}"
        urgent = "" if rule.priority == "normal" else f", {rule.priority} priority"
        return f"when {asked}: review in {rule.queue}{people}{urgent}"
    done = {"release": "release it", "block": "block it: the output is refused, and nobody need look"}
    return f"when {asked}: {done[rule.route]}"


def percent(share: float) -> str:
    """0.125 as "12.5 %"."""
    return f"{share * 100:.10g} %"


def _thresholds(policy: PolicyBody) -> str:
    below, above = policy.confidence_below, policy.risk_above
    if below is None and above is None:
        return "Every item that no rule routes is reviewed: there is no threshold."
    asked = [] if below is None else [f"its confidence is below {shortest(below)}"]
    asked += [] if above is None else [f"its risk is above {shortest(above)}"]
    return f"An item is reviewed when {' or '.join(asked)}; otherwise it is released."


def _missing(policy: PolicyBody) -> list[str]:
    if policy.confidence_below is None:
        return []
    done = "is reviewed" if policy.missing_confidence == "review" else "passes the threshold"
    return [f"An item without a confidence {done}."]


def _control(policy: PolicyBody) -> str:
    if policy.control_rate == 0:
        return "No released item is reviewed: how many of them are wrong cannot be known."
    return f"{percent(policy.control_rate)} of released items are reviewed all the same, chosen by lot."


def _reviews(count: int) -> str:
    if count == 1:
        return "One person decides."
    return f"{_people(count)} decide, unseen by each other; a lead settles what they disagree on."


def _undo(seconds: int) -> str:
    if seconds == 0:
        return "A decision is final at once."
    return f"A decision can be taken back for {seconds} seconds; then the backend is told."


def _condition(condition: Condition) -> str:
    if condition.op == "exists":
        return f"{condition.field} is {'given' if condition.value else 'not given'}"
    return f"{condition.field} {_OPS[condition.op]} {_value(condition.value)}"


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_value(one) for one in value)
    # A pattern is shown as it was written, without JSON's own backslashes.
    return f'"{value}"' if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _people(count: int) -> str:
    return "one person" if count == 1 else f"{count} people"


def _minutes(minutes: int) -> str:
    for size, name in ((1440, "day"), (60, "hour")):
        if minutes % size == 0:
            return _several(minutes // size, name)
    return _several(minutes, "minute")


def _several(count: int, name: str) -> str:
    return f"{count} {name}" + ("" if count == 1 else "s")
