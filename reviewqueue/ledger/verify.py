"""verify(): is every entry, every part and every decision still what it was when it was recorded?

It reads one snapshot, in batches, and names the first bad entry. It must never write, and never trust a
column for what a canonical body says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import Row, Table, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from reviewqueue.config import current
from reviewqueue.db import db, stamp
from reviewqueue.ledger import canonical
from reviewqueue.ledger.entries import COMMON, CREATED, FIELDS, INDEXED, PARTS, VERSION
from reviewqueue.ledger.tables import check_flags, check_rows, stray_decision
from reviewqueue.models import LedgerEntry, LedgerHead, LedgerPart

BATCH = 500

_ENTRY = cast(Table, LedgerEntry.__table__)
_PART = cast(Table, LedgerPart.__table__)
_HEAD = cast(Table, LedgerHead.__table__)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What was found: how many entries are good from the first on, and what is wrong with which entry.

    `kind` is one word for programs: missing, unreadable, form, chain, leaf, mac, index, time, part, head,
    decision. `root` is the tree's root in hex when all is well.
    """

    ok: bool
    entries: int
    first_bad: int | None = None
    problem: str | None = None
    kind: str | None = None
    origin: str | None = None
    root: str | None = None


class _Bad(Exception):
    def __init__(self, seq: int, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.seq, self.kind, self.problem = seq, kind, problem


@dataclass
class _Chain:
    """How far the walk has come."""

    origin: str
    key: bytes
    prev: str
    size: int = 0
    time: str = ""
    frontier: list[bytes] = field(default_factory=list)


def verify(progress: Progress | None = None) -> Report:
    """Check the whole ledger and the decisions against it; `progress` hears (entries done, of how many).

    Memory does not grow with the ledger. The key is this machine's ledger key.
    """
    with _snapshot() as session:
        found = session.execute(select(_HEAD).where(_HEAD.c.id == 1)).mappings().one_or_none()
        head = dict(found) if found is not None else None
        origin = head["origin"] if head else ""
        chain = _Chain(origin, current().key("ledger"), canonical.genesis(origin))
        try:
            _walk(session, chain, head["size"] if head else 0, progress)
            _check_head(chain, head)
            _check_tables(session, chain)
        except _Bad as bad:
            return Report(False, chain.size, bad.seq, bad.problem, bad.kind, origin or None)
        return Report(True, chain.size, origin=origin or None, root=canonical.root(chain.frontier).hex())


@contextmanager
def _snapshot() -> Iterator[Session]:
    """A session that sees one moment, however long the walk takes and whatever is appended meanwhile."""
    with db.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with Session(connection, autoflush=False) as session:
            yield session


def _walk(session: Session, chain: _Chain, size: int, progress: Progress | None) -> None:
    while batch := _batch(session, chain.size):
        parts = _parts(session, batch[0].seq, batch[-1].seq)
        decisions: list[tuple[int, dict[str, Any], dict[str, bytes | None]]] = []
        broken: _Bad | None = None
        for row in batch:
            try:
                body = _check_entry(row, chain)
                payloads = _check_parts(session, row.seq, body, parts.get(row.seq, []))
            except _Bad as bad:
                broken = bad
                break
            if body["type"] == "decision":
                decisions.append((row.seq, body, payloads))
            chain.size += 1
        # A changed decision before the break is the first bad one.
        found = check_rows(session, decisions)
        if found is not None:
            raise _Bad(found[0], "decision", found[1])
        if broken is not None:
            raise broken
        if progress is not None:
            progress(chain.size, max(size, chain.size))


def _batch(session: Session, start: int) -> Sequence[Row[Any]]:
    """The next entries in order; one that cannot even be read is bad."""
    query = select(_ENTRY).order_by(_ENTRY.c.seq)
    query = query.where(_ENTRY.c.seq >= start) if start else query
    try:
        return session.execute(query.limit(BATCH)).all()
    except (SQLAlchemyError, ValueError, TypeError):
        numbers = select(_ENTRY.c.seq).where(_ENTRY.c.seq >= start).order_by(_ENTRY.c.seq)
        return _readable(session, session.scalars(numbers.limit(BATCH)).all())


def _readable(session: Session, numbers: Sequence[int]) -> Sequence[Row[Any]]:
    rows: list[Row[Any]] = []
    for seq in numbers:
        try:
            rows += session.execute(select(_ENTRY).where(_ENTRY.c.seq == seq)).all()
        except (SQLAlchemyError, ValueError, TypeError) as error:
            if rows:
                return rows
            raise _Bad(seq, "unreadable", f"entry {seq} cannot be read") from error
    return rows


def _check_entry(row: Row[Any], chain: _Chain) -> dict[str, Any]:
    """The body of an entry that stands where it belongs, in the right form, chained and sealed."""
    seq = chain.size
    if row.seq != seq:
        if row.seq < seq:
            raise _Bad(row.seq, "chain", f"entry {row.seq} does not belong to the log")
        raise _Bad(seq, "missing", f"entry {seq} is missing")
    try:
        body = canonical.decode(row.body)
    except canonical.NotCanonical as error:
        raise _Bad(seq, "form", f"the body of entry {seq} is not canonical: {error}") from None
    leaf = canonical.leaf_hash(row.body)
    if row.leaf != leaf.hex():
        raise _Bad(seq, "leaf", f"the body of entry {seq} is not the one that was hashed")
    if (row.prev, body.get("prev")) != (chain.prev, chain.prev):
        raise _Bad(seq, "chain", f"entry {seq} does not follow the entry before it")
    if row.mac_key_id != canonical.key_id(chain.key):
        raise _Bad(seq, "mac", f"entry {seq} was sealed with a key that this machine does not have")
    if row.mac != canonical.mac(chain.key, leaf):
        raise _Bad(seq, "mac", f"entry {seq} was not sealed with the ledger key")
    _check_form(row, body, chain)
    chain.prev, chain.time = row.leaf, body["time"]
    chain.frontier = canonical.grow(chain.frontier, seq, leaf)
    return body


def _check_form(row: Row[Any], body: Mapping[str, Any], chain: _Chain) -> None:
    seq, type_ = chain.size, body.get("type")
    known = FIELDS.get(type_) if isinstance(type_, str) else None
    if (
        known is None
        or body.keys() - known - COMMON - set(PARTS)
        or not body.keys() >= COMMON
        or (body["v"], body["log"], body["seq"]) != (VERSION, chain.origin, seq)
        or (type_ == CREATED) != (seq == 0)
    ):
        raise _Bad(seq, "form", f"entry {seq} says what an entry of its type and place cannot say")
    if row.type != type_ or any(getattr(row, column) != body.get(name) for name, column in INDEXED.items()):
        raise _Bad(seq, "index", f"the columns of entry {seq} differ from its body")
    if not isinstance(body["time"], str) or stamp(row.time) != body["time"]:
        raise _Bad(seq, "index", f"the time of entry {seq} differs from its body")
    if body["time"] < chain.time:
        raise _Bad(seq, "time", f"entry {seq} is older than the entry before it")


def _parts(session: Session, first: int, last: int) -> dict[int, list[Row[Any]]]:
    found = defaultdict(list)
    between = select(_PART).where(_PART.c.seq >= first, _PART.c.seq <= last)
    try:
        for row in session.execute(between):
            found[row.seq].append(row)
    except (SQLAlchemyError, ValueError, TypeError) as error:
        raise _Bad(first, "unreadable", f"a part of entries {first} to {last} cannot be read") from error
    return found


def _check_parts(
    session: Session, seq: int, body: Mapping[str, Any], rows: Sequence[Row[Any]]
) -> dict[str, bytes | None]:
    """The payloads of an entry's parts, None for erased ones; all that it commits to and no others."""
    payloads: dict[str, bytes | None] = {}
    for row in rows:
        if row.erased_by is not None:
            _check_erased(session, row)
        elif row.salt is None or row.payload is None or len(row.salt) != canonical.SALT_BYTES:
            raise _Bad(seq, "part", f"part {row.part} of entry {seq} is gone without an erasure")
        elif canonical.commitment(row.salt, row.part, row.payload) != body.get(row.part):
            raise _Bad(seq, "part", f"part {row.part} of entry {seq} is not what the entry commits to")
        payloads[row.part] = row.payload
    if payloads.keys() != body.keys() & set(PARTS):
        raise _Bad(seq, "part", f"entry {seq} has lost a part, or has one too many")
    return payloads


def _check_erased(session: Session, row: Row[Any]) -> None:
    """An erased part is empty, and a later entry about the same item says that it was erased."""
    item = select(_ENTRY.c.item_id).where(_ENTRY.c.seq == row.seq).scalar_subquery()
    covering = select(_ENTRY.c.seq).where(
        _ENTRY.c.seq == row.erased_by, _ENTRY.c.type == "erasure", _ENTRY.c.item_id == item
    )
    empty = row.salt is None and row.payload is None
    if not empty or row.erased_by <= row.seq or session.scalar(covering) is None:
        raise _Bad(
            row.seq, "part", f"part {row.part} of entry {row.seq} was erased without an entry saying so"
        )


def _check_head(chain: _Chain, head: Mapping[str, Any] | None) -> None:
    size = head["size"] if head else 0
    if chain.size < size:
        raise _Bad(chain.size, "missing", f"entry {chain.size} is missing: the end of the log was cut off")
    if chain.size > size:
        raise _Bad(size, "head", f"entry {size} stands behind the end of the log")
    if head is None or size == 0:
        return
    frontier = [node.hex() for node in chain.frontier]
    found = (head["last_leaf"], stamp(head["last_time"]), head["frontier"])
    if found != (chain.prev, chain.time, frontier):
        raise _Bad(size - 1, "head", "the ledger's head disagrees with its last entry")


def _check_tables(session: Session, chain: _Chain) -> None:
    """What only the whole ledger can tell: decisions taken back, superseded, or never recorded."""
    found = check_flags(session, BATCH)
    if found is not None:
        raise _Bad(found[0], "decision", found[1])
    stray = stray_decision(session, BATCH)
    if stray is not None:
        raise _Bad(max(chain.size - 1, 0), "decision", f"decision {stray} was never recorded")
