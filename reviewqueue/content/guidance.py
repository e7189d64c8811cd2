"""A project's guidelines, and the sentence in them that says what a reason is for.

Guidelines speak of a reason where its name stands out: as a heading, in bold or italics, or as the first cell
of a table's row. Must never return a piece of them that did not go through `show`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from markdown_it.token import Token
from markupsafe import Markup

from reviewqueue.content.show import clip, markdown, plain

LONGEST = 280  # characters of a sentence

_END = re.compile(r"[.!?…][\"'”’)\]]*\s+(?![a-z])|[。！？]\s*")
_STANDS_OUT = ("strong", "em")


@dataclass(frozen=True)
class Told:
    """What the guidelines say of one reason, and the id of the place where they do."""

    sentence: Markup
    place: str


@dataclass(frozen=True)
class Guidelines:
    """Guidelines to be read, and what they tell of reasons, by reason."""

    markup: Markup
    told: Mapping[str, Told]


@lru_cache(maxsize=64)
def guided(text: str, reasons: tuple[str, ...]) -> Guidelines:
    """The guidelines `text` as markup, with the first place that speaks of each of the `reasons`."""
    told: dict[str, Told] = {}

    def mark(tokens: Sequence[Token]) -> None:
        wanted = {_name(reason): (number, reason) for number, reason in enumerate(reasons, 1)}
        for name, place, sentence in _spoken_of(tokens):
            number, reason = wanted.pop(_name(name), (0, ""))
            if reason:
                place.attrSet("id", f"guideline-{number}")
                told[reason] = Told(plain(clip(sentence or name, LONGEST)), f"guideline-{number}")

    markup = markdown(text, mark)
    return Guidelines(markup, {name: one for name, one in told.items() if f'id="{one.place}"' in markup})


def _spoken_of(tokens: Sequence[Token]) -> Iterator[tuple[str, Token, str]]:
    """Everything that stands out, in order: its text, what to give an id, and the sentence that goes on."""
    for at, token in enumerate(tokens):
        if token.type != "inline":
            continue
        text, stressed = _read(token)
        if tokens[at - 1].type == "heading_open":
            yield text, tokens[at - 1], _beneath(tokens[at + 1 :])
        elif tokens[at - 1].type == "td_open" and tokens[at - 2].type == "tr_open":
            yield text, tokens[at - 2], _rest_of_row(tokens[at + 1 :])
        for opened, start, end in stressed:
            yield text[start:end], opened, _sentence(text, start, end)


def _read(inline: Token) -> tuple[str, list[tuple[Token, int, int]]]:
    """A paragraph's text, and what of it stands out: where that begins and ends."""
    text, opened, stressed = "", list[tuple[Token, int]](), list[tuple[Token, int, int]]()
    for child in inline.children or ():
        kind, _, edge = child.type.rpartition("_")
        if kind in _STANDS_OUT and edge == "open":
            opened.append((child, len(text)))
        elif kind in _STANDS_OUT and opened:
            token, start = opened.pop()
            stressed.append((token, start, len(text)))
        else:
            text += child.content or (" " if child.type.endswith("break") else "")
    return text, stressed


def _beneath(following: Sequence[Token]) -> str:
    """The paragraph under a heading; nothing when another heading comes first."""
    for before, token in pairwise(following):
        if token.type == "inline":
            return "" if before.type == "heading_open" else _read(token)[0]
    return ""


def _rest_of_row(following: Sequence[Token]) -> str:
    cells = []
    for token in following:
        if token.type == "tr_close":
            break
        if token.type == "inline":
            cells.append(_read(token)[0])
    return " – ".join(cell for cell in cells if cell)


def _sentence(text: str, start: int, end: int) -> str:
    """The sentence around a stretch of `text`; when it is no more than that, the next one as well."""
    begin = max((found.end() for found in _END.finditer(text, 0, start)), default=0)
    for found in _END.finditer(text, end):
        if _name(text[begin : found.end()]) != _name(text[start:end]):
            return text[begin : found.end()]
    return text[begin:]


def _name(text: str) -> str:
    return " ".join(text.split()).strip(" .:;,–-").casefold()
