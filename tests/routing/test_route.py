"""The table a policy writer reads: what goes in, under which policy, and where it goes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewqueue.errors import Invalid
from reviewqueue.routing.route import coin, route, shortest
from reviewqueue.routing.rules import parse_policy

LATE, EARLY = 0.999, 0.0  # a coin that never chooses, and one that chooses whenever it can
BOTH = {"confidence_below": 0.80, "risk_above": 0.50}
ONE = {"confidence_below": 0.80}
RISK = {"risk_above": 0.50}


def rule(route: str, *when: tuple[str, str, Any], **more: Any) -> dict[str, Any]:
    conditions = [{"field": field, "op": op, "value": value} for field, op, value in when]
    return {"name": "r", "when": conditions, "route": route, **more}


REFUND = {"rules": [rule("review", ("output.arguments.amount", "gt", 500), queue="seniors", reviews=2)]}

TABLE = [
    # policy, item, decision, codes
    (BOTH, {"confidence": 0.62}, "review", ["confidence_below"]),
    (BOTH, {"confidence": 0.7999999}, "review", ["confidence_below"]),
    (BOTH, {"confidence": 0.80}, "release", ["passed"]),
    (BOTH, {"confidence": 0.81, "risk": 0.50}, "release", ["passed"]),
    (BOTH, {"confidence": 0.81, "risk": 0.5000001}, "review", ["risk_above"]),
    (BOTH, {"confidence": 0.10, "risk": 0.90}, "review", ["confidence_below", "risk_above"]),
    (BOTH, {"confidence": 0, "risk": 0}, "review", ["confidence_below"]),
    (BOTH, {"confidence": 1, "risk": 1}, "review", ["risk_above"]),
    (BOTH, {"confidence": 1, "risk": 0}, "release", ["passed"]),
    (BOTH, {}, "review", ["confidence_missing"]),
    (BOTH, {"confidence": None, "risk": None}, "review", ["confidence_missing"]),
    (BOTH, {"confidence": None, "risk": 0.6}, "review", ["confidence_missing", "risk_above"]),
    (BOTH, {"confidence": 0.9}, "release", ["passed"]),  # a missing risk is not above anything
    (BOTH, {"confidence": 0.9, "risk": None}, "release", ["passed"]),
    (BOTH | {"missing_confidence": "pass"}, {}, "release", ["passed"]),
    (BOTH | {"missing_confidence": "pass"}, {"risk": 0.51}, "review", ["risk_above"]),
    (BOTH | {"missing_confidence": "pass"}, {"confidence": 0.1}, "review", ["confidence_below"]),
    ({"confidence_below": 0}, {"confidence": 0}, "release", ["passed"]),
    ({"confidence_below": 0}, {}, "review", ["confidence_missing"]),
    ({"confidence_below": 1}, {"confidence": 1}, "release", ["passed"]),
    ({"confidence_below": 1}, {"confidence": 0.9999999999999999}, "review", ["confidence_below"]),
    ({"confidence_below": 0, "risk_above": 1}, {"confidence": 0, "risk": 1}, "release", ["passed"]),
    ({"confidence_below": 0, "risk_above": 0}, {"confidence": 1, "risk": 5e-324}, "review", ["risk_above"]),
    (RISK, {"risk": 0.5}, "release", ["passed"]),
    (RISK, {"risk": 0.51}, "review", ["risk_above"]),
    (RISK, {"confidence": 0.99}, "review", ["risk_above"]),  # nothing that could be compared
    (RISK, {"confidence": 0.01, "risk": 0.1}, "release", ["passed"]),
    ({}, {"confidence": 1, "risk": 0}, "review", ["confidence_below"]),  # no threshold: full review
    # rules come first, in order
    (BOTH | REFUND, {"confidence": 1, "output": {"arguments": {"amount": 501}}}, "review", ["rule:r"]),
    (BOTH | REFUND, {"confidence": 1, "output": {"arguments": {"amount": 500}}}, "release", ["passed"]),
    (BOTH | REFUND, {"confidence": 1, "output": {"arguments": {}}}, "release", ["passed"]),
    (BOTH | REFUND, {"confidence": 1, "output": {"arguments": {"amount": None}}}, "release", ["passed"]),
    (BOTH | REFUND, {"confidence": 1, "output": {"arguments": {"amount": "501"}}}, "review", ["rule_error"]),
    (BOTH | REFUND, {"confidence": 1, "output": {"arguments": {"amount": True}}}, "review", ["rule_error"]),
    (BOTH | REFUND, {"confidence": 1, "output": "a text has no arguments"}, "release", ["passed"]),
    (ONE | {"rules": [rule("release", ("feature", "eq", "thanks"))]},
     {"confidence": 0.1, "feature": "thanks"}, "release", ["rule:r"]),
    (ONE | {"rules": [rule("block", ("output", "matches", "(?i)card"))]},
     {"confidence": 1, "output": "my CARD"}, "block", ["rule:r", "blocked"]),
    (ONE | {"rules": [rule("release", ("output", "matches", "x"))]},
     {"confidence": 1, "output": ["x"]}, "review", ["rule_error"]),
    # a condition that fails settles the rule, whatever the others are
    (ONE | {"rules": [rule("block", ("output", "gt", 5), ("feature", "eq", "a"))]},
     {"confidence": 1, "output": "x", "feature": "b"}, "release", ["passed"]),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "item", "decision", "codes"), TABLE)
def test_route_follows_the_table(
    policy: dict[str, Any], item: dict[str, Any], decision: str, codes: list[str]
) -> None:
    found = route(item, parse_policy(policy), LATE)
    assert found.decision == decision
    assert [reason["code"] for reason in found.reasons] == codes
    assert (found.queue is None, found.reviews == 0) == ((decision != "review"),) * 2


CONDITIONS = [
    # op, value, what matches, what does not, what cannot be evaluated
    ("eq", "a", ["a"], ["b", "", 1, True, ["a"]], []),
    ("eq", 1, [1, 1.0], [2, "1", True], []),
    ("eq", True, [True], [False, 1, "true"], []),
    ("eq", [1, 2], [[1, 2], [1.0, 2]], [[2, 1], [1], [True, 2]], []),
    ("eq", {"a": 1}, [{"a": 1}, {"a": 1.0}], [{"a": 2}, {}, {"a": 1, "b": 2}], []),
    ("ne", "a", ["b", 1, False, []], ["a"], []),
    ("ne", 1, [True, 2], [1.0], []),
    ("lt", 5, [4, 4.999, -1], [5, 6], ["4", True, [], {}]),
    ("lte", 5, [5, 5.0], [5.001], ["5"]),
    ("gt", 5, [5.001], [5], ["6", False]),
    ("gte", 5, [5], [4], [[5]]),
    ("gte", "2026-01-01", ["2026-01-01", "2027"], ["2025-12-31"], [2026]),
    ("in", ["a", 1], ["a", 1, 1.0], ["b", True, "1"], []),
    ("not_in", ["a", 1], ["b", True], ["a", 1.0], []),
    ("contains", "b", ["abc", ["b"], {"b": 0}], ["ac", [], ["ab"], {"a": "b"}], [1, True]),
    ("contains", 1, [[1], [1.0]], [[True], ["1"]], ["1", {"1": 1}, 1]),
    ("matches", "^a+$", ["a", "aa"], ["b", "ba", ""], [1, ["a"], {"a": 1}, True]),
    ("exists", True, ["", 0, False, [], {}], [], []),
    ("exists", False, [], ["", 0, False, [], {}], []),
]


@pytest.mark.parametrize(("op", "value", "yes", "no", "unfit"), CONDITIONS)
def test_conditions_follow_the_table(
    op: str, value: Any, yes: list[Any], no: list[Any], unfit: list[Any]
) -> None:
    policy = parse_policy(ONE | {"rules": [rule("block", ("metadata.x", op, value))]})
    for found, decision, code in (
        *((one, "block", "rule:r") for one in yes),
        *((one, "release", "passed") for one in no),
        *((one, "review", "rule_error") for one in unfit),
    ):
        answer = route({"confidence": 1, "metadata": {"x": found}}, policy, LATE)
        assert (answer.decision, answer.reasons[0]["code"]) == (decision, code), found
    nowhere = {"confidence": 1, "metadata": {"y": 1}}
    nothing = {"confidence": 1, "metadata": {"x": None}}
    missing_matches = op == "exists" and value is False
    for item in (nowhere, nothing):
        assert route(item, policy, LATE).decision == ("block" if missing_matches else "release")


def test_paths_reach_into_lists_by_index() -> None:
    policy = parse_policy(ONE | {"rules": [rule("block", ("output.lines.1.price", "gt", 10))]})
    item = {"confidence": 1, "output": {"lines": [{"price": 99}, {"price": 11}]}}
    assert route(item, policy, LATE).decision == "block"
    item = {"confidence": 1, "output": {"lines": [{"price": 99}]}}
    assert route(item, policy, LATE).decision == "release"


def test_the_first_rule_that_matches_wins() -> None:
    rules = [
        rule("release", ("feature", "eq", "a")) | {"name": "first"},
        rule("block", ("feature", "exists", True)) | {"name": "second"},
    ]
    policy = parse_policy({"rules": rules})
    assert route({"feature": "a"}, policy, LATE).reasons[0]["code"] == "rule:first"
    assert route({"feature": "b"}, policy, LATE).reasons[0]["code"] == "rule:second"


def test_a_rule_that_cannot_be_evaluated_is_as_strict_as_if_it_held() -> None:
    policy = parse_policy(ONE | REFUND)
    found = route({"confidence": 1, "output": {"arguments": {"amount": "501"}}}, policy, LATE)
    assert (found.decision, found.queue, found.reviews) == ("review", "seniors", 2)
    assert "501" not in found.reasons[0]["message"]


def test_reviews_queue_and_priority_come_from_the_rule_or_the_policy() -> None:
    policy = parse_policy(ONE | {"reviews": 3} | REFUND)
    asked = route({"output": {"arguments": {"amount": 501}}}, policy, LATE)
    assert (asked.queue, asked.reviews, asked.priority) == ("seniors", 2, "normal")
    usual = route({"confidence": 0.1}, policy, LATE)
    assert (usual.queue, usual.reviews, usual.priority) == ("main", 3, "normal")


def test_messages_explain_in_the_shortest_exact_numbers() -> None:
    policy = parse_policy(BOTH)
    assert route({"confidence": 0.62}, policy, LATE).reasons == [
        {"code": "confidence_below", "message": "confidence 0.62 is below 0.80"}
    ]
    said = route({"confidence": 0.7999, "risk": 0.51}, policy, LATE).reasons
    assert [reason["message"] for reason in said] == [
        "confidence 0.7999 is below 0.80",
        "risk 0.51 is above 0.50",
    ]


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0.00"), (1, "1.00"), (0.8, "0.80"), (0.62, "0.62"), (0.125, "0.125"), (1e-7, "0.0000001")],
)
def test_shortest_keeps_two_decimals(number: float, text: str) -> None:
    assert shortest(number) == text


@given(st.floats(0, 1))
def test_shortest_is_exact(number: float) -> None:
    assert float(shortest(number)) == number


PINNED = [
    # policy, item, eligible, passed, pi, p
    (BOTH, {"confidence": 0.9, "risk": 0.1}, True, True, 0.1, 0.1),
    (BOTH, {"confidence": 0.7, "risk": 0.1}, True, False, 1.0, 0.1),
    (BOTH, {"confidence": 0.9, "risk": 0.6}, False, False, 1.0, 0.1),
    (BOTH, {"confidence": 0.9}, False, False, 0.1, 0.1),
    (BOTH, {}, False, False, 1.0, 0.1),
    (BOTH | {"missing_confidence": "pass"}, {}, False, False, 0.1, 0.1),
    (ONE, {"confidence": 0.8}, True, True, 0.1, 0.1),
    ({}, {"confidence": 0.8}, True, False, 1.0, 1.0),
    ({}, {}, False, False, 1.0, 1.0),
    (ONE | {"rules": [rule("release", ("feature", "exists", True))]},
     {"confidence": 0.9, "feature": "x"}, False, False, 0.1, 0.1),
    (ONE | {"rules": [rule("review", ("feature", "exists", True))]},
     {"confidence": 0.9, "feature": "x"}, False, False, 1.0, 0.1),
    (ONE | {"rules": [rule("block", ("feature", "exists", True))]},
     {"confidence": 0.9, "feature": "x"}, False, False, 0.0, 0.1),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "item", "eligible", "passed", "pi", "p"), PINNED)
def test_route_pins_what_a_proof_needs(
    policy: dict[str, Any], item: dict[str, Any], eligible: bool, passed: bool, pi: float, p: float
) -> None:
    found = route(item, parse_policy(policy | {"control_rate": 0.1}), 0.05)
    assert (found.eligible, found.passed) == (eligible, passed)
    assert (found.review_probability, found.floor_probability) == (pi, p)
    assert found.sampled is (pi > 0.05)
    assert found.confidence_below == policy.get("confidence_below")
    assert found.risk_above == policy.get("risk_above")


def test_a_sampled_release_is_reviewed_as_well() -> None:
    policy = parse_policy(ONE | {"control_rate": 0.1, "reviews": 2})
    found = route({"confidence": 0.9}, policy, EARLY)
    assert (found.decision, found.queue, found.reviews, found.sampled) == ("release", "main", 2, True)
    assert [reason["code"] for reason in found.reasons] == ["passed", "control_sample"]
    border = route({"confidence": 0.9}, policy, 0.1)
    assert (border.sampled, border.queue) == (False, None)


def test_with_control_rate_nothing_is_sampled_and_with_one_everything() -> None:
    never = route({"confidence": 1}, parse_policy(ONE | {"control_rate": 0}), EARLY)
    always = route({"confidence": 1}, parse_policy(ONE | {"control_rate": 1}), LATE)
    assert (never.sampled, always.sampled) == (False, True)


def test_a_paused_project_reviews_everything() -> None:
    policy = parse_policy(ONE | REFUND | {"control_rate": 0.1})
    found = route({"confidence": 1}, policy, LATE, paused=True)
    assert (found.decision, found.queue, found.reasons[0]["code"]) == ("review", "main", "paused")
    assert (found.review_probability, found.floor_probability, found.sampled) == (1.0, 1.0, True)
    assert (found.eligible, found.passed, found.confidence_below) == (True, False, None)
    strict = route({"output": {"arguments": {"amount": 501}}}, policy, LATE, paused=True)
    assert [reason["code"] for reason in strict.reasons] == ["paused", "rule:r"]
    assert (strict.queue, strict.reviews) == ("seniors", 2)
    block = parse_policy({"rules": [rule("block", ("output", "exists", True))]})
    assert route({"output": "x"}, block, LATE, paused=True).decision == "review"


@pytest.mark.parametrize(
    ("key", "item", "value"),
    [
        (bytes(32), "itm_1", 0.7068901474083071),
        (bytes(32), "itm_2", 0.021164552290398264),
        (bytes(32), "ünïcode", 0.3242272300106974),
        (b"_" * 32, "itm_1", 0.7067476769133137),
        (b"_" * 32, "itm_2", 0.4005425829737894),
    ],
)
def test_coin_matches_the_vectors(key: bytes, item: str, value: float) -> None:
    assert coin(key, item) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abx01"), inner, max_size=3),
    max_leaves=10,
)
SOME = st.sampled_from(
    [(op, value) for op, value, *_ in CONDITIONS] + [("matches", r"(a*)*b"), ("contains", True)]
)


@given(JSON, JSON, SOME, st.sampled_from(["output", "metadata.a", "metadata.0.x", "confidence", "a.b.0"]))
def test_a_policy_never_fails_on_an_item(
    output: Any, metadata: Any, condition: tuple[str, Any], field: str
) -> None:
    op, value = condition
    policy = parse_policy(ONE | {"rules": [rule("release", (field, op, value))]})
    found = route({"output": output, "metadata": metadata, "confidence": output}, policy, 0.5)
    assert found.decision in ("release", "review")
    assert found.reasons


def test_matches_takes_linear_time() -> None:
    policy = parse_policy({"rules": [rule("block", ("output", "matches", r"(x+x+)+y"))]})
    assert route({"output": "x" * 200_000}, policy, LATE).decision == "review"


BROKEN = [
    ({"confidence_below": 1.01}, "policy.confidence_below", "must be at most 1"),
    ({"confidence_below": "0.8"}, "policy.confidence_below", "must be a number"),
    ({"confidence_below": True}, "policy.confidence_below", "must be a number"),
    ({"confidence_below": float("nan")}, "policy.confidence_below", ""),
    ({"confidense_below": 0.8}, "policy.confidense_below", "did you mean confidence_below"),
    ({"target": {"wrong": 0.02}}, "policy.target", "is not a field"),
    ({"reviews": 0}, "policy.reviews", "at least 1"),
    ({"reviews": 1.5}, "policy.reviews", "whole number"),
    ({"due_minutes": 0}, "policy.due_minutes", "at least 1"),
    ({"undo_seconds": -1}, "policy.undo_seconds", "at least 0"),
    ({"on_timeout": "explode"}, "policy.on_timeout", "one of: wait, reject, release"),
    ({"rules": [rule("review", ("a", "matches", "(?=x)"))]}, "policy.rules.0.when.0", 'rule "r": the'),
    ({"rules": [rule("review", ("a", "matches", "("))]}, "policy.rules.0.when.0", "missing )"),
    ({"rules": [rule("review", ("a", "like", "x"))]}, "policy.rules.0.when.0.op", "one of: eq"),
    ({"rules": [rule("review", ("a", "gt", True))]}, "policy.rules.0.when.0", "a number or a text"),
    ({"rules": [rule("review", ("a", "in", "x"))]}, "policy.rules.0.when.0", "a list of values"),
    ({"rules": [rule("review", ("a", "exists", "yes"))]}, "policy.rules.0.when.0", "true or false"),
    ({"rules": [rule("review", ("a..b", "eq", 1))]}, "policy.rules.0.when.0.field", "dotted path"),
    ({"rules": [rule("queue", ("a", "eq", 1))]}, "policy.rules.0.route", "review, release, block"),
    ({"rules": [rule("review", ("a", "eq", 1), queue="No Slug")]}, "policy.rules.0.queue", "pattern"),
    ({"rules": [rule("review", ("a", "eq", 1), queue="adjudication")]}, "policy.rules.0.queue", "another"),
    ({"rules": [rule("review", ("a", "eq", 1), priority="asap")]}, "policy.rules.0.priority", "urgent"),
    ({"rules": [rule("review")]}, "policy.rules.0.when", "at least 1"),
    ({"rules": [rule("review", ("a", "eq", 1))] * 2}, "policy.rules", "two rules"),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "field", "remedy"), BROKEN)
def test_parse_policy_names_field_and_remedy(policy: dict[str, Any], field: str, remedy: str) -> None:
    with pytest.raises(Invalid) as refused:
        parse_policy(policy)
    assert refused.value.errors[0]["pointer"] == field
    assert remedy in refused.value.errors[0]["message"]


def test_parse_policy_fills_in_the_defaults() -> None:
    assert parse_policy({}).model_dump() == {
        "confidence_below": None, "risk_above": None, "missing_confidence": "review", "control_rate": 0.0,
        "reviews": 1, "due_minutes": 1440, "on_timeout": "wait", "undo_seconds": 10, "rules": [],
    }  # fmt: skip
