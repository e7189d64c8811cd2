from __future__ import annotations

import socket
import time
from typing import Any

import pytest

from reviewqueue.content.schema import against, check_schema


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a schema reached for the network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"},
        {"pattern": "^[a-z]+\\p{L}$", "patternProperties": {"^x-": {}}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$anchor": "here"}, "b": {"$ref": "#here"}}},
        {"enum": [{"$ref": "http://evil.example", "pattern": "(?=x)"}]},
        {"properties": {"$ref": {"type": "string"}, "pattern": {"type": "string"}}},
    ],
)
def test_check_schema_passes_what_can_be_used(schema: Any) -> None:
    assert check_schema(schema) == []


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        (3, ""),
        (None, ""),
        ({"a": object()}, ""),
        ({"type": "strange"}, "/type"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema"),
        ({"$schema": 3}, "/$schema"),
        ({"properties": {"a": {"$schema": "http://json-schema.org/draft-07/schema#"}}}, "/$schema"),
        ({"$ref": "http://evil.example/schema"}, "/$ref"),
        ({"$ref": "file:///etc/passwd"}, "/$ref"),
        ({"$ref": "#/$defs/missing"}, "/$ref"),
        ({"$ref": 3}, "/$ref"),
        ({"x": {"minimum": "a"}, "$ref": "#/x"}, "/$ref/minimum"),
        ({"items": {"pattern": "(?=a)"}}, ""),
        ({"pattern": "(a)\\1"}, ""),
        ({"patternProperties": {"(?<!a)b": {}}}, ""),
        ({"definitions": {"a": {"pattern": "(?=a)"}}, "$ref": "#/definitions/a"}, ""),
        ({"allOf": [{"patternProperties": {"a": {}}}], "unevaluatedProperties": False}, ""),
    ],
)
def test_check_schema_names_what_cannot_be_used(schema: Any, pointer: str) -> None:
    faults = check_schema(schema)
    assert pointer in [fault["pointer"] for fault in faults]
    if faults[0]["message"] != "must be JSON":
        assert against(schema, {"a": "a"}) != []


def test_check_schema_wants_a_label_project_to_list_its_labels() -> None:
    assert check_schema({"enum": ["yes", "no"]}, "label") == []
    for schema in ({}, True, {"enum": [1]}, {"enum": [""]}):
        assert check_schema(schema, "label") != []


EVIL = "a" * 40_000 + "!"
EVIL_PATTERN = "^(a+)+$"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"properties": {"v": {"pattern": EVIL_PATTERN}}}, {"v": EVIL}),
        ({"patternProperties": {EVIL_PATTERN: {}}, "additionalProperties": False}, {EVIL: 1}),
        ({"propertyNames": {"pattern": EVIL_PATTERN}}, {EVIL: 1}),
        # Coming back to the root must not bring the stock validator, with its backtracking engine, back.
        (
            {
                "$schema": "https://json-schema.org/draft/2020-12/schema",
                "pattern": EVIL_PATTERN,
                "properties": {"v": {"$ref": "#"}},
            },
            {"v": EVIL},
        ),
    ],
)
def test_against_matches_hostile_patterns_in_linear_time(schema: Any, value: Any) -> None:
    began = time.process_time()
    assert against(schema, value) != []
    assert time.process_time() - began < 5


def test_against_gives_an_error_for_a_schema_without_end() -> None:
    assert against({"$ref": "#"}, {}) == [
        {"pointer": "", "message": "could not be checked against the project's schema"}
    ]


@pytest.mark.parametrize(
    ("schema", "value", "pointer", "message"),
    [
        ({"type": "integer"}, 1.5, "", "must be a whole number"),
        ({"type": ["string", "null"]}, True, "", "must be text or null"),
        ({"required": ["a/b"]}, {}, "/a~1b", "is missing"),
        ({"properties": {"a": {"minimum": 3}}}, {"a": 2}, "/a", "must be at least 3"),
        (
            {"additionalProperties": False, "properties": {"a": {}}},
            {"b": 1},
            "/b",
            "is not a field the schema knows",
        ),
        ({"items": {"enum": ["x", 1]}}, ["y"], "/0", "must be one of: x, 1"),
        ({"uniqueItems": True}, [1, 1.0], "", "must not have the same entry twice"),
        ({"uniqueItems": True}, [True, 1, "1", True], "", "must not have the same entry twice"),
        ({"multipleOf": 0.5}, 0.7, "", "must be a multiple of 0.5"),
        ({"contains": {"const": 1}}, [2], "", "does not keep the schema's contains"),
    ],
)
def test_against_says_where_and_how_to_mend_it(schema: Any, value: Any, pointer: str, message: str) -> None:
    assert against(schema, value) == [{"pointer": pointer, "message": message}]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "integer"}, 1.0),
        ({"uniqueItems": True}, [1, True, "1", [1], {"a": 1}]),
        ({"patternProperties": {"^x": {"type": "integer"}}, "additionalProperties": False}, {"x1": 1}),
        ({"additionalProperties": {"type": "string"}}, {"a": "b"}),
        ({"enum": [1]}, 1.0),
        ({"unevaluatedProperties": False, "properties": {"a": {}}}, {"a": 1}),
    ],
)
def test_against_passes_what_fits(schema: Any, value: Any) -> None:
    assert against(schema, value) == []


def test_against_names_at_most_twenty_places() -> None:
    assert len(against({"items": {"type": "string"}}, [1] * 10_000)) == 20
