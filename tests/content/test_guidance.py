"""What guidelines say of a reason: found where its name stands out, safe to show, linked to its place."""

from __future__ import annotations

import re

import pytest

from reviewqueue.content.guidance import LONGEST, guided
from reviewqueue.content.show import markdown

CASES = [
    ("## Tone\n\nBe kind. Be brief.\n\nMore.", "Be kind. Be brief.", "h2"),
    (
        "Read it twice. *Tone* is how it sounds, e.g. curt. The rest.",
        "Tone is how it sounds, e.g. curt.",
        "em",
    ),
    ("- first\n- **Tone.** Curt or\n  gushing. Else.", "Tone. Curt or gushing.", "strong"),
    ("| Reason | For |\n|---|---|\n| tone | curt, *blaming* |\n", "curt, blaming", "tr"),
    ("1. **tone**: `curt`", "tone: curt", "strong"),
    ("语气。 **tone** 不要生硬。其他。", "tone 不要生硬。", "strong"),
    ("## Tone\n\n## Facts\n\nRight.", "Tone", "h2"),
]


@pytest.mark.parametrize(("text", "sentence", "tag"), CASES)
def test_the_first_place_where_a_reason_stands_out_is_told(text: str, sentence: str, tag: str) -> None:
    found = guided(text, ("format", "tone"))
    assert found.told.keys() == {"tone"}
    assert found.told["tone"].sentence == sentence.strip()
    assert re.search(rf'<{tag} id="guideline-2"', found.markup)
    assert re.sub(r' id="guideline-2"', "", found.markup) == markdown(text), "nothing else is changed"


def test_a_reason_that_only_occurs_is_not_told() -> None:
    text = "The tone should be kind. **Tone of voice** matters.\n\n```\n## tone\n```"
    assert guided(text, ("tone",)).told == {}
    assert guided("", ("tone",)).told == {}
    assert guided("## tone\n\n" + "[" * 6_000, ("tone",)).told == {}, "too tangled to be more than plain text"


def test_what_guidelines_say_is_as_safe_as_the_guidelines() -> None:
    text = '**<img src=x onerror=alert(1)>** is <b id="guideline-1">bad</b>.\n\n*tone* a\u202eb <script>'
    found = guided(text, ("<img src=x onerror=alert(1)>", "tone"))
    assert "<img" not in found.markup
    assert re.findall(r'<\w+ id="guideline-1"', found.markup) == ['<strong id="guideline-1"']
    assert "&lt;script&gt;" in found.told["tone"].sentence
    assert "⟨U+202E⟩" in found.told["tone"].sentence
    assert len(guided("*tone* " + "word " * 999, ("tone",)).told["tone"].sentence) <= LONGEST
