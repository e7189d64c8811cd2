"""What an edit changed: between two texts word by word, between two JSON values path by path.

Must never lose a character: the operations, applied, give both sides back exactly.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from markupsafe import Markup
from rapidfuzz.distance import Indel

from reviewqueue.content.show import plain

# Tokens before times tokens after. The alignment keeps one bit for each pair, so this is 50 MB and a tenth
# of a second; two texts of a megabyte would take gigabytes.
MAX_PAIRS = 400_000_000
MAX_CHANGES = 1_000
MAX_DEPTH = 64

_CJK = "\u2e80-\u2fff\u3005-\u3007\u3021-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
_CJK_MARKS = "\u3099\u309a\ufe00-\ufe0f\U000e0100-\U000e01ef"
_THAI, _THAI_MARKS = "\u0e00-\u0eff", "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece"
# Scripts without spaces go by character, marks kept with their letter. A word is whatever else is no
# ASCII or general punctuation: \w would cut Hindi at every vowel sign. Joiners (200C, 200D) stay inside.
WORDS = re.compile(
    rf"\n|[^\S\n]+|[{_CJK}][{_CJK_MARKS}]*|[{_THAI}][{_THAI_MARKS}]*"
    rf"|[^\s\x00-/:-@\[-`{{-\x7f\u2000-\u200b\u200e-\u206f\u3000-\u3004\u3008-\u3020{_CJK}{_THAI}]+|.",
    re.DOTALL,
)
SENTENCES = re.compile("[^\n.!?。！？]*[\n.!?。！？]+|[^\n.!?。！？]+")


@dataclass(frozen=True)
class Op:
    """One step from `before` to `after`; a replacement has both, an insertion or deletion one of them."""

    kind: Literal["equal", "insert", "delete", "replace"]
    before: str
    after: str


@dataclass(frozen=True)
class Change:
    """One place (a JSON pointer) where two values differ; what is absent on one side is None there."""

    pointer: str
    before: Any
    after: Any
    kind: Literal["added", "removed", "changed"] = "changed"


def words(before: str, after: str) -> list[Op]:
    """The steps from `before` to `after`, word by word, neighbouring changes joined into one.

    What is too long to be aligned by words is aligned by lines and sentences, and words compared within
    the changed ones; what is too long even then is a single replacement: help must not come late.
    """
    if before == after:
        return [Op("equal", before, after)] if before else []
    return _joined(list(_aligned(before, after, [WORDS, SENTENCES, WORDS])))


def whole(before: str, after: str) -> list[Op]:
    """One text for the other, as a single step; nothing when both are empty."""
    if before and after:
        return [Op("replace", before, after)]
    return [Op("delete" if before else "insert", before, after)] if before or after else []


def to_markup(ops: Sequence[Op]) -> Markup:
    """`ops` as escaped text with `<del>` and `<ins>`; hidden characters and changed line ends are drawn."""
    shown = []
    for op in ops:
        if op.kind == "equal":
            shown.append(plain(op.after))
            continue
        if op.before:
            shown.append(Markup("<del>{}</del>").format(_with_line_ends(op.before)))
        if op.after:
            shown.append(Markup("<ins>{}</ins>").format(_with_line_ends(op.after)))
    return Markup("").join(shown)


def paths(before: Any, after: Any) -> list[Change]:
    """The places where two JSON values differ, in reading order; 1, 1.0 and true are different values.

    Lists are compared place by place: a pointer then means the same spot on both sides. More than
    `MAX_CHANGES` differences are told as one change of the whole, which is what they are.
    """
    changes: list[Change] = []
    for change in _differences("", before, after, 0):
        changes.append(change)
        if len(changes) > MAX_CHANGES:
            return [Change("", before, after)]
    return changes


def same(before: Any, after: Any) -> bool:
    """Whether a backend sees one JSON value: 1, 1.0 and true differ, the order of keys does not matter."""
    texts = (json.dumps(value, sort_keys=True) for value in (before, after))
    return next(texts) == next(texts)


def _aligned(before: str, after: str, sizes: list[re.Pattern[str]]) -> Iterator[Op]:
    """Align by the first of `sizes` (token patterns) that is coarse enough, changed stretches by the next."""
    if not sizes or not before or not after:
        yield from whole(before, after)
        return
    ours, theirs = sizes[0].findall(before), sizes[0].findall(after)
    head = _common(ours, theirs)
    tail = _common(ours[head:][::-1], theirs[head:][::-1])
    yield from _equal(ours[:head])
    changed, changed_to = ours[head : len(ours) - tail], theirs[head : len(theirs) - tail]
    if len(changed) * len(changed_to) > MAX_PAIRS:
        yield from _aligned("".join(changed), "".join(changed_to), sizes[1:])
    else:
        yield from _steps(changed, changed_to, sizes[1:] if sizes[0] is SENTENCES else [])
    yield from _equal(ours[len(ours) - tail :])


def _steps(ours: list[str], theirs: list[str], finer: list[re.Pattern[str]]) -> Iterator[Op]:
    # Numbered first: the alignment compares hashes, and two words must never be taken for one.
    numbers: dict[str, int] = {}
    steps = Indel.opcodes(
        [numbers.setdefault(token, len(numbers)) for token in ours],
        [numbers.setdefault(token, len(numbers)) for token in theirs],
    )
    old = new = ""
    for step in steps:
        if step.tag == "equal":
            yield from _aligned(old, new, finer)
            old = new = ""
            yield from _equal(ours[step.src_start : step.src_end])
        else:
            old += "".join(ours[step.src_start : step.src_end])
            new += "".join(theirs[step.dest_start : step.dest_end])
    yield from _aligned(old, new, finer)


def _common(ours: list[str], theirs: list[str]) -> int:
    pairs = enumerate(zip(ours, theirs, strict=False))
    return next((at for at, (old, new) in pairs if old != new), min(len(ours), len(theirs)))


def _equal(tokens: list[str]) -> Iterator[Op]:
    if tokens:
        yield Op("equal", "".join(tokens), "".join(tokens))


def _joined(ops: list[Op]) -> list[Op]:
    """Neighbouring changes as one, also across a mere space: "the quick" → "a slow" reads as one change."""
    joined: list[Op] = []
    for at, op in enumerate(ops):
        last = joined[-1] if joined else None
        if last and last.kind == "equal" and op.kind == "equal":
            joined[-1] = Op("equal", last.before + op.before, last.after + op.after)
        elif last and last.kind != "equal" and (op.kind != "equal" or _mere_space(ops, at)):
            joined[-1:] = whole(last.before + op.before, last.after + op.after)
        else:
            joined.append(op)
    return joined


def _mere_space(ops: list[Op], at: int) -> bool:
    changed_after = at + 1 < len(ops) and ops[at + 1].kind != "equal"
    return changed_after and ops[at].after.isspace() and "\n" not in ops[at].after


def _with_line_ends(text: str) -> Markup:
    mark = Markup('<span class="line-end" title="line end">↵</span>\n')
    return mark.join(plain(line) for line in text.split("\n"))


def _differences(pointer: str, before: Any, after: Any, depth: int) -> Iterator[Change]:
    if depth <= MAX_DEPTH and isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            at = f"{pointer}/{key.replace('~', '~0').replace('/', '~1')}"
            yield from _sides(at, key in before, key in after, before.get(key), after.get(key), depth)
    elif depth <= MAX_DEPTH and isinstance(before, list) and isinstance(after, list):
        for place in range(max(len(before), len(after))):
            old, new = place < len(before), place < len(after)
            pair = before[place] if old else None, after[place] if new else None
            yield from _sides(f"{pointer}/{place}", old, new, *pair, depth)
    elif not same(before, after):
        yield Change(pointer, before, after)


def _sides(pointer: str, old: bool, new: bool, before: Any, after: Any, depth: int) -> Iterator[Change]:
    if old and new:
        yield from _differences(pointer, before, after, depth + 1)
    else:
        yield Change(pointer, before, after, "removed" if old else "added")
