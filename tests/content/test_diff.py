from __future__ import annotations

import copy
import itertools
import time
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reviewqueue.content import diff
from reviewqueue.content.diff import Op, paths, same, to_markup, words

SOME_TEXT = st.text("ab \n.,é東京สวั\u200dकि👩", max_size=60) | st.text(max_size=60)
SOME_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, 1.5])
    | st.text("a/~.", max_size=3),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("ab/~", max_size=2), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(SOME_TEXT, SOME_TEXT)
def test_words_gives_both_sides_back(before: str, after: str) -> None:
    ops = words(before, after)
    assert "".join(op.before for op in ops) == before
    assert "".join(op.after for op in ops) == after
    for op in ops:
        assert (op.kind == "equal") == (op.before == op.after)
        assert bool(op.before) == (op.kind in ("equal", "delete", "replace"))
        assert bool(op.after) == (op.kind in ("equal", "insert", "replace"))
    assert all(one.kind != two.kind for one, two in itertools.pairwise(ops))


def test_words_joins_changes_across_a_space() -> None:
    assert words("the quick brown fox.", "a slow brown fox!") == [
        Op("replace", "the quick", "a slow"),
        Op("equal", " brown fox", " brown fox"),
        Op("replace", ".", "!"),
    ]


def test_words_goes_by_character_where_there_are_no_spaces() -> None:
    assert words("東京は晴れ", "東京は雨")[1:] == [Op("replace", "晴れ", "雨")]
    assert words("สวัสดีครับ", "สวัสดีค่ะ")[0] == Op("equal", "สวัสดี", "สวัสดี")


def test_words_keeps_a_letter_and_its_marks_together() -> None:
    assert words("मैं किताब", "मैं किताबें")[1] == Op("replace", "किताब", "किताबें")


def test_words_of_equal_texts_is_one_step_or_none() -> None:
    assert words("same", "same") == [Op("equal", "same", "same")]
    assert words("", "") == []


def test_words_falls_back_to_sentences_when_too_long(monkeypatch: Any) -> None:
    monkeypatch.setattr(diff, "MAX_PAIRS", 60)
    before = "One first line.\nTwo middle words here.\nThree.\nFour last line."
    after = "Zero first line.\nTwo middle words here.\nThree.\nFour final line."
    ops = words(before, after)
    assert "".join(op.before for op in ops) == before
    assert "".join(op.after for op in ops) == after
    assert Op("replace", "One", "Zero") in ops
    assert Op("replace", "last", "final") in ops


def test_words_of_very_long_texts_comes_in_time() -> None:
    before = " ".join(f"w{n % 997}" for n in range(200_000))
    after = " ".join(f"w{n % 991}" for n in range(200_000))
    began = time.process_time()
    ops = words(before, after)
    assert time.process_time() - began < 10
    assert "".join(op.after for op in ops) == after


def test_to_markup_escapes_and_marks_changes() -> None:
    shown = to_markup(words("a <b> c\nd", "a <i>\u202e c\n\nd"))
    assert "<del>b</del><ins>i</ins>" in shown
    assert "⟨U+202E⟩" in shown
    assert "<b>" not in shown
    assert '<ins><span class="line-end" title="line end">↵</span>\n</ins>' in shown


@given(SOME_JSON, SOME_JSON)
def test_paths_gives_the_other_side_back(before: Any, after: Any) -> None:
    assert same(_applied(before, paths(before, after)), after)
    assert paths(before, before) == []


def test_paths_tells_types_apart_and_names_the_place() -> None:
    changes = paths(
        {"a": 1, "b": [1, 2], "c": {"d/e~": True}}, {"a": 1.0, "b": [1], "c": {"d/e~": 1}, "x": None}
    )
    assert [(change.pointer, change.kind) for change in changes] == [
        ("/a", "changed"), ("/b/1", "removed"), ("/c/d~1e~0", "changed"), ("/x", "added")
    ]  # fmt: skip


def test_paths_tells_too_many_changes_as_one() -> None:
    before, after = list(range(5000)), list(range(1, 5001))
    assert [change.pointer for change in paths(before, after)] == [""]


def test_same_ignores_the_order_of_keys_alone() -> None:
    assert same({"a": 1, "b": 2}, {"b": 2, "a": 1})
    assert not same(1, 1.0)
    assert not same(1, True)
    assert not same([1, 2], [2, 1])


def _applied(value: Any, changes: list[diff.Change]) -> Any:
    value = copy.deepcopy(value)
    removed = [change for change in reversed(changes) if change.kind == "removed"]
    for change in [*removed, *(change for change in changes if change.kind != "removed")]:
        if change.pointer == "":
            return change.after
        *parents, last = [
            step.replace("~1", "/").replace("~0", "~") for step in change.pointer.split("/")[1:]
        ]
        place = value
        for step in parents:
            place = place[int(step)] if isinstance(place, list) else place[step]
        key: Any = int(last) if isinstance(place, list) else last
        if change.kind == "removed":
            del place[key]
        elif change.kind == "added" and isinstance(place, list):
            place.insert(key, change.after)
        else:
            place[key] = change.after
    return value
