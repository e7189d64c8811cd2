"""Which characters of a text cannot be seen, or turn others around, and how they are drawn.

What a reviewer sees is what is released, so nothing invisible may pass unmarked. Must never drop or
replace a visible character.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

_UNSEEN_CATEGORIES = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}
_SEEN_ALL_THE_SAME = set(
    " \n\t\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd"
)
# Letters, marks and symbols by category, blank on every screen: fillers, the blank Braille cell, variation
# selectors, inherent vowels. From Default_Ignorable_Code_Point of Unicode's DerivedCoreProperties.txt.
_BLANK = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufffc\U0001d159\U000e0100-\U000e01ef]"
)
_CONTROL_NAMES = {
    0x00: "NULL",
    0x08: "BACKSPACE",
    0x0D: "CARRIAGE RETURN",
    0x1B: "ESCAPE",
    0x7F: "DELETE",
    0x85: "NEXT LINE",
}
_NAMELESS = {"Cc": "CONTROL CHARACTER", "Co": "PRIVATE USE CHARACTER", "Cs": "LONE SURROGATE"}

_JOINED = (
    "[\u0600-\u061b\u061d-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u17b3\u17b6-\u17ff"
    "\ufb50-\ufdff\ufe70-\ufefc]"
)
_VIRAMA = "[\u094d\u09cd\u0a4d\u0acd\u0b4d\u0bcd\u0c4d\u0ccd\u0d4d\u0dca\u1039\u17d2]"
_EMOJI = (
    "[\u00a9\u00ae\u203c\u2049\u2122\u2139\u2194-\u21aa\u231a-\u23ff\u24c2\u25aa-\u27bf\u2934\u2935\u2b05-\u2b55"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff][\ufe0e\ufe0f]?[\U0001f3fb-\U0001f3ff]?"
)
_FLAG_TAGS = "|".join("".join(chr(0xE0000 + ord(c)) for c in flag) for flag in ("gbeng", "gbsct", "gbwls"))
# A joiner inside a Persian or Hindi word, in a family emoji, or a hard space before a French colon is how
# these are written; shouting there would teach reviewers to overlook the marks. The whole cluster is
# matched because a tag in its middle would break its shaping. The conditions follow RFC 5892 appendix A.1
# and A.2; only the three flags with tags that exist are let off, for tags can spell out whole sentences.
_IN_PLACE = re.compile(
    f"{_JOINED}+(?:[\u200c\u200d]{_JOINED}+)*(?:(?<={_VIRAMA})[\u200c\u200d])?"
    f"|\U0001f3f4(?:{_FLAG_TAGS})\U000e007f"
    f"|{_EMOJI}(?:\u200d{_EMOJI}){{0,7}}|[0-9#*]\ufe0f\u20e3"
    "|[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff][\ufe00-\ufe02\U000e0100-\U000e01ef]"
    "|[\u00a0\u202f](?=[:;!?»%€])|(?<=«)[\u00a0\u202f]|(?<=[0-9])[\u00a0\u202f](?=[0-9])|\u3000|\r(?=\n)"
)


@dataclass(frozen=True)
class HiddenChar:
    """One kind of hidden character: `codepoint` as `U+202E`; `in_place` where its script needs it."""

    name: str
    codepoint: str
    count: int
    in_place: bool = False


def hidden_characters(text: str) -> list[HiddenChar]:
    """Every hidden character of `text` with its count, those out of place first, most frequent first."""
    counts: Counter[tuple[bool, str]] = Counter()
    for kind, piece in _pieces(text):
        if kind != "seen":
            counts.update((kind == "in_place", char) for char in piece if _is_hidden(char))
    found = [HiddenChar(_name(char), _code(char), n, in_place) for (in_place, char), n in counts.items()]
    return sorted(found, key=lambda char: (char.in_place, -char.count, char.codepoint))


def plain(text: str) -> Markup:
    """`text` escaped, each run of hidden characters drawn as a mark such as ⟨U+202E⟩ with its name."""
    return Markup("").join(_drawn(kind, piece) for kind, piece in _pieces(text))


def _drawn(kind: str, piece: str) -> Markup:
    if kind == "seen":
        return escape(piece)
    names = list(dict.fromkeys(f"{_code(char)} {_name(char)}" for char in piece if _is_hidden(char)))
    title = ", ".join(names[:8]) + (" …" if len(names) > 8 else "")
    if kind == "in_place":
        # A parser turns a carriage return into a line feed, which would show as a second line end.
        shown = "␍" if piece == "\r" else piece
        return Markup('<span class="hidden-char-quiet" title="{}">{}</span>').format(title, shown)
    marks = "".join(_mark(run[1], len(run[0])) for run in re.finditer(r"(.)\1*", piece, re.DOTALL))
    return Markup('<span class="hidden-char" title="{}">{}</span>').format(title, marks)


def _mark(char: str, times: int) -> str:
    # A long run of one character is counted, else a text of nothing else would grow eightfold.
    return f"⟨{_code(char)} × {times}⟩" if times > 3 else f"⟨{_code(char)}⟩" * times


def _pieces(text: str) -> Iterator[tuple[Literal["seen", "in_place", "hidden"], str]]:
    """`text` cut into pieces, in order and complete: seen, hidden but in its place, or hidden."""
    unseen = sorted(char for char in set(text) if _is_hidden(char))
    if not unseen:
        yield "seen", text
        return
    # Built from the characters present: a class of all 970,000 hidden code points takes long to make.
    hidden = re.compile("([" + "".join(map(re.escape, unseen)) + "]+)")
    start = 0
    for match in _IN_PLACE.finditer(text):
        if hidden.search(match[0]):
            yield from _split(hidden, text[start : match.start()])
            yield "in_place", match[0]
            start = match.end()
    yield from _split(hidden, text[start:])


def _split(hidden: re.Pattern[str], text: str) -> Iterator[tuple[Literal["seen", "hidden"], str]]:
    for at, piece in enumerate(hidden.split(text)):
        if piece:
            yield "hidden" if at % 2 else "seen", piece


def _is_hidden(char: str) -> bool:
    if char in _SEEN_ALL_THE_SAME:
        return False
    return unicodedata.category(char) in _UNSEEN_CATEGORIES or bool(_BLANK.match(char))


def _code(char: str) -> str:
    return f"U+{ord(char):04X}"


def _name(char: str) -> str:
    known = unicodedata.name(char, "") or _CONTROL_NAMES.get(ord(char), "")
    return known or _NAMELESS.get(unicodedata.category(char), "UNASSIGNED CHARACTER")
