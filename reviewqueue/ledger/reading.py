"""The ledger for people: entries in words, one item's trail, and what can be checked about one entry.

Reads only. Words come from canonical bodies, which hold no content; content stands in parts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select

from reviewqueue.config import current
from reviewqueue.db import db
from reviewqueue.errors import Missing
from reviewqueue.ledger import canonical
from reviewqueue.ledger.entries import PARTS
from reviewqueue.models import LedgerEntry, LedgerHead, LedgerPart

TRAIL = 500  # entries of one item that are shown; more would be a fault


@dataclass(frozen=True)
class Told:
    """An entry, what its body says, and that in one line; who did it is left to whoever knows names."""

    entry: LedgerEntry
    body: dict[str, Any]
    words: str


@dataclass(frozen=True)
class Check:
    """One thing that was checked about an entry."""

    what: str
    ok: bool
    words: str


def trail(item_id: str) -> list[Told]:
    """Everything the ledger says about one item, in the order in which it happened."""
    found = db.session.scalars(
        select(LedgerEntry).where(LedgerEntry.item_id == item_id).order_by(LedgerEntry.seq).limit(TRAIL)
    )
    return [tell(entry) for entry in found]


def tell(entry: LedgerEntry) -> Told:
    """`entry` in words; one whose body cannot be read says so instead."""
    try:
        body = canonical.decode(entry.body)
        return Told(entry, body, _words(entry.type, body))
    except (canonical.NotCanonical, KeyError):
        return Told(entry, {}, "this entry cannot be read: verify the ledger")


def entry_at(seq: int) -> LedgerEntry:
    """Entry number `seq`; Missing when the ledger is shorter."""
    found = db.session.get(LedgerEntry, seq) if seq < size() else None
    if found is None:
        raise Missing("There is no such entry.")
    return found


def parts_of(seq: int) -> list[LedgerPart]:
    """The content an entry commits to, in the order of the item's life."""
    found = db.session.scalars(select(LedgerPart).where(LedgerPart.seq == seq))
    return sorted(found, key=lambda part: PARTS.index(part.part) if part.part in PARTS else len(PARTS))


def size() -> int:
    """How many entries the ledger has."""
    return db.session.scalar(select(LedgerHead.size).where(LedgerHead.id == 1)) or 0


def disagreement() -> str | None:
    """What is wrong between the head and the last entry, None when they agree; one look at one moment."""
    # One statement, so that nobody appends between two looks.
    newest = select(LedgerEntry.leaf, LedgerEntry.seq).order_by(LedgerEntry.seq.desc()).limit(1).subquery()
    head = select(LedgerHead.size, LedgerHead.last_leaf).where(LedgerHead.id == 1).subquery()
    looks = head.c.size, head.c.last_leaf, newest.c.seq, newest.c.leaf
    size, last_leaf, seq, leaf = db.session.execute(
        select(*(select(look).scalar_subquery() for look in looks))
    ).one()
    if size is None and seq is None:
        return None
    if size is None:
        return "head missing"
    agree = size == 0 if seq is None else (size, last_leaf) == (seq + 1, leaf)
    return None if agree else "head and last entry disagree"


def first_since(moment: datetime) -> int | None:
    """The number of the first entry at or after `moment`: times never go back, so numbers bound a period."""
    return db.session.scalar(
        select(LedgerEntry.seq)
        .where(LedgerEntry.time >= moment)
        .order_by(LedgerEntry.time, LedgerEntry.seq)
        .limit(1)
    )


def checks(entry: LedgerEntry, parts: Sequence[LedgerPart]) -> list[Check]:
    """What one entry can be checked for by itself and its neighbour; `verify()` checks the whole ledger."""
    leaf = canonical.leaf_hash(entry.body)
    before = db.session.get(LedgerEntry, entry.seq - 1) if entry.seq else None
    origin = db.session.scalar(select(LedgerHead.origin).where(LedgerHead.id == 1)) or ""
    expected = before.leaf if before is not None else canonical.genesis(origin)
    key = current().key("ledger")
    known = entry.mac_key_id == canonical.key_id(key)
    told = [
        _check("leaf", entry.leaf == leaf.hex(), "is the hash of the body"),
        _check("prev", entry.prev == expected, "is the leaf of the entry before"),
        _check("seal", known and entry.mac == canonical.mac(key, leaf), "was made with the ledger key"),
    ]  # fmt: skip
    body = tell(entry).body
    return told + [_check_part(part, body) for part in parts]


def _check(what: str, ok: bool, words: str) -> Check:
    return Check(what, ok, words if ok else f"not so: {words}")


def _check_part(part: LedgerPart, body: dict[str, Any]) -> Check:
    if part.salt is None or part.payload is None:
        erased = part.erased_by is not None
        return Check(part.part, erased, f"erased by entry {part.erased_by}" if erased else "gone")
    same = canonical.commitment(part.salt, part.part, part.payload) == body.get(part.part)
    return _check(part.part, same, "is what the entry commits to")


def _words(type_: str, body: dict[str, Any]) -> str:
    match type_:
        case "ledger.created":
            return "the ledger was begun"
        case "submissions.sealed":
            return f"{body['n']} submissions sealed, items no. {body['first']} to {body['last']}"
        case "decision":
            return f"{_SOURCES.get(body['source'], body['source'])}: {body['action']}"
        case "review":
            return f"gave a verdict: {body['action']}"
        case "undo":
            return "took the decision back"
        case "withdrawal":
            return "withdrew the item"
        case "expiry":
            return f"time ran out: {body['action']}"
        case "delivery":
            tried = f"{body['attempts']} attempt{'s' * (body['attempts'] != 1)}"
            return f"callback {body['outcome']} after {tried}"
        case "example":
            return f"example {body['change']}" + (f", set {body['set']} begun" if "set" in body else "")
        case "rollback.acknowledged":
            return f"acknowledged that the ledger once had {body['known']} entries"
        case "export":
            return f"exported {body.get('what', 'content')} as {body.get('format', 'a file')}"
        case "config":
            return str(body["change"]) + "".join(
                f", {name} {_value(body[name])}" for name in _TOLD if body.get(name, []) != []
            )
        case _:
            return type_


_SOURCES = {
    "review": "decided",
    "control": "control sample decided",
    "adjudication": "adjudicated",
    "override": "overrode",
    "timeout": "time ran out",
}
_TOLD = ("role", "queue", "queues", "scopes", "purpose", "policy_version", "trusted", "active")


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
