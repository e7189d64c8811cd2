"""The demo's projects and items: what a new user sees first must be valid, varied and worth reviewing.

Judges by the contract's words alone, with its own reading of the rules, so that it can disagree with ours.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import re2
from jsonschema import Draft202012Validator, FormatChecker
from rapidfuzz import fuzz

DEMO = Path(__file__).resolve().parent.parent / "demo"
KINDS = {
    "support-replies": "markdown",
    "translations": "text",
    "ticket-labels": "label",
    "invoice-fields": "json",
    "refund-agent": "tool_call",
    "tutor-chat": "chat",
}
PROJECTS = sorted(KINDS)

TOP = {"name", "title", "kind", "guidelines", "schema", "reasons", "causes", "policy"}
POLICY = {
    "confidence_below", "risk_above", "missing_confidence", "control_rate", "reviews", "due_minutes",
    "on_timeout", "undo_seconds", "rules",
}  # fmt: skip
RULE = {"name", "when", "route", "queue", "reviews", "priority"}
OPS = {"eq", "ne", "lt", "lte", "gt", "gte", "in", "not_in", "contains", "matches", "exists"}
ITEM = {
    "project", "output", "input", "context", "confidence", "logprobs", "samples", "risk", "risk_flags",
    "external_id", "model", "prompt", "example_set", "arm", "usage", "subject", "feature", "trace",
    "metadata",
}  # fmt: skip
NESTED = {
    "prompt": {"name", "version"},
    "usage": {"input_tokens", "output_tokens", "cost_usd", "latency_ms"},
    "trace": {"traceparent", "url"},
}
CORRECTION = {"external_id", "verdict", "output", "reason", "cause", "note"}


@lru_cache
def project(name: str) -> dict[str, Any]:
    return tomllib.loads((DEMO / name / "project.toml").read_text("utf-8"))


@lru_cache
def items(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(DEMO / name / "items.jsonl")]


@lru_cache
def corrections(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in _lines(DEMO / name / "corrections.jsonl")]


def _lines(file: Path) -> list[str]:
    # Not splitlines(): a text may hold U+2028, which ends a line for Python and not for JSON Lines.
    return file.read_text("utf-8").removesuffix("\n").split("\n")


def _schema(name: str) -> Any:
    file = project(name).get("schema")
    return json.loads((DEMO / name / file).read_text("utf-8")) if file else None


def _faults(name: str, output: Any) -> list[str]:
    kind = KINDS[name]
    if kind in ("text", "markdown", "label") and not (isinstance(output, str) and output.strip()):
        return ["not a text"]
    if kind == "chat":
        turns = isinstance(output, list) and output
        if not turns or any(set(turn) != {"role", "content"} for turn in output):
            return ["not a list of turns"]
        return [] if output[-1]["role"] == "assistant" else ["the last turn is not the assistant's"]
    if kind == "tool_call" and set(output) != {"name", "arguments"}:
        return ["not a tool call"]
    schema = _schema(name)
    if schema is None:
        return []
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    return [error.message for error in validator.iter_errors(output)]


def _at(item: Any, path: str) -> Any:
    for step in path.split("."):
        if not isinstance(item, dict) or item.get(step) is None:
            return None
        item = item[step]
    return item


def _holds(condition: dict[str, Any], item: dict[str, Any]) -> bool:
    op, wanted, found = condition["op"], condition["value"], _at(item, condition["field"])
    if op == "exists":
        return (found is not None) is wanted
    if found is None:
        return False
    numbers = isinstance(found, int | float) and isinstance(wanted, int | float)
    answers = {
        "eq": lambda: found == wanted,
        "ne": lambda: found != wanted,
        "lt": lambda: numbers and found < wanted,
        "lte": lambda: numbers and found <= wanted,
        "gt": lambda: numbers and found > wanted,
        "gte": lambda: numbers and found >= wanted,
        "in": lambda: found in wanted,
        "not_in": lambda: found not in wanted,
        "contains": lambda: wanted in found,
        "matches": lambda: re2.search(wanted, found) is not None,
    }
    return bool(answers[op]())


def _confidence(item: dict[str, Any]) -> float | None:
    if item.get("confidence") is not None:
        return float(item["confidence"])
    if "logprobs" in item:
        return sum(map(math.exp, item["logprobs"])) / len(item["logprobs"])
    if "samples" in item:
        return sum(sample == item["output"] for sample in item["samples"]) / len(item["samples"])
    return None


def route(name: str, item: dict[str, Any]) -> tuple[str, list[str]]:
    """The decision for `item` and why, as contract 3 words it; control samples apart."""
    policy = project(name)["policy"]
    for rule in policy["rules"]:
        if all(_holds(condition, item) for condition in rule["when"]):
            return rule["route"], [f"rule:{rule['name']}"]
    reasons, confidence = [], _confidence(item)
    if confidence is None and policy["missing_confidence"] == "review":
        reasons.append("confidence_missing")
    if confidence is not None and confidence < policy["confidence_below"]:
        reasons.append("confidence_below")
    if item.get("risk") is not None and item["risk"] > policy["risk_above"]:
        reasons.append("risk_above")
    return ("review", reasons) if reasons else ("release", ["passed"])


def _routes(name: str) -> Iterator[tuple[dict[str, Any], str, list[str]]]:
    for item in items(name):
        yield item, *route(name, item)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _letters(value: Any) -> int:
    """How much there is to read in `value`: its texts without the JSON around them."""
    if isinstance(value, dict | list):
        return sum(map(_letters, value.values() if isinstance(value, dict) else value))
    return len(value) if isinstance(value, str) else 0


def test_demo_has_one_project_per_kind() -> None:
    assert sorted(path.parent.name for path in DEMO.glob("*/project.toml")) == PROJECTS
    assert {name: project(name)["kind"] for name in PROJECTS} == KINDS


def test_policies_show_every_operator_route_and_timeout() -> None:
    policies = [project(name)["policy"] for name in PROJECTS]
    rules = [rule for policy in policies for rule in policy["rules"]]
    assert {condition["op"] for rule in rules for condition in rule["when"]} == OPS
    assert {rule["route"] for rule in rules} == {"review", "release", "block"}
    assert {rule.get("priority") for rule in rules} >= {"low", "high", "urgent"}
    assert {policy["on_timeout"] for policy in policies} == {"wait", "reject", "release"}
    assert {policy["missing_confidence"] for policy in policies} == {"review", "pass"}
    assert any(rule.get("reviews", 1) > 1 for rule in rules)


@pytest.mark.parametrize("name", PROJECTS)
def test_project_file_holds_only_what_the_contract_names(name: str) -> None:
    table = project(name)
    assert table["name"] == name
    assert set(table) <= TOP
    assert set(table["policy"]) == POLICY
    assert all(set(rule) <= RULE and rule["when"] for rule in table["policy"]["rules"])
    rules = [rule["name"] for rule in table["policy"]["rules"]]
    assert len(set(rules)) == len(rules)
    assert len((DEMO / name / table["guidelines"]).read_text("utf-8")) > 400
    assert len(set(table["reasons"])) == len(table["reasons"]) >= 4
    assert len(set(table["causes"])) == len(table["causes"]) >= 4
    schema = _schema(name)
    assert (schema is not None) is (KINDS[name] in ("json", "tool_call", "label"))
    if schema is not None:
        Draft202012Validator.check_schema(schema)
    if KINDS[name] == "label":
        assert len(schema["enum"]) == len(set(schema["enum"])) == 40


@pytest.mark.parametrize("name", PROJECTS)
def test_items_have_the_fields_of_the_contract_only(name: str) -> None:
    ids = [item["external_id"] for item in items(name)]
    assert len(set(ids)) == len(ids) >= 25
    for item in items(name):
        assert item["project"] == name
        assert set(item) <= ITEM, item["external_id"]
        assert {"input", "output", "model", "prompt", "feature"} <= set(item), item["external_id"]
        for field, wanted in NESTED.items():
            assert field not in item or set(item[field]) == wanted, item["external_id"]
        for passage in item.get("context", []):
            assert {"title", "text"} <= set(passage) <= {"title", "text", "url", "score"}, item["external_id"]
        for share in ("confidence", "risk"):
            assert item.get(share) is None or 0 <= item[share] <= 1, item["external_id"]
        assert sum(field in item for field in ("confidence", "logprobs", "samples")) <= 1, item["external_id"]
        assert len(_text(item.get("metadata", {})).encode()) <= 16 * 1024


@pytest.mark.parametrize("name", PROJECTS)
def test_outputs_fit_kind_and_schema(name: str) -> None:
    assert {item["external_id"]: _faults(name, item["output"]) for item in items(name)} == {
        item["external_id"]: [] for item in items(name)
    }


@pytest.mark.parametrize("name", PROJECTS)
def test_about_half_goes_to_review_and_every_rule_is_hit(name: str) -> None:
    routes = list(_routes(name))
    share = sum(decision == "review" for _, decision, _ in routes) / len(routes)
    assert 0.40 <= share <= 0.65
    hit = {reason.removeprefix("rule:") for _, _, reasons in routes for reason in reasons if ":" in reason}
    assert hit == {rule["name"] for rule in project(name)["policy"]["rules"]}


@pytest.mark.parametrize("name", PROJECTS)
def test_items_stand_on_both_sides_of_the_thresholds(name: str) -> None:
    policy = project(name)["policy"]
    known = [confidence for item in items(name) if (confidence := _confidence(item)) is not None]
    risks = [item["risk"] for item in items(name) if item.get("risk") is not None]
    assert sum(confidence < policy["confidence_below"] for confidence in known) >= 3
    assert sum(confidence >= policy["confidence_below"] for confidence in known) >= 3
    assert any(risk > policy["risk_above"] for risk in risks)
    assert any(risk <= policy["risk_above"] for risk in risks)
    assert any(_confidence(item) is None for item in items(name))
    reasons = {reason for _, _, reasons in _routes(name) for reason in reasons}
    assert reasons >= {"passed", "confidence_below"}


def test_labels_bring_samples_and_logprobs_on_both_sides_of_the_threshold() -> None:
    below = project("ticket-labels")["policy"]["confidence_below"]
    for field in ("samples", "logprobs"):
        derived = [_confidence(item) for item in items("ticket-labels") if field in item]
        assert min(filter(None, derived)) < below - 0.1
        assert max(filter(None, derived)) > below + 0.1


@pytest.mark.parametrize("name", PROJECTS)
def test_items_are_short_and_long_in_several_languages(name: str) -> None:
    spoken = {_at(item, "metadata.language") or _at(item, "input.language") for item in items(name)}
    assert len(spoken - {None}) >= 5
    read = [_letters(item.get(field)) for item in items(name) for field in ("input", "output", "context")]
    sizes = [size for size in read if size]
    assert min(sizes) <= 40
    assert max(sizes) > 4000


@pytest.mark.parametrize("name", ["support-replies", "translations"])
def test_written_outputs_run_from_a_line_to_pages(name: str) -> None:
    sizes = [len(item["output"]) for item in items(name)]
    assert min(sizes) <= 35
    assert max(sizes) > 4000


def test_demo_speaks_right_to_left_and_in_wide_characters() -> None:
    texts = "".join(_text(item) for name in PROJECTS for item in items(name))
    assert all(re2.search(rf"\p{{{script}}}", texts) for script in ("Arabic", "Hebrew", "Han", "Hangul"))


@pytest.mark.parametrize("name", PROJECTS)
def test_some_items_are_nearly_the_same(name: str) -> None:
    inputs = [_text(item["input"]) for item in items(name)]
    assert any(fuzz.token_sort_ratio(one, other) >= 75 for one, other in combinations(inputs, 2))


@pytest.mark.parametrize("name", PROJECTS)
def test_corrections_are_what_a_reviewer_could_send(name: str) -> None:
    by_id = {item["external_id"]: item for item in items(name)}
    table, ids = project(name), [correction["external_id"] for correction in corrections(name)]
    assert len(set(ids)) == len(ids) >= 8
    assert {correction["verdict"] for correction in corrections(name)} == {"approve", "edit", "reject"}
    for correction in corrections(name):
        item, verdict = by_id[correction["external_id"]], correction["verdict"]
        assert set(correction) | {"output"} == CORRECTION, item["external_id"]
        assert route(name, item)[0] == "review", item["external_id"]
        assert ("output" in correction) is (verdict == "edit"), item["external_id"]
        if verdict == "approve":
            assert correction["reason"] is None, item["external_id"]
            assert correction["cause"] is None, item["external_id"]
        else:
            assert correction["reason"] in table["reasons"], item["external_id"]
            assert correction["cause"] in table["causes"], item["external_id"]
        if verdict == "edit":
            assert correction["output"] != item["output"], item["external_id"]
            assert _faults(name, correction["output"]) == [], item["external_id"]


def test_chat_edits_change_the_last_turn_alone() -> None:
    by_id = {item["external_id"]: item for item in items("tutor-chat")}
    for correction in corrections("tutor-chat"):
        if correction["verdict"] == "edit":
            assert correction["output"][:-1] == by_id[correction["external_id"]]["output"][:-1]


@pytest.mark.parametrize("file", sorted(DEMO.glob("*/*")), ids=lambda file: f"{file.parent.name}/{file.name}")
def test_files_hide_nothing_and_name_no_real_place(file: Path) -> None:
    text = file.read_text("utf-8")
    assert not re2.search(r"[\x{200B}-\x{200F}\x{2028}-\x{202E}\x{2060}-\x{2069}\x{FEFF}\x{00AD}]", text)
    hosts = re2.findall(r"https?://([A-Za-z0-9.-]+)", text)
    assert all(host == "json-schema.org" or host.endswith(".example") for host in hosts)
