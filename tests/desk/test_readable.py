"""An item's parts as a person reads them."""

from __future__ import annotations

from typing import Any

import pytest

from reviewqueue.desk.readable import alternatives, changes, leads_to, line, passages, readable

BAD = '<img src=x onerror=alert(1)>"&'


def test_readable_by_kind() -> None:
    assert readable("a **b**").rich is None
    assert readable("a **b**", "markdown").rich == "<p>a <strong>b</strong></p>\n"
    assert readable({"a": 1}).rich is not None
    turns = readable([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}]).turns
    assert [(turn.role, turn.text, turn.assistant) for turn in turns] == [
        ("user", "Hi", False), ("assistant", "Yes", True),
    ]  # fmt: skip
    assert readable("a     b\nc     d\ne     f").columns


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "It would call <b>refund</b> with no arguments."),
        ({"amount": 20}, "It would call <b>refund</b> with amount <b>20</b>."),
        ({"a": 1, "b": "x", "c": [{"n": 1}, {"n": 2}]},
         "It would call <b>refund</b> with a <b>1</b>, b <b>“x”</b> and c <b>2 entries</b>."),
    ],
)  # fmt: skip
def test_readable_tells_a_call_in_one_sentence(arguments: dict[str, Any], sentence: str) -> None:
    assert readable({"name": "refund", "arguments": arguments}, "tool_call").sentence == sentence


@pytest.mark.parametrize("kind", ["text", "markdown", "json", "label", "chat", "tool_call"])
def test_nothing_becomes_markup(kind: str) -> None:
    values: list[Any] = [
        BAD, {BAD: BAD}, [{"role": BAD, "content": BAD}], {"name": BAD, "arguments": {BAD: [BAD]}}, [[BAD]],
    ]  # fmt: skip
    for value in values:
        shown = readable(value, kind)
        parts = [shown.raw, shown.rich, shown.sentence, line(value)]
        parts += [part for turn in shown.turns for part in (turn.role, turn.text)]
        edit = changes(kind, value, values[0] if value != values[0] else BAD * 2)
        parts += [
            edit.words,
            *(part for place in edit.places for part in (place.pointer, place.before, place.after)),
        ]
        for passage in passages([{"title": BAD, "text": BAD, "url": BAD}]):
            parts += [passage.title, passage.text, passage.address]
        parts += [other.text for other in alternatives(value, [value])]
        assert "<img" not in "".join(str(part) for part in parts if part is not None)


def test_passages_lead_through_our_own_page() -> None:
    found = passages([{"title": "T", "text": "x", "url": "https://example.org/a?b=c&d"}, {"text": "only"}])
    assert found[0].leads == "/leave?to=https%3A%2F%2Fexample.org%2Fa%3Fb%3Dc%26d"
    assert (found[1].leads, found[1].address, found[1].title) == (None, None, "Untitled passage")
    assert leads_to("javascript:alert(1)") is None


def test_alternatives_are_counted_and_told_apart_by_type() -> None:
    found = alternatives(1, [1, 1.0, 1, "1"])
    assert [(other.value, other.count, other.same) for other in found] == [
        ("1", 2, True), ("1.0", 1, False), ("1", 1, False),
    ]  # fmt: skip


def test_changes_by_kind() -> None:
    assert not changes("text", "a", "a")
    assert str(changes("text", "by Monday", "by Friday").words) == "by <del>Monday</del><ins>Friday</ins>"
    label = changes("label", "top_up_limits", "card_linking").words  # a label is one word
    assert str(label) == "<del>top_up_limits</del><ins>card_linking</ins>"
    [place] = changes("json", {"a": 1, "b": 2}, {"a": 1, "b": 3}).places
    assert (place.pointer, place.before, place.after) == ("b", "2", "3")
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day"}]
    edited = [chat[0], {"role": "assistant", "content": "Good night"}]
    assert str(changes("chat", chat, edited).words) == "Good <del>day</del><ins>night</ins>"
