"""An item's parts as a person reads them: by kind, as a conversation, as a call, as passages and changes.

Built on what `show` and `diff` made safe. Must never return a piece of content that did not go through them.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from reviewqueue.content import diff
from reviewqueue.content.show import as_text, clip, json_tree, markdown, outside_address, plain, pretty_json
from reviewqueue.text import leaves

TOLD_ARGUMENTS = 8  # more would be no sentence any more
TOLD_VALUE = 60  # characters of each
LONG = 1_500  # characters of a comparison from which what is kept folds
AROUND, FOLDED = 160, 240  # characters left open beside a change; fewer are never folded

_LED = ("messages", "conversation", "turns", "history")  # where an input keeps what was said before

_SPEAKER = re.compile(r"(?:system|developer|user|customer|assistant|agent|tool)\b", re.IGNORECASE)
_OURS = re.compile(r"(?:assistant|agent)\b", re.IGNORECASE)
_COLUMN = re.compile(r"\S {3,}\S")


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation."""

    role: Markup
    text: Markup
    assistant: bool


@dataclass(frozen=True)
class Shown:
    """A value to be read. `raw` is exactly what it is; `rich`, `turns` and `sentence` are easier to read."""

    raw: Markup
    rich: Markup | None = None
    turns: tuple[Turn, ...] = ()
    sentence: Markup | None = None
    columns: bool = False  # a text set in columns by spaces: only letters of one width show them

    @property
    def both(self) -> bool:
        """Whether the raw text says something the readable form may hide."""
        return self.rich is not None or bool(self.turns)


@dataclass(frozen=True)
class Passage:
    """A retrieved passage; `leads` is our page that asks before it goes to `address`."""

    title: Markup
    text: Markup
    address: Markup | None
    leads: str | None
    score: float | None


@dataclass(frozen=True)
class Alternative:
    """Another answer to the same input, and how often it was given."""

    text: Markup
    value: str
    count: int
    same: bool


@dataclass(frozen=True)
class Place:
    """One changed place of a JSON output."""

    pointer: Markup
    before: Markup
    after: Markup
    kind: str


@dataclass(frozen=True)
class Piece:
    """A stretch of a compared text: kept, folded (kept and long) or changed; a change has a number."""

    kind: str
    text: Markup
    number: int = 0
    at: float = 0.0  # where it begins and how long it is, in per cent of the text: for the map
    size: float = 0.0


@dataclass(frozen=True)
class Changes:
    """What an edit changed: word by word for texts, place by place for JSON."""

    words: Markup | None = None
    places: tuple[Place, ...] = ()
    pieces: tuple[Piece, ...] = ()  # of a long text: what is kept folds, and a map leads to the changes

    @property
    def marks(self) -> list[Piece]:
        """The changes of a long text, for its map."""
        return [piece for piece in self.pieces if piece.kind == "changed"]

    def __bool__(self) -> bool:
        return self.words is not None or bool(self.places)


def readable(value: Any, kind: str = "") -> Shown:
    """`value` for reading: Markdown rendered when `kind` says so, a conversation by turn, JSON as a tree."""
    if isinstance(value, str):
        rich = markdown(value) if kind == "markdown" else None
        return Shown(plain(value), rich=rich, columns=len(_COLUMN.findall(value)) > 2)
    raw = plain(pretty_json(value))
    if _is_conversation(value):
        return Shown(raw, turns=tuple(_turn(turn["role"], turn["content"]) for turn in value))
    if not kind and (said := _led_here(value)):
        rest = {name: inner for name, inner in value.items() if inner is not said[0]} if said[1] else {}
        turns = tuple(_turn(turn["role"], _said(turn)) for turn in said[0])
        return Shown(raw, rich=json_tree(rest) if rest else None, turns=turns)
    if kind == "tool_call" and isinstance(value, dict) and isinstance(value.get("arguments"), dict):
        return Shown(raw, rich=json_tree(value["arguments"]), sentence=call_sentence(value))
    return Shown(raw, rich=json_tree(value))


def call_sentence(call: dict[str, Any]) -> Markup:
    """What a tool call would do, in one sentence: "It would call refund_order with amount 20 and …"."""
    told = [
        Markup("{} <b>{}</b>").format(plain(clip(name, TOLD_VALUE)), plain(clip(_told(value), TOLD_VALUE)))
        for name, value in list(call["arguments"].items())[:TOLD_ARGUMENTS]
    ]
    if len(call["arguments"]) > TOLD_ARGUMENTS:
        told.append(Markup("{} more").format(len(call["arguments"]) - TOLD_ARGUMENTS))
    name = plain(clip(as_text(call.get("name")), TOLD_VALUE))
    if not told:
        return Markup("It would call <b>{}</b> with no arguments.").format(name)
    listed = Markup(", ").join(told[:-1])
    joined = Markup("{} and {}").format(listed, told[-1]) if listed else told[-1]
    return Markup("It would call <b>{}</b> with {}.").format(name, joined)


def passages(context: Any, texts: Sequence[Markup] = ()) -> list[Passage]:
    """The retrieved passages of an item, as they were submitted; `texts` are theirs with places marked."""
    found = []
    for at, entry in enumerate(context or ()):
        address = entry.get("url")
        score = entry.get("score")
        found.append(
            Passage(
                title=plain(clip(entry.get("title") or "Untitled passage", 200)),
                text=texts[at] if texts else plain(entry.get("text") or ""),
                address=plain(address) if address else None,
                leads=leads_to(address),
                score=score if isinstance(score, int | float) else None,
            )
        )
    return found


def spoken(context: Any) -> tuple[Shown | None, list[Any]]:
    """What of the context is a conversation (its titles begin with who speaks) as turns, and the rest."""
    said = [entry for entry in context or () if _SPEAKER.match(entry.get("title") or "")]
    if not said:
        return None, list(context or ())
    turns = tuple(
        Turn(
            plain(clip(entry["title"], 40)), plain(entry.get("text") or ""), bool(_OURS.match(entry["title"]))
        )
        for entry in said
    )
    return Shown(plain(""), turns=turns), [entry for entry in context if entry not in said]


def leads_to(address: Any) -> str | None:
    """Our own page that asks before it leads to `address`; None when nobody should be led there."""
    outside = outside_address(address) if isinstance(address, str) else None
    return f"/leave?to={quote(outside, safe='')}" if outside else None


def alternatives(output: Any, samples: Any) -> list[Alternative]:
    """The other answers to the same input, equal ones counted, most frequent first."""
    counts = Counter(json.dumps(sample, sort_keys=True, ensure_ascii=False) for sample in samples or ())
    found = []
    for text, count in counts.most_common():
        value = json.loads(text)
        found.append(Alternative(plain(as_text(value)), as_text(value), count, diff.same(value, output)))
    return found


def changes(kind: str, before: Any, after: Any) -> Changes:
    """What lies between two outputs of `kind`; false when they are the same."""
    if diff.same(before, after):
        return Changes()
    if kind in ("json", "tool_call"):
        return Changes(places=tuple(_places(before, after)))
    if kind == "chat":
        before, after = _changed_turn(before, after)
    steps = (diff.whole if kind == "label" else diff.words)(as_text(before), as_text(after))
    long = sum(len(step.after or step.before) for step in steps) > LONG
    return Changes(words=diff.to_markup(steps), pieces=tuple(_pieces(steps)) if long else ())


def _pieces(steps: list[diff.Op]) -> Iterator[Piece]:
    """A long comparison in pieces; of a long stretch that is kept only its ends stay open."""
    whole = sum(len(step.after or step.before) for step in steps)
    at = number = 0
    for place, step in enumerate(steps):
        size = len(step.after or step.before)
        if step.kind != "equal":
            number += 1
            text = diff.to_markup([step])
            yield Piece("changed", text, number, round(100 * at / whole, 2), round(100 * size / whole, 2))
        else:
            head = AROUND if place else 0
            tail = AROUND if place < len(steps) - 1 else 0
            if size <= head + tail + FOLDED:
                head, tail = size, 0
            yield Piece("kept", plain(step.after[:head]))
            if head + tail < size:
                yield Piece("folded", plain(step.after[head : size - tail]), size - head - tail)
                yield Piece("kept", plain(step.after[size - tail :] if tail else ""))
        at += size


def line(value: Any, limit: int = 140) -> Markup:
    """One line of `value` for a list; of an object what stands in its fields."""
    if _is_conversation(value):
        value = value[-1]["content"]
    elif isinstance(value, dict) and isinstance(value.get("arguments"), dict) and "name" in value:
        arguments = ", ".join(f"{name} {_told(inner)}" for name, inner in value["arguments"].items())
        value = f"{as_text(value['name'])}: {arguments}"
    elif isinstance(value, dict) and (said := leaves(value)):
        value = " · ".join(said)
    elif not isinstance(value, str):
        value = json.dumps(value, ensure_ascii=False)
    return plain(clip(as_text(value), limit))


def _places(before: Any, after: Any) -> Iterator[Place]:
    for change in diff.paths(before, after):
        yield Place(
            pointer=plain(change.pointer.strip("/").replace("/", " › ") or "the whole output"),
            before=plain("" if change.kind == "added" else _json(change.before)),
            after=plain("" if change.kind == "removed" else _json(change.after)),
            kind=change.kind,
        )


def _changed_turn(before: Any, after: Any) -> tuple[Any, Any]:
    """The texts of the one turn that differs, or both sides as they are."""
    if not (_is_conversation(before) and _is_conversation(after)) or len(before) != len(after):
        return before, after
    differing = [at for at, turn in enumerate(before) if turn != after[at]]
    if len(differing) != 1 or before[differing[0]]["role"] != after[differing[0]]["role"]:
        return before, after
    return before[differing[0]]["content"], after[differing[0]]["content"]


def _turn(role: str, content: Any) -> Turn:
    return Turn(plain(clip(role, 40)), plain(as_text(content)), role == "assistant")


def _is_conversation(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(turn, dict)
            and isinstance(turn.get("role"), str)
            and turn.keys() == {"role", "content"}
            for turn in value
        )
    )


def _led_here(value: Any) -> tuple[list[Any], bool] | None:
    """The turns of a conversation as backends send it, and whether they stand inside something larger."""
    inside = isinstance(value, dict)
    found = [value] if not inside else [value[name] for name in _LED if name in value]
    for turns in found:
        shaped = isinstance(turns, list) and bool(turns)
        if shaped and all(isinstance(turn, dict) and isinstance(turn.get("role"), str) for turn in turns):
            return turns, inside
    return None


def _said(turn: dict[str, Any]) -> str:
    """Everything a turn says but its role: its text, parts of text joined, the rest as JSON."""
    content = turn.get("content")
    if isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("text"), str) and part.keys() <= {"type", "text"}
        for part in content
    ):
        content = "\n".join(part["text"] for part in content)
    rest = {
        name: inner for name, inner in turn.items() if name not in ("role", "content") and inner is not None
    }
    told = [as_text(content)] if content is not None else []
    return "\n".join([*told, *([pretty_json(rest)] if rest else [])])


def _told(value: Any) -> str:
    if isinstance(value, str):
        return f"“{value}”"
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        return f"{len(value)} entries" if len(value) != 1 else f"one entry {_json(value[0])}"
    return _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
