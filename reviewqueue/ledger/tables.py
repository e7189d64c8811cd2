"""The decision table against the ledger: every row says what its entries say, and none stands alone.

Everything here reads only; the bodies it is given have been checked by verify().
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from reviewqueue.db import stamp
from reviewqueue.ledger import canonical
from reviewqueue.ledger.entries import decision_facts, decision_parts
from reviewqueue.models import Decision, LedgerEntry

Found = tuple[int, str]
Recorded = tuple[int, dict[str, Any], dict[str, bytes | None]]


def check_rows(session: Session, recorded: Sequence[Recorded]) -> Found | None:
    """The first of these decision entries (seq, body, payloads) whose row is gone or says something else."""
    rows = _decisions(session, [body.get("decision", "") for _, body, _ in recorded])
    for seq, body, payloads in recorded:
        id_ = body.get("decision", "")
        if id_ not in rows:
            return seq, f"decision {id_} of entry {seq} is gone"
        row = rows[id_]
        if row is None:
            return seq, f"decision {id_} of entry {seq} cannot be read"
        differs = sorted(name for name, value in decision_facts(row).items() if body.get(name) != value)
        differs += _differing_parts(row, payloads)
        if differs:
            return seq, f"decision {id_} was changed: {', '.join(differs)} differ from entry {seq}"
    return None


def _differing_parts(row: Decision, payloads: dict[str, bytes | None]) -> list[str]:
    said = {name: data.encode() for name, data in decision_parts(row).items()}
    return [name for name in ("out", "why") if said.get(name) != payloads.get(name)]


def _decisions(session: Session, ids: Sequence[str]) -> dict[str, Decision | None]:
    """Decisions by id; None for a row that is there but cannot be read."""
    query = select(Decision)
    try:
        return {row.id: row for row in session.scalars(query.where(Decision.id.in_(ids)))}
    except (SQLAlchemyError, ValueError, TypeError):
        found: dict[str, Decision | None] = {}
        for id_ in session.scalars(select(Decision.id).where(Decision.id.in_(ids))):
            try:
                found[id_] = session.scalars(query.where(Decision.id == id_)).one()
            except (SQLAlchemyError, ValueError, TypeError):
                found[id_] = None
        return found


def check_flags(session: Session, batch: int) -> Found | None:
    """The first decision entry whose row is not taken back or superseded just as the ledger says."""
    for entries in _decision_entries(session, batch):
        rows = _decisions(session, [entry.decision_id for entry in entries])
        undone, followers = _history(session, {entry.item_id for entry in entries})
        for entry in entries:
            row = rows[entry.decision_id]
            assert row is not None  # check_rows has read it
            if _moment(row.undone_at) != undone.get(row.id):
                return entry.seq, f"whether decision {row.id} of entry {entry.seq} was undone differs"
            after = followers.get(row.id, [])
            # Once its successor is itself taken back, a decision is in force again.
            in_force: set[str | None] = {at for id_, at in after if id_ not in undone}
            if _moment(row.superseded_at) not in (in_force or {None}):
                return entry.seq, f"whether decision {row.id} of entry {entry.seq} was superseded differs"
    return None


def _moment(time: Any) -> str | None:
    return stamp(time) if time is not None else None


def _decision_entries(session: Session, batch: int) -> Iterator[Sequence[Any]]:
    last = -1
    columns = select(LedgerEntry.seq, LedgerEntry.decision_id, LedgerEntry.item_id)
    of_type = columns.where(LedgerEntry.type == "decision").order_by(LedgerEntry.seq).limit(batch)
    while entries := session.execute(of_type.where(LedgerEntry.seq > last)).all():
        yield entries
        last = entries[-1].seq


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


def stray_decision(session: Session, batch: int) -> str | None:
    """A decision that no entry tells of, or None."""
    last = ""
    by_id = select(Decision.id).order_by(Decision.id).limit(batch)
    while ids := session.scalars(by_id.where(Decision.id > last)).all():
        told = select(LedgerEntry.decision_id).where(
            LedgerEntry.type == "decision", LedgerEntry.decision_id.in_(ids)
        )
        stray = sorted(set(ids) - set(session.scalars(told)))
        if stray:
            return stray[0]
        last = ids[-1]
    return None
