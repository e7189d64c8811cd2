"""record(): append one entry to the ledger inside the caller's transaction.

The head row is locked last of all rows and only here. A head that disagrees with the last entry stops
every append; it must never be repaired by code.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, cast
from urllib.parse import urlsplit

from sqlalchemy import Table, bindparam, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from reviewqueue.config import current
from reviewqueue.db import joined, now, stamp
from reviewqueue.errors import Busy
from reviewqueue.ledger import canonical
from reviewqueue.ledger.entries import CREATED, FIELDS, INDEXED, PARTS, VERSION
from reviewqueue.models import LedgerEntry, LedgerHead, LedgerPart
from reviewqueue.prepared import Prepared

_HEAD = cast(Table, LedgerHead.__table__)

# PostgreSQL waits here for whoever appends; on SQLite BEGIN IMMEDIATE already did.
HEAD = select(_HEAD).where(_HEAD.c.id == 1).with_for_update()

_ENTRY = Prepared(lambda _: insert(LedgerEntry), LedgerEntry.__table__.columns.keys())
_PART = Prepared(lambda _: insert(LedgerPart), ["seq", "part", "salt", "payload"])
_MOVE = Prepared(
    lambda _: (
        update(_HEAD)
        .where(_HEAD.c.id == 1)
        .values({name: bindparam(name) for name in ("size", "last_leaf", "last_time", "frontier")})
    )
)
_LOCK = Prepared(lambda _: HEAD)
_LAST = Prepared(
    lambda _: select(LedgerEntry.seq, LedgerEntry.leaf).order_by(LedgerEntry.seq.desc()).limit(1)
)

_Salted = Mapping[str, tuple[bytes, bytes]]
_Said = tuple[Mapping[str, Any], _Salted]


@dataclass(frozen=True)
class Recorded:
    """Where an entry stands: its number, its leaf hash in hex, its time."""

    seq: int
    leaf: str
    time: datetime


def record(
    type: str,
    fields: Mapping[str, Any],
    *,
    parts: Mapping[str, bytes | str] | None = None,
    item_id: str | None = None,
    decision_id: str | None = None,
    project_id: str | None = None,
    actor: str | None = None,
) -> Recorded:
    """Append an entry of `type` that says `fields` and commits to `parts`; call it last before COMMIT.

    Fields that are None are left out. `item_id`, `decision_id`, `project_id` and `actor` (an id) become the
    fields item, decision, project and actor. Raises RuntimeError outside a transaction, ValueError for a
    field the type does not have, Busy when the ledger cannot take an entry now.
    """
    indexed = {"item": item_id, "decision": decision_id, "project": project_id, "actor": actor}
    said = _merge(type, fields, indexed)
    return _record(type, [(said, _salt(parts or {}))])[0]


def record_all(type: str, many: Sequence[Mapping[str, Any]]) -> list[Recorded]:
    """Append an entry of `type` for each of `many`, which are fields without parts; else as `record`.

    The head is locked, looked at and moved once for all of them.
    """
    return _record(type, [(_merge(type, fields, {}), {}) for fields in many]) if many else []


def _record(type: str, many: Sequence[_Said]) -> list[Recorded]:
    session = joined()
    session.flush()
    head = _lock_head(session)
    if head["size"] == 0:
        _append(session, head, CREATED, [({"key": canonical.key_id(current().key("ledger"))}, {})])
        head = _lock_head(session)
    return _append(session, head, type, many)


def _merge(type: str, fields: Mapping[str, Any], indexed: Mapping[str, str | None]) -> dict[str, Any]:
    said = {name: value for name, value in fields.items() if value is not None}
    for name, value in indexed.items():
        if value is not None and said.setdefault(name, value) != value:
            raise ValueError(f"two values for {name} in a ledger entry")
    if type not in FIELDS:
        raise ValueError(f"{type!r} is no type of ledger entry; FIELDS in ledger/entries.py lists them")
    unknown = sorted(said.keys() - FIELDS[type])
    if unknown:
        raise ValueError(f"an entry of type {type} has no field {', '.join(unknown)}: see ledger/entries.py")
    return said


def _salt(parts: Mapping[str, bytes | str]) -> _Salted:
    unknown = sorted(parts.keys() - set(PARTS))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: the parts of a ledger entry are {', '.join(PARTS)}")
    return {
        part: (secrets.token_bytes(canonical.SALT_BYTES), data.encode() if isinstance(data, str) else data)
        for part, data in parts.items()
    }


def _lock_head(session: Session) -> dict[str, Any]:
    """The head, locked until the transaction ends, and known to agree with the last entry."""
    connection = session.connection()
    try:
        row = _LOCK.row(connection, {})
        if row is None:
            _begin(session)
            row = _LOCK.row(connection, {})
    except OperationalError as error:
        raise Busy("the ledger is taking too many entries at once", "ledger_busy") from error
    head = dict(zip(_HEAD.columns.keys(), row or (), strict=True))
    last = _LAST.row(connection, {})
    expected = (last[0] + 1, last[1]) if last is not None else (0, canonical.genesis(head["origin"]))
    if expected != (head["size"], head["last_leaf"]) or len(head["frontier"]) != expected[0].bit_count():
        raise Busy(
            "the ledger's head disagrees with its last entry; nothing is recorded until an operator has "
            "looked: python -m reviewqueue ledger verify",
            "ledger_inconsistent",
            retry_after=60,
        )
    return head


def _begin(session: Session) -> None:
    """Put the head of an empty log; whoever comes second waits for the first and keeps theirs."""
    origin = f"{urlsplit(current().public_url).hostname}/ledger"
    head = {"id": 1, "origin": origin, "size": 0, "last_leaf": canonical.genesis(origin), "last_time": now()}
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    session.execute(dialect.insert(LedgerHead).values(**head, frontier=[]).on_conflict_do_nothing())


def _append(session: Session, head: Mapping[str, Any], type: str, many: Sequence[_Said]) -> list[Recorded]:
    key, recorded, entries, rows = current().key("ledger"), [], [], []
    size, last, time = head["size"], head["last_leaf"], max(now(), head["last_time"])
    frontier = [bytes.fromhex(node) for node in head["frontier"]]
    for said, salted in many:
        body: dict[str, Any] = {
            part: canonical.commitment(salt, part, data) for part, (salt, data) in salted.items()
        }
        body |= {"v": VERSION, "log": head["origin"], "seq": size, "prev": last}
        data = canonical.encode(body | {"time": stamp(time), "type": type} | dict(said))
        leaf = canonical.leaf_hash(data)
        entry = {
            "seq": size, "prev": last, "leaf": leaf.hex(), "body": data, "mac": canonical.mac(key, leaf),
            "mac_key_id": canonical.key_id(key), "type": type, "time": time,
        }  # fmt: skip
        entries.append(entry | {column: said.get(field) for field, column in INDEXED.items()})
        rows += [{"seq": size, "part": part, "salt": s, "payload": p} for part, (s, p) in salted.items()]
        recorded.append(Recorded(size, leaf.hex(), time))
        frontier = canonical.grow(frontier, size, leaf)
        size, last = size + 1, leaf.hex()
    end = {"size": size, "last_leaf": last, "last_time": time, "frontier": [node.hex() for node in frontier]}
    connection = session.connection()
    try:
        _ENTRY.run_many(connection, entries)
        _PART.run_many(connection, rows)
    except IntegrityError as error:
        raise Busy("another writer appended to the ledger at the same moment", "ledger_forked") from error
    _MOVE.run(connection, end)
    return recorded
