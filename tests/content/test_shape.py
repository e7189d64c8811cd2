"""The typed form as it is drawn: groups, what can be added or removed, and what that makes of the value."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewqueue.content.fields import Field, from_form, to_fields
from reviewqueue.content.places import places_of
from reviewqueue.content.shape import Group, Missing, reshaped, tree_of
from reviewqueue.errors import Invalid

INVOICE = {
    "type": "object",
    "required": ["lines", "currency"],
    "properties": {
        "currency": {"enum": ["EUR", "GBP"], "title": "Currency"},
        "lines": {
            "type": "array",
            "minItems": 1,
            "maxItems": 3,
            "items": {
                "type": "object",
                "required": ["what", "tags"],
                "properties": {
                    "what": {"type": "string", "maxLength": 9},
                    "price": {"type": "number", "minimum": 0},
                    "tags": {"type": "array", "items": {"type": "string"}},
                },
            },
        },
        "supplier": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
}
OUTPUT = {"currency": "EUR", "lines": [{"what": "paper", "price": 2.5, "tags": []}]}
AMOUNT = {"type": "integer", "minimum": 1}
CALL = {
    "type": "object",
    "properties": {"name": {"enum": ["refund", "close"]}, "arguments": {"type": "object"}},
    "allOf": [
        {
            "if": {"properties": {"name": {"const": "refund"}}},
            "then": {"properties": {"arguments": {"properties": {"amount": AMOUNT}}}},
        },
        {
            "if": {"properties": {"name": {"const": "close"}}},
            "then": {"properties": {"arguments": {"properties": {"erase": {"type": "boolean"}}}}},
        },
    ],
}  # fmt: skip


def drawn(group: Group) -> dict[str, Any]:
    """Every part of a form by its name."""
    found: dict[str, Any] = {group.name: group}
    for part in group.parts:
        found |= drawn(part) if isinstance(part, Group) else {part.name: part}
    return found


def test_tree_draws_groups_choices_and_what_is_missing() -> None:
    tree = tree_of(INVOICE, OUTPUT)
    assert tree is not None
    parts = drawn(tree)
    assert isinstance(parts["output.supplier"], Missing)
    assert (parts["output.currency"].label, parts["output.currency"].choices) == ("Currency", ("EUR", "GBP"))
    assert parts["output.lines"].adds
    assert not parts["output.lines.0"].removes, "one line there must be"
    assert parts["output.lines.0.price"].removes
    assert not parts["output.lines.0.what"].removes
    assert parts["output.lines.0.price"].limits == {"minimum": 0}
    assert parts["output.lines.0.tags"].adds


def test_an_added_entry_is_typed_and_read_back() -> None:
    more = reshaped(INVOICE, OUTPUT, "add output.lines")
    assert more["lines"][1] == {"tags": []}
    form = {"shape": json.dumps(more)} | {
        one.name: one.value for one in to_fields("json", INVOICE, OUTPUT, {"shape": json.dumps(more)})
    }
    form |= {"output.lines.1.what": "ink", "output.lines.1.price": "7"}
    assert from_form("json", INVOICE, OUTPUT, form)["lines"] == [
        OUTPUT["lines"][0], {"tags": [], "what": "ink", "price": 7},
    ]  # fmt: skip
    tree = tree_of(INVOICE, reshaped(INVOICE, more, "add output.lines"))
    assert tree is not None
    assert not drawn(tree)["output.lines"].adds, "three are the most"
    assert drawn(tree)["output.lines.2"].removes


def test_entries_of_lists_and_members_of_objects_come_and_go() -> None:
    tagged = reshaped(INVOICE, OUTPUT, "add output.lines.0.tags")
    assert tagged["lines"][0]["tags"] == [""]
    assert reshaped(INVOICE, tagged, "remove output.lines.0.tags.0") == OUTPUT
    assert reshaped(INVOICE, OUTPUT, "add output.supplier")["supplier"] == {}
    assert "price" not in reshaped(INVOICE, OUTPUT, "remove output.lines.0.price")["lines"][0]
    assert reshaped(None, {"a": [{"n": 3, "s": "x"}]}, "add output.a") == {
        "a": [{"n": 3, "s": "x"}, {"n": 0, "s": ""}]
    }
    assert reshaped(INVOICE, OUTPUT, "") == OUTPUT


@pytest.mark.parametrize(
    "wish", ["remove output.nothing", "add output.lines.9", "remove output.lines.x", "add output.currency",
             "remove output", "add output.lines.0.what.deep"],
)  # fmt: skip
def test_a_place_that_is_not_there_is_refused(wish: str) -> None:
    with pytest.raises(Invalid):
        reshaped(INVOICE, OUTPUT, wish)


OPEN = {
    "type": "object",
    "required": ["id"],
    "propertyNames": {"pattern": "^[a-z]"},
    "properties": {
        "id": {"type": "integer"},
        "prices": {"type": "object", "additionalProperties": {"type": "number", "title": "Price"}},
        "shut": {"type": "object", "additionalProperties": False, "properties": {"a": {"type": "string"}}},
    },
}
FREE = {"id": 1, "prices": {"de": 2.5}, "shut": {"a": "x"}, "extra": {"deep": [1]}, "empty": {}, "none": []}


def test_keys_that_no_schema_names_may_come_go_and_be_renamed() -> None:
    tree = tree_of(OPEN, FREE)
    assert tree is not None
    parts = drawn(tree)
    assert parts["output"].kinds == ("text", "number", "true or false", "null", "list", "object")
    assert parts["output.prices"].kinds == ("number",)
    assert parts["output.shut"].kinds == ()
    assert (parts["output.prices.de"].renames, parts["output.prices.de"].label) == (True, "de")
    assert [parts[f"output.{name}"].renames for name in ("id", "prices", "extra", "empty", "none")] == [
        False, False, True, True, True,
    ]  # fmt: skip
    assert not parts["output.id"].removes
    assert parts["output.extra"].removes
    assert parts["output.none"].kinds, "the first entry of a list chooses its kind"
    renamed = reshaped(OPEN, FREE, "rename output.extra", " more ")
    assert list(renamed) == ["id", "prices", "shut", "more", "empty", "none"], "in its place"
    assert renamed["more"] == FREE["extra"]
    assert reshaped(OPEN, FREE, "rename output.extra", "extra") == FREE
    assert "extra" not in reshaped(OPEN, FREE, "remove output.extra")
    assert reshaped(OPEN, FREE, "add output.none", kind="object")["none"] == [{}]


@pytest.mark.parametrize(
    ("kind", "value"),
    [("text", ""), ("number", 0), ("true or false", False), ("null", None), ("list", []), ("object", {})],
)
def test_a_new_key_has_the_kind_that_was_chosen(kind: str, value: Any) -> None:
    more = reshaped(None, {"a": {"b": 1}}, "new output.a", "x.% y", kind)
    assert json.dumps(more) == json.dumps({"a": {"b": 1, "x.% y": value}})
    tree = tree_of(None, more)
    assert tree is not None
    part = drawn(tree)["output.a.x%2E%25 y"]
    types = {"text": "string", "number": "number", "true or false": "boolean", "null": "null"}
    assert part.type == types[kind] if kind in types else isinstance(part, Group)


def test_a_new_key_is_what_the_schema_says_of_it() -> None:
    assert reshaped(OPEN, FREE, "new output.prices", "fr", "text")["prices"] == {"de": 2.5, "fr": 0}
    assert reshaped(OPEN, {"id": 1}, "new output", "shut", "number")["shut"] == {}
    chosen = {"additionalProperties": {"enum": ["yes", "no"]}}
    assert reshaped(chosen, {"a": "no"}, "new output", "b", "text") == {"a": "no", "b": "yes"}


@pytest.mark.parametrize(
    ("wish", "key", "pointer"),
    [
        ("new output", "id", "new.output"), ("new output", " ", "new.output"),
        ("new output", "9a", "new.output"), ("new output", "a\u202eb", "new.output"),
        ("new output", "a" * 201, "new.output"), ("rename output.extra", "id", "name.output.extra"),
        ("rename output.extra", "", "name.output.extra"), ("new output.shut", "b", "output"),
        ("new output.none", "b", "output"), ("rename output.nothing", "b", "output"),
        ("rename output.none.0", "b", "output"), ("new output.id", "b", "output"),
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_is_refused_at_its_field(wish: str, key: str, pointer: str) -> None:
    with pytest.raises(Invalid) as refused:
        reshaped(OPEN, FREE, wish, key, "text")
    assert [fault["pointer"] for fault in refused.value.errors] == [pointer]


def test_arguments_are_typed_by_the_tool_that_is_called() -> None:
    places = {place.name: place for place in places_of(CALL, {"name": "refund", "arguments": {"amount": 3}})}
    assert places["output.arguments.amount"].type == "integer"
    assert places["output.arguments.amount"].limits == {"minimum": 1}
    places = {place.name: place for place in places_of(CALL, {"name": "close", "arguments": {}})}
    assert places["output.arguments.erase"].type == "boolean"
    assert "output.arguments.amount" not in places


KEYS = st.text("a.% é", max_size=3)
SOME = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.text("a.% é", max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text("a.%", max_size=3), SOME, min_size=1, max_size=3))
def test_a_form_drawn_in_groups_leaves_an_untouched_output_alone(output: Any) -> None:
    tree = tree_of(None, output)
    assert tree is not None
    form = {name: part.value for name, part in drawn(tree).items() if isinstance(part, Field)}
    assert json.dumps(from_form("json", None, output, form)) == json.dumps(output)
    # Each entry of each list goes, and nothing else with it.
    for name, part in drawn(tree).items():
        if isinstance(part, Group) and part.removes and part.name.rpartition(".")[0] in drawn(tree):
            assert len(json.dumps(reshaped(None, output, f"remove {name}"))) < len(json.dumps(output))
