from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewqueue.content.diff import same
from reviewqueue.content.fields import MAX_FIELDS, Field, from_form, to_fields
from reviewqueue.content.show import pretty_json
from reviewqueue.errors import Invalid

REFUND = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["name", "arguments"],
    "properties": {"name": {"enum": ["refund", "cancel"]}, "arguments": {"$ref": "#/$defs/arguments"}},
    "$defs": {
        "arguments": {
            "type": "object",
            "required": ["amount"],
            "properties": {
                "amount": {"type": "number", "description": "in euros"},
                "count": {"type": "integer"},
                "reason": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "urgent": {"type": ["boolean", "null"]},
                "level": {"enum": [1, "1", None, "high"]},
            },
        }
    },
}


def browser(fields: list[Field], **changed: str) -> dict[str, str]:
    """What a browser posts of `fields`: every line end as CRLF."""
    values = {field.name: field.value for field in fields} | changed
    return {
        name: value.replace("\r\n", "\n").replace("\r", "\n").replace("\n", "\r\n")
        for name, value in values.items()
    }


def edited(output: Any, schema: Any = None, kind: str = "json", **changed: str) -> Any:
    posted = {name.replace("__", "."): value for name, value in changed.items()}
    return from_form(kind, schema, output, browser(to_fields(kind, schema, output), **posted))


def identical(one: Any, two: Any) -> bool:
    return json.dumps(one) == json.dumps(two)


STORABLE = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
SOME_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | STORABLE
    | st.sampled_from(["3", "3.0", "true", "null", "", " ", "\n", "\r\n", "\r", "\na\r\nb", "[]", "{}", '"'])
    | st.sampled_from([1.0, -0.0, 0, 1e300, 5e-324, 2**53 + 1]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(STORABLE | st.sampled_from(["", ".", "a.b", "%2E", "0", "\r\n"]), inner, max_size=4)
    ),
    max_leaves=15,
).filter(lambda value: isinstance(value, dict | list))
SOME_SCHEMA = st.none() | st.fixed_dictionaries(
    {"type": st.sampled_from(["object", "array", "string"])},
    optional={
        "properties": st.dictionaries(
            st.sampled_from(["a", "", "0", "."]),
            st.sampled_from(
                [
                    {"type": "integer"},
                    {"type": ["string", "null"]},
                    {"enum": ["3", 3, None, "true", True]},
                    {"type": "object", "properties": {"x": {"type": "boolean"}}},
                    {"$ref": "#"},
                    {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
                ]
            ),
        ),
        "items": st.sampled_from([{"type": "number"}, {"enum": ["", "3", 3]}, {"$ref": "#"}]),
    },
)


@given(SOME_JSON, SOME_SCHEMA)
def test_from_form_gives_an_untouched_output_back(output: Any, schema: Any) -> None:
    assert identical(from_form("json", schema, output, browser(to_fields("json", schema, output))), output)


@given(SOME_JSON)
def test_from_form_gives_an_untouched_tool_call_back(arguments: Any) -> None:
    call = {"name": "refund", "arguments": {"of": arguments}}
    assert identical(
        from_form("tool_call", REFUND, call, browser(to_fields("tool_call", REFUND, call))), call
    )


@given(STORABLE | st.text("\r\na", max_size=8), st.sampled_from(["text", "markdown", "chat", "label"]))
def test_from_form_gives_an_untouched_text_back(text: str, kind: str) -> None:
    schema = {"enum": ["yes", "no"]} if kind == "label" else None
    output = (
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]
        if kind == "chat"
        else text
    )
    assert from_form(kind, schema, output, browser(to_fields(kind, schema, output))) == output


@given(SOME_JSON, SOME_JSON)
def test_from_form_takes_raw_json_instead(shown: Any, wanted: Any) -> None:
    got = from_form("json", None, shown, {"output": json.dumps(wanted)})
    assert same(got, wanted)


def test_to_fields_names_fields_by_their_path() -> None:
    output = {"items": [{"qty": 2, "sku": "A"}], "a.b": True, "note": None, "tags": []}
    fields = {field.name: field for field in to_fields("json", None, output)}
    assert {name: (field.type, field.value) for name, field in fields.items()} == {
        "output.items.0.qty": ("number", "2"),
        "output.items.0.sku": ("string", "A"),
        "output.a%2Eb": ("boolean", "true"),
        "output.note": ("null", "null"),
        "output.tags": ("json", "[]"),
    }
    assert fields["output.items.0.qty"].label == "items › 1 › qty"
    assert fields["output.a%2Eb"].choices == ("true", "false")


def test_to_fields_takes_types_choices_and_help_from_the_schema() -> None:
    call = {"name": "refund", "arguments": {"amount": 5, "reason": None}}
    fields = {field.name: field for field in to_fields("tool_call", REFUND, call)}
    assert fields["output.name"].choices == ("refund", "cancel")
    assert fields["output.name"].required
    amount = fields["output.arguments.amount"]
    assert (amount.type, amount.value, amount.required, amount.help) == ("number", "5", True, "in euros")
    assert fields["output.arguments.count"] == Field(
        "output.arguments.count", "arguments › count", "integer", "", (), False, "a whole number"
    )
    assert fields["output.arguments.level"].choices == ("", "1", '"1"', "null", "high")
    assert fields["output.arguments.urgent"].choices == ("", "true", "false", "null")


def test_to_fields_gives_long_or_broken_strings_a_text_area() -> None:
    types = {
        field.name: field.type for field in to_fields("json", None, {"a": "x" * 81, "b": "1\n2", "c": "1"})
    }
    assert types == {"output.a": "text", "output.b": "text", "output.c": "string"}


@pytest.mark.parametrize("output", [{}, [], list(range(MAX_FIELDS + 1))])
def test_to_fields_falls_back_to_raw_json(output: Any) -> None:
    (field,) = to_fields("json", None, output)
    assert (field.name, field.type, field.value) == ("output", "json", pretty_json(output))


def test_to_fields_shows_what_was_typed_when_the_form_comes_back() -> None:
    (field,) = to_fields("json", None, {"a": 1}, {"output.a": "x"})
    assert field.value == "x"


@pytest.mark.parametrize(
    ("shown", "typed", "wanted"),
    [
        (3, "4", 4),
        (3, "4.5", 4.5),
        (3, " 4 ", 4),
        (2.5, "3", 3.0),
        (2.5, "3.0", 3.0),
        (3.0, "3.0", 3.0),
        (2.5, "123456789012345678901", 123456789012345678901),
        ("3", "4", "4"),
        ("3", "true", "true"),
        ("a", "", ""),
        ("a", " b ", " b "),
        (True, "false", False),
        (None, '"text"', "text"),
        (None, "3", 3),
        (None, "", None),
        ([], '[{"x": 1.0}]', [{"x": 1.0}]),
        ({}, '{"x": "1"}', {"x": "1"}),
    ],
)
def test_from_form_keeps_types_without_a_schema(shown: Any, typed: str, wanted: Any) -> None:
    assert identical(edited({"v": shown, "w": 1}, output__v=typed), {"v": wanted, "w": 1})


@pytest.mark.parametrize(
    ("part", "shown", "typed", "wanted"),
    [
        ({"type": "integer"}, 3, "4", 4),
        ({"type": "integer"}, 3.0, "4", 4),
        ({"type": "integer"}, "3", "3", 3),
        ({"type": ["integer", "null"]}, 3, "null", None),
        ({"type": ["string", "null"]}, None, "3", "3"),
        ({"type": ["string", "null"]}, "a", "null", "null"),
        ({"enum": [1, "1"]}, 1, '"1"', "1"),
        ({"enum": ["a", "b"]}, "z", "b", "b"),
        ({"enum": ["5"]}, 5, '"5"', "5"),
        ({"type": ["boolean", "null"]}, True, "null", None),
    ],
)
def test_from_form_keeps_types_by_the_schema(part: Any, shown: Any, typed: str, wanted: Any) -> None:
    schema = {"type": "object", "properties": {"v": part}}
    assert identical(edited({"v": shown}, schema, output__v=typed) if shown != typed else from_form(
        "json", schema, {"v": shown}, {"output.v": typed}), {"v": wanted})  # fmt: skip


def test_from_form_adds_what_the_model_left_out() -> None:
    call = {"name": "refund", "arguments": {"amount": 5}}
    got = edited(call, REFUND, "tool_call", output__arguments__count="2", output__arguments__urgent="true")
    assert got == {"name": "refund", "arguments": {"amount": 5, "count": 2, "urgent": True}}


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"output.arguments.amount": "a lot"}, "output.arguments.amount"),
        ({"output.arguments.amount": ""}, "output.arguments.amount"),
        ({"output.arguments.amount": "1,5"}, "output.arguments.amount"),
        ({"output.arguments.amount": "NaN"}, "output.arguments.amount"),
        ({"output.arguments.amount": "1e999"}, "output.arguments.amount"),
        ({"output.arguments.amount": "9" * 5000}, "output.arguments.amount"),
        ({"output.arguments.count": "1.5"}, "output.arguments.count"),
        ({"output.arguments.urgent": "maybe"}, "output.arguments.urgent"),
        ({"output.name": "delete_everything"}, "output.name"),
        ({"output.arguments.other": "1"}, "output.arguments.other"),
        ({"output.": "1"}, "output."),
        ({"output.arguments.__class__": "1"}, "output.arguments.__class__"),
        ({"output": '{"name": "refund", "name": "cancel"}'}, "output"),
        ({"output": '{"a": NaN}'}, "output"),
        ({"output": "{"}, "output"),
        ({"output": "[" * 10_000}, "output"),
        ({"output": '"\\ud800"'}, "output"),
        ({"output": '{"name": "cancel"}', "output.arguments.amount": "6"}, "output"),
    ],
)
def test_from_form_refuses_and_names_the_field(form: dict[str, str], field: str) -> None:
    call = {"name": "refund", "arguments": {"amount": 5}}
    with pytest.raises(Invalid) as refused:
        from_form("tool_call", REFUND, call, form)
    assert refused.value.errors[0]["pointer"] == field
    assert refused.value.message


def test_from_form_takes_whichever_of_fields_and_raw_json_was_changed() -> None:
    shown = {"a": 1}
    both = {"output": pretty_json(shown), "output.a": "1"}
    assert from_form("json", None, shown, both) == {"a": 1}
    assert from_form("json", None, shown, both | {"output.a": "2"}) == {"a": 2}
    assert from_form("json", None, shown, both | {"output": '{"a": 3}'}) == {"a": 3}
    assert from_form("json", None, shown, {"output": " ", "output.a": "2"}) == {"a": 2}
    assert from_form("json", None, shown, {}) == {"a": 1}


def test_from_form_never_changes_what_was_shown() -> None:
    shown = {"a": [1, 2]}
    assert edited(shown, output__a__0="9") == {"a": [9, 2]}
    assert shown == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("shown", "typed", "wanted"),
    [
        ("a\nb", "a\r\nc", "a\nc"),
        ("a\r\nb", "a\r\nc\r\nd", "a\r\nc\r\nd"),
        ("a\r\nb", "a\nc", "a\r\nc"),
        ("\n\na", "\r\n\r\nb", "\n\nb"),
        ("a", "", ""),
        ("a\rb\nc", "a\r\nb\r\nc", "a\rb\nc"),
    ],
)
def test_from_form_keeps_the_line_ends_of_a_text(shown: str, typed: str, wanted: str) -> None:
    assert from_form("markdown", None, shown, {"output": typed}) == wanted


def test_from_form_replaces_the_last_assistant_turn_alone() -> None:
    chat = [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "?"},
    ]
    assert from_form("chat", None, chat, {"output": "c"}) == [
        chat[0],
        {"role": "assistant", "content": "c"},
        chat[2],
    ]
    turns = [{"role": "assistant", "content": "new"}]
    assert from_form("chat", None, chat, {"output": json.dumps(turns)}) == turns
    with pytest.raises(Invalid):
        from_form("chat", None, chat, {"output": '[{"role": "assistant", "role": "user", "content": "x"}]'})
    with pytest.raises(Invalid):
        from_form("chat", None, chat, {"output": '[{"role": "pilot", "content": "x"}]'})


def test_from_form_takes_a_label_of_the_list_alone() -> None:
    schema = {"enum": ["yes", "no"]}
    (field,) = to_fields("label", schema, "perhaps\n")
    assert (field.name, field.type, field.choices) == ("output", "enum", ("perhaps\n", "yes", "no"))
    assert from_form("label", schema, "perhaps\n", {"output": "no"}) == "no"
    with pytest.raises(Invalid):
        from_form("label", schema, "perhaps\n", {"output": "never"})
