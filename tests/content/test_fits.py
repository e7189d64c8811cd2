from __future__ import annotations

import json
import time
from typing import Any

import pytest

from reviewqueue.content.fits import check, strict_json
from reviewqueue.errors import Invalid

CALL = {"name": "refund", "arguments": {"amount": 5}}


@pytest.mark.parametrize(
    ("kind", "output"),
    [
        ("text", ""),
        ("markdown", "# x"),
        ("label", "yes"),
        ("json", {}),
        ("json", [1]),
        ("tool_call", CALL),
        ("chat", [{"role": "assistant", "content": ""}]),
    ],
)
def test_check_passes_what_its_kind_asks_for(kind: str, output: Any) -> None:
    assert check(kind, None, output) == []


@pytest.mark.parametrize(
    ("kind", "output", "pointer"),
    [
        ("text", None, ""),
        ("text", {"a": 1}, ""),
        ("text", "a\0b", ""),
        ("text", "\ud800", ""),
        ("label", 3, ""),
        ("json", "{}", ""),
        ("json", 3, ""),
        ("json", {"a": float("nan")}, "/a"),
        ("json", {"a": {"b/c": "\0"}}, "/a/b~1c"),
        ("json", {"\0": 1}, ""),
        ("tool_call", [], ""),
        ("tool_call", {"name": "", "arguments": {}}, "/name"),
        ("tool_call", {"name": "x", "arguments": "{}"}, "/arguments"),
        ("tool_call", {"name": "x"}, "/arguments"),
        ("tool_call", {**CALL, "id": "1"}, "/id"),
        ("chat", [], ""),
        ("chat", "hi", ""),
        ("chat", [{"role": "assistant"}], "/0"),
        ("chat", [{"role": "pilot", "content": "x"}], "/0/role"),
        ("chat", [{"role": "user", "content": None}], "/0/content"),
    ],
)
def test_check_names_what_does_not_fit_the_kind(kind: str, output: Any, pointer: str) -> None:
    faults = check(kind, None, output)
    assert [fault["pointer"] for fault in faults] == [pointer]


def test_check_refuses_bottomless_nesting() -> None:
    assert check("json", None, json.loads("[" * 32 + "]" * 32)) == []
    assert check("json", None, json.loads("[" * 33 + "]" * 33)) != []


def test_check_asks_the_schema_for_json_calls_and_labels_alone() -> None:
    never = False
    assert check("text", never, "a") == []
    assert check("json", never, {}) != []
    assert check("label", {"enum": ["yes"]}, "no") == [{"pointer": "", "message": "must be one of: yes"}]
    assert check("tool_call", {"properties": {"name": {"const": "cancel"}}}, CALL)[0]["pointer"] == "/name"


def test_check_never_quotes_the_output() -> None:
    schema = {
        "additionalProperties": {"type": "integer", "maximum": 3},
        "maxProperties": 1,
        "not": {"type": "object"},
    }
    faults = check("json", schema, {"a": "canary", "b": "canary"})
    assert faults
    assert "canary" not in json.dumps(faults)


DEEP = ["[" * 100_000, "[" * 33 + "]" * 33]
ODD = ["NaN", "[Infinity]", "1e999", '{"a":1,"a":2}', '"\\u0000"', '"\\udc00"', "", "[1,]", "'a'", "\ufeff1"]


@pytest.mark.parametrize("text", [*ODD, *DEEP, "9" * 5000])
def test_strict_json_refuses(text: str) -> None:
    with pytest.raises(Invalid) as refused:
        strict_json(text, "output.x")
    assert refused.value.errors[0]["pointer"] == "output.x"


def test_strict_json_keeps_types() -> None:
    read = strict_json('{"b": 1.0, "a": [1, -0.0, 123456789012345678901, "\\u00e9", null]}')
    assert json.dumps(read) == '{"b": 1.0, "a": [1, -0.0, 123456789012345678901, "\\u00e9", null]}'


def test_check_of_a_large_output_comes_in_time() -> None:
    began = time.process_time()
    assert check("json", {"uniqueItems": True}, [[n, {}] if n % 2 else str(n) for n in range(50_000)]) == []
    assert time.process_time() - began < 10
