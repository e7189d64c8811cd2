"""Which passage each sentence of an output leans on, told by the words they share: a hint, no proof.

A sentence can share every word of a passage and say the opposite. Must never be shown without saying so.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from reviewqueue.content.diff import WORDS
from reviewqueue.content.show import clip, plain

MAX_SENTENCES = 60  # of the output; more would be no help
MAX_PASSAGE = 20_000  # characters of each passage that are looked at
SHARED, SOME = 0.6, 0.35  # of a sentence's words
LEAST_WORDS = 3

_SENTENCE = re.compile(r"[^.!?。！？\n]*(?:\.(?=\d)[^.!?。！？\n]*)*(?:[.!?。！？]+|\n|$)")
_MARKS = re.compile(r"\[\d+\]|[*_`#>|\[\]]+")  # of Markdown, and of sources by number
_WIDE = re.compile("[\u2e80-\u9fff\uf900-\ufaff\u0e00-\u0eff\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class Hint:
    """One sentence and the passage that shares most of its words; `place` is None when none shares enough."""

    sentence: Markup
    share: int  # of its words, in per cent
    passage: int | None  # from 1
    place: str | None  # the id of the matching sentence
    numbers: tuple[str, ...]  # in the sentence, and not in that passage


@dataclass(frozen=True)
class Support:
    """Hints for an output, and its passages with the places they lead to."""

    hints: tuple[Hint, ...]
    texts: tuple[Markup, ...]

    @property
    def unsupported(self) -> int:
        """How many sentences share too few words with any passage."""
        return sum(hint.place is None for hint in self.hints)


def support(output: Any, context: Sequence[Any] | None) -> Support:
    """Hints for the sentences of a text `output`; none for other outputs or without passages."""
    texts = [str(entry.get("text") or "") for entry in context or ()]
    if not isinstance(output, str) or not any(text.strip() for text in texts):
        return Support((), tuple(plain(text) for text in texts))
    passages = [[(part, _words(part)) for part in _sentences(text[:MAX_PASSAGE])] for text in texts]
    wholes = [set().union(*(words for _, words in parts)) if parts else set() for parts in passages]
    hints: list[Hint] = []
    led: dict[tuple[int, int], str] = {}
    for sentence in _sentences(_MARKS.sub(" ", output)):
        words = _words(sentence)
        if len(words) < LEAST_WORDS or len(hints) >= MAX_SENTENCES:
            continue
        best = max(range(len(wholes)), key=lambda at: len(words & wholes[at]))
        share = len(words & wholes[best]) / len(words)
        place = None
        if share >= SOME:
            parts = passages[best]
            spot = max(range(len(parts)), key=lambda at: len(words & parts[at][1]))
            place = led.setdefault((best, spot), f"passage-{best + 1}-{spot + 1}")
        missing = sorted(word for word in words - wholes[best] if word[0].isdigit()) if place else []
        hints.append(
            Hint(plain(clip(sentence, 160)), round(share * 100), best + 1 if place else None, place,
                 tuple(missing[:5]))
        )  # fmt: skip
    drawn = tuple(_marked(text, passages[at], at, led) for at, text in enumerate(texts))
    return Support(tuple(hints), drawn)


def _marked(text: str, parts: list[tuple[str, set[str]]], at: int, led: dict[tuple[int, int], str]) -> Markup:
    """A passage with the sentences that hints lead to marked; not a character of it is lost."""
    pieces = []
    for spot, (part, _) in enumerate(parts):
        place = led.get((at, spot))
        pieces.append(Markup('<mark id="{}">{}</mark>').format(place, plain(part)) if place else plain(part))
    return Markup("").join(pieces) + plain(text[MAX_PASSAGE:])


def _sentences(text: str) -> list[str]:
    return [part for part in _SENTENCE.findall(text) if part]


def _words(text: str) -> set[str]:
    """The words that carry a sentence, cut to their beginnings: long ones, numbers, signs of wide scripts."""
    found = set()
    for word in WORDS.findall(text.casefold()):
        if word[0].isdigit() or _WIDE.match(word):
            found.add(word)
        elif len(word) > 3 and word[0].isalpha():
            found.add(word[:6])
    return found
