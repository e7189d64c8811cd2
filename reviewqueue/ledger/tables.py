"""The tables against the ledger: every row says what its entries say, and none stands alone.

Everything here reads only; the bodies it is given have been checked by verify(). Rows are first compared
as the driver gives them, which nearly all pass; what does not is read with care and told in words.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, cast

from sqlalchemy import CompoundSelect, String, Table, Text, exists, select, type_coerce, union_all
from sqlalchemy import cast as sql_cast
from sqlalchemy.orm import Session, aliased

from reviewqueue.db import dumps, stamp
from reviewqueue.ledger import canonical
from reviewqueue.ledger.entries import decision_facts, decision_parts
from reviewqueue.ledger.rows import UNREADABLE
from reviewqueue.models import Decision, Item, LedgerEntry

Found = tuple[int, str, str]  # which entry, kind, what is wrong
Payloads = Mapping[str, bytes | None]
Recorded = tuple[int, dict[str, Any], Payloads]

COMPARED = frozenset({"decision", "submissions.sealed"})

_DECISION = cast(Table, Decision.__table__)
_ITEM = cast(Table, Item.__table__)
_RAW = select(
    *(
        _DECISION.c[name]
        for name in ("id", "item_id", "project_id", "round", "source", "verdict", "released")
    ),
    *(_DECISION.c[name] for name in ("edited", "decided_by", "policy_version", "sequence", "supersedes")),
    type_coerce(_DECISION.c.decided_at, String),
    type_coerce(_DECISION.c.final_at, String),
    *(_DECISION.c[name] for name in ("reason", "cause", "note")),
    sql_cast(_DECISION.c.output, Text),
    sql_cast(_ITEM.c.input, Text),
    sql_cast(_ITEM.c.output, Text),
).join(_ITEM, _ITEM.c.id == _DECISION.c.item_id)


def same_moment(raw: object, said: object) -> bool:
    """Whether a time column as the driver gives it is the instant that a body says."""
    if isinstance(raw, datetime):
        return stamp(raw) == said
    # SQLite's text differs in the two places where RFC 3339 has a T and a Z.
    return isinstance(raw, str) and isinstance(said, str) and raw == f"{said[:10]} {said[11:-1]}"


def check_rows(session: Session, recorded: Sequence[Recorded]) -> Found | None:
    """The first of these entries (seq, body, payloads) whose rows are gone or say something else."""
    decisions = [entry for entry in recorded if entry[1]["type"] == "decision"]
    same = _unchanged(session, decisions)
    doubtful = [entry for entry in decisions if entry[0] not in same]
    found = [
        _check_decisions(session, doubtful),
        _check_items(session, doubtful),
        _check_sealed(session, recorded),
    ]
    return min(filter(None, found), default=None)


def _unchanged(session: Session, recorded: Sequence[Recorded]) -> set[int]:
    """The entries whose decision and item are beyond doubt what they were."""
    if not recorded:
        return set()
    try:
        query = _RAW.where(_DECISION.c.id.in_([body.get("decision", "") for _, body, _ in recorded]))
        rows = {row[0]: row for row in session.execute(query).all()}
    except UNREADABLE:
        return set()
    return {
        seq for seq, body, payloads in recorded
        if (row := rows.get(body.get("decision", ""))) is not None and _same(row, body, payloads)
    }  # fmt: skip


def _same(row: Sequence[Any], body: Mapping[str, Any], payloads: Payloads) -> bool:
    (_, item, project, round_, source, verdict, released, edited, by, version, sequence, supersedes,
     decided_at, final_at, reason, cause, note, output, asked, shown) = row  # fmt: skip
    said = body.get
    return (
        (item, project, round_, source, version, sequence, supersedes, released, edited)
        == (said("item"), said("project"), said("rev"), said("source"), said("policy_version"),
            said("sequence"), said("supersedes"), said("released"), said("edited"))
        and said("action") == (verdict or ("release" if released else "withhold"))
        and said("actor") == (by or "system")
        and same_moment(decided_at, said("decided_at"))
        and same_moment(final_at, said("final_at"))
        and _bytes(output) == payloads.get("out")
        and _bytes(asked) == payloads.get("in")
        and _bytes(shown) == payloads.get("shown")
        and (reason is cause is note is None) == ("why" not in payloads)
        and ("why" not in payloads or payloads["why"] == _why(reason, cause, note))
    )  # fmt: skip


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else text.encode()


def _why(reason: str | None, cause: str | None, note: str | None) -> bytes:
    return dumps({"reason": reason, "cause": cause, "note": note}).encode()


def _check_decisions(session: Session, recorded: Sequence[Recorded]) -> Found | None:
    rows = _decisions(session, [body.get("decision", "") for _, body, _ in recorded])
    for seq, body, payloads in recorded:
        id_ = body.get("decision", "")
        if id_ not in rows:
            return seq, "decision", f"decision {id_} of entry {seq} is gone"
        row = rows[id_]
        if row is None:
            return seq, "decision", f"decision {id_} of entry {seq} cannot be read"
        differs = sorted(name for name, value in decision_facts(row).items() if body.get(name) != value)
        differs += _differing_parts(row, payloads)
        if differs:
            return (
                seq,
                "decision",
                f"decision {id_} was changed: {', '.join(differs)} differ from entry {seq}",
            )
    return None


def _differing_parts(row: Decision, payloads: Payloads) -> list[str]:
    said = {name: data.encode() for name, data in decision_parts(row).items()}
    return [name for name in ("out", "why") if said.get(name) != payloads.get(name)]


def _decisions(session: Session, ids: Sequence[str]) -> dict[str, Decision | None]:
    """Decisions by id; None for a row that is there but cannot be read."""
    query = select(Decision).execution_options(populate_existing=True)
    try:
        return {row.id: row for row in session.scalars(query.where(Decision.id.in_(ids)))} if ids else {}
    except UNREADABLE:
        found: dict[str, Decision | None] = {}
        for id_ in session.scalars(select(Decision.id).where(Decision.id.in_(ids))):
            try:
                found[id_] = session.scalars(query.where(Decision.id == id_)).one()
            except UNREADABLE:
                found[id_] = None
        return found


def _check_items(session: Session, recorded: Sequence[Recorded]) -> Found | None:
    """The first decision entry about an item that asked or said something else than was shown."""
    for seq, body, payloads in recorded:
        id_ = body.get("item")
        try:
            query = select(Item.input, Item.output).where(Item.id == id_)
            row = session.execute(query).one_or_none()
        except UNREADABLE:
            return seq, "item", f"item {id_} of entry {seq} cannot be read"
        if row is None:
            return seq, "item", f"item {id_} of entry {seq} is gone"
        for name, value, part in (("input", row[0], "in"), ("output", row[1], "shown")):
            now = None if value is None else dumps(value).encode()
            if now != payloads.get(part):
                return seq, "item", f"item {id_} was changed: its {name} differs from entry {seq}"
    return None


def _check_sealed(session: Session, recorded: Sequence[Recorded]) -> Found | None:
    """The first sealing entry whose items are not, in number and content, those that were sealed."""
    for seq, body, _ in recorded:
        if body["type"] != "submissions.sealed":
            continue
        between = _ITEM.c.number.between(body.get("first"), body.get("last"))
        digests = session.scalars(
            select(_ITEM.c.content_sha256).where(between).order_by(_ITEM.c.number)
        ).all()
        frontier: list[bytes] = []
        try:
            for size, digest in enumerate(digests):
                frontier = canonical.grow(frontier, size, canonical.leaf_hash(bytes.fromhex(digest)))
        except (ValueError, TypeError):
            frontier = []
        if (len(digests), canonical.root(frontier).hex()) != (body.get("n"), body.get("root")):
            return (
                seq,
                "item",
                f"items {body.get('first')} to {body.get('last')} are not those of entry {seq}",
            )
    return None


def check_flags(session: Session, batch: int) -> Found | None:
    """The first decision entry whose row is not taken back or superseded just as the ledger says."""
    for entries in _decision_entries(session, batch):
        rows = _decisions(session, [entry.decision_id for entry in entries])
        undone, followers = _history(session, {entry.item_id for entry in entries})
        for entry in entries:
            row = rows[entry.decision_id]
            assert row is not None  # check_rows has read it
            if _moment(row.undone_at) != undone.get(row.id):
                return (
                    entry.seq,
                    "decision",
                    f"whether decision {row.id} of entry {entry.seq} was undone differs",
                )
            after = followers.get(row.id, [])
            # Once its successor is itself taken back, a decision is in force again.
            in_force: set[str | None] = {at for id_, at in after if id_ not in undone}
            if _moment(row.superseded_at) not in (in_force or {None}):
                return (
                    entry.seq,
                    "decision",
                    f"whether decision {row.id} of entry {entry.seq} was superseded differs",
                )
    return None


def _moment(time: Any) -> str | None:
    return stamp(time) if time is not None else None


def _decision_entries(session: Session, batch: int) -> Iterator[Sequence[Any]]:
    """Entries of decisions that were taken back or superseded, by the tables or by the ledger."""
    undone = aliased(LedgerEntry)
    touched: CompoundSelect[str] = union_all(
        select(Decision.id).where(Decision.undone_at.is_not(None) | Decision.superseded_at.is_not(None)),
        select(Decision.supersedes).where(Decision.supersedes.is_not(None)),
        select(undone.decision_id).where(undone.type == "undo"),
    )
    entries = (
        select(LedgerEntry.seq, LedgerEntry.decision_id, LedgerEntry.item_id)
        .where(LedgerEntry.type == "decision", LedgerEntry.decision_id.in_(touched))
        .order_by(LedgerEntry.seq)
    )
    yield from session.execute(entries, execution_options={"yield_per": batch}).partitions()


def _history(session: Session, items: set[Any]) -> tuple[dict[str, str], dict[str, list[tuple[str, str]]]]:
    """Of these items' decisions: when each was undone, and which (id, decided_at) supersede it."""
    undone: dict[str, str] = {}
    followers: dict[str, list[tuple[str, str]]] = defaultdict(list)
    told = select(LedgerEntry.body).where(
        LedgerEntry.item_id.in_(items), LedgerEntry.type.in_(("decision", "undo"))
    )
    for data in session.scalars(told):
        body = canonical.decode(data)
        if body["type"] == "undo":
            undone[body["decision"]] = body["undone_at"]
        elif "supersedes" in body:
            followers[body["supersedes"]].append((body["decision"], body["decided_at"]))
    return undone, followers


def stray_decision(session: Session) -> str | None:
    """A decision that no entry tells of, or None."""
    told = exists().where(LedgerEntry.type == "decision", LedgerEntry.decision_id == Decision.id)
    return session.scalar(select(Decision.id).where(~told).order_by(Decision.id).limit(1))
