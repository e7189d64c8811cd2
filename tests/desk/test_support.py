"""Hints on passages: by shared words alone, not a character lost."""

from __future__ import annotations

import html
import re

from hypothesis import given
from hypothesis import strategies as st

from reviewqueue.content.hidden import plain
from reviewqueue.desk.support import support

PASSAGES = [
    {"text": "Frames: 5 years. Components are covered for 2 years. The receipt is enough as proof."},
    {"text": "保証期間は二年です。"},
]


def test_each_sentence_leads_to_the_place_that_shares_its_words() -> None:
    found = support("Components are covered for **2 years**. Your dog is very welcome here.", PASSAGES)
    first, second = found.hints
    assert (first.passage, first.share, first.numbers) == (1, 100, ())
    assert f'<mark id="{first.place}"> Components are covered for 2 years.</mark>' in found.texts[0]
    assert (second.passage, second.place) == (None, None)
    assert found.unsupported == 1


def test_numbers_that_a_passage_lacks_are_named() -> None:
    (hint,) = support("Components are covered for 7 years.", PASSAGES).hints
    assert (hint.passage, hint.numbers) == (1, ("7",))


def test_scripts_without_spaces_are_compared_too() -> None:
    (hint,) = support("保証期間は三年です。", PASSAGES).hints
    assert hint.passage == 2


def test_there_is_no_hint_without_passages_or_for_other_outputs() -> None:
    assert support("Components are covered for 2 years.", None).hints == ()
    assert support({"a": 1}, PASSAGES).hints == ()
    assert support("Components are covered for 2 years.", [{"url": "https://example.org"}]).hints == ()


@given(st.text(max_size=300), st.text(max_size=300))
def test_a_marked_passage_keeps_every_character_and_stays_inert(text: str, output: str) -> None:
    (drawn,) = support(output + text, [{"text": text}]).texts
    without = re.sub(r'<mark id="passage-1-\d+">|</mark>', "", str(drawn))

    # Hidden characters are drawn by the stretch, so drawn stretches are compared with their marks undone.
    def bare(markup: str) -> str:
        return html.unescape(re.sub(r"<[^>]*>", "", markup))

    assert "<script" not in drawn
    if text.isprintable():
        assert bare(without) == bare(str(plain(text)))


def test_hostile_passages_stay_text() -> None:
    hostile = "<img src=x onerror=alert(1)> Components are covered for two years."
    (drawn,) = support("Components are covered for two years.", [{"text": hostile}]).texts
    assert "<img" not in drawn
