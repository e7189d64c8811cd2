"""The words a text is found by."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewqueue.text import MOST_WORDS, as_text, folded, leaves, phrase, pretty_json, tokens, words


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Where is my parcel?", ["where", "is", "my", "parcel"]),
        ("ZURÜCK zurück Zuruck", ["zuruck", "zuruck", "zuruck"]),
        ("order_17-B", ["order", "17", "b"]),
        ("ＡＢＣ １２３", ["abc", "123"]),
        ("自転車を返品", ["自転", "転車", "車を", "を返", "返品"]),
        ("車", ["車"]),
        ("", []),
        ("?! — …", []),
    ],
)
def test_words_are_folded_and_scripts_without_spaces_are_paired(text: str, found: list[str]) -> None:
    assert words(text) == found


@pytest.mark.parametrize(
    ("asked", "text", "there"),
    [
        ("left on Monday", "It LEFT, on\nMönday!", True),
        ("left on mond", "It left on Monday", False),
        ("eft on", "It left on Monday", False),
        ("on left", "It left on Monday", False),
        ("order 17", "order_17", True),
        ("order 17", "order 1 7", False),
        ("車を返", "自転車を返品", True),
        ("転を", "自転車を返品", False),
        ("abc 車", "自転車abc車", True),
        (".* (a|b)", "x a, b", True),
    ],
)
def test_a_phrase_is_found_whatever_stands_between_its_words(asked: str, text: str, there: bool) -> None:
    pattern = phrase(asked)
    assert pattern is not None
    assert bool(pattern.search(folded(text))) is there


@given(st.text(), st.text())
def test_a_phrase_is_found_where_it_was_taken_from(before: str, text: str) -> None:
    pattern = phrase(text)
    assert (pattern is None) is (words(text) == [])
    if pattern is not None:
        assert pattern.search(folded(f"{before}\n{text}\n"))


def test_words_end_after_two_thousand() -> None:
    assert len(words("word " * 10_000)) == MOST_WORDS


@given(st.text())
def test_words_are_letters_and_digits_alone(text: str) -> None:
    assert all(word.isalnum() for word in words(text))


def test_as_text_leaves_a_string_alone_and_keeps_the_order_of_keys() -> None:
    assert as_text("  as it is\n") == "  as it is\n"
    assert as_text({"b": 1, "a": "ü"}) == pretty_json({"b": 1, "a": "ü"}) == '{\n  "b": 1,\n  "a": "ü"\n}'


@pytest.mark.parametrize(("text", "count"), [("", 0), ("a", 1), ("abcd", 1), ("abcde", 2), ("日本", 2)])
def test_tokens_are_a_quarter_of_the_bytes(text: str, count: int) -> None:
    assert tokens(text) == count


def test_leaves_are_what_stands_in_the_fields() -> None:
    value = {"kind": "invoice", "lines": [{"what": "ink", "n": 0}, {"what": "", "n": None}], "paid": False}
    assert leaves(value) == ["invoice", "ink", "0", "false"]
    assert leaves({}) == leaves([None, []]) == []
