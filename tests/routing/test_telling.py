"""Policies in plain sentences."""

from __future__ import annotations

import pytest

from reviewqueue.routing.rules import parse_policy
from reviewqueue.routing.telling import policy_in_words, rule_in_words


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ({}, "Every item that no rule routes is reviewed: there is no threshold."),
        (
            {"confidence_below": 0.8, "risk_above": 0.5},
            "An item is reviewed when its confidence is below 0.80 or its risk is above 0.50; "
            "otherwise it is released.",
        ),
        (
            {"risk_above": 0.1234},
            "An item is reviewed when its risk is above 0.1234; otherwise it is released.",
        ),
        ({"confidence_below": 0.8}, "An item without a confidence is reviewed."),
        (
            {"confidence_below": 0.8, "missing_confidence": "pass"},
            "An item without a confidence passes the threshold.",
        ),
        ({"control_rate": 0.125}, "12.5 % of released items are reviewed all the same, chosen by lot."),
        ({"control_rate": 0.0}, "No released item is reviewed: how many of them are wrong cannot be known."),
        ({"reviews": 1}, "One person decides."),
        ({"reviews": 2}, "2 people decide, unseen by each other; a lead settles what they disagree on."),
        ({"due_minutes": 240}, "A review is due within 4 hours; an item that is overdue goes on waiting."),
        (
            {"due_minutes": 1440, "on_timeout": "reject"},
            "A review is due within 1 day; an item that is overdue expires, and its output may not be used.",
        ),
        (
            {"due_minutes": 95, "on_timeout": "release"},
            "A review is due within 95 minutes; an item that is overdue expires, and its output may be used "
            "unreviewed.",
        ),
        ({"undo_seconds": 0}, "A decision is final at once."),
        ({"undo_seconds": 10}, "A decision can be taken back for 10 seconds; then the backend is told."),
    ],
)  # fmt: skip
def test_policy_in_words_says(table: dict[str, object], sentence: str) -> None:
    assert sentence in policy_in_words(parse_policy(table))


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (
            {
                "when": [{"field": "output.arguments.amount", "op": "gt", "value": 500}],
                "route": "review",
                "queue": "seniors",
                "reviews": 2,
                "priority": "high",
            },
            "when output.arguments.amount is more than 500: review in seniors by 2 people, high priority",
        ),
        (
            {
                "when": [
                    {"field": "input", "op": "contains", "value": "lawyer"},
                    {"field": "metadata.tier", "op": "in", "value": ["gold", "silver"]},
                ],
                "route": "block",
            },
            'when input contains "lawyer" and metadata.tier is one of "gold", "silver": '
            "block it: the output is refused, and nobody need look",
        ),
        (
            {"when": [{"field": "risk", "op": "exists", "value": False}], "route": "release"},
            "when risk is not given: release it",
        ),
    ],
)
def test_rule_in_words_says(rule: dict[str, object], sentence: str) -> None:
    (parsed,) = parse_policy({"rules": [{"name": "r", **rule}]}).rules
    assert rule_in_words(parsed) == sentence
