"""verify(): is every entry, every part and every row the ledger tells of still what it was?

It reads one snapshot, in batches, and names the first bad entry. It must never write, and never trust a
column for what a canonical body says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import Table, select
from sqlalchemy.orm import Session

from reviewqueue.config import current
from reviewqueue.db import db, stamp
from reviewqueue.ledger import canonical, known, rows, tables
from reviewqueue.ledger.entries import COMMON, CREATED, FIELDS, INDEXED, PARTS, VERSION
from reviewqueue.ledger.rows import Bad
from reviewqueue.models import LedgerEntry, LedgerHead, LedgerPart

BATCH = 500
HELD_BYTES = 4 << 20  # content kept until the rows it belongs to are compared

_ENTRY = cast(Table, LedgerEntry.__table__)
_PART = cast(Table, LedgerPart.__table__)
_HEAD = cast(Table, LedgerHead.__table__)
_ALLOWED = {type_: names | COMMON | set(PARTS) for type_, names in FIELDS.items()}
_PART_NAMES = frozenset(PARTS)
_SAID = tuple(INDEXED)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Report:
    """What was found: how many entries are good from the first on, and what is wrong with which entry.

    `kind` is one word for programs: missing, unreadable, form, chain, leaf, mac, index, time, part, head,
    decision, item, rollback. `root` is the tree's root in hex when all is well.
    """

    ok: bool
    entries: int
    first_bad: int | None = None
    problem: str | None = None
    kind: str | None = None
    origin: str | None = None
    root: str | None = None


@dataclass
class _Chain:
    """How far the walk has come."""

    origin: str
    key_id: str
    seal: canonical.Seal
    prev: str
    size: int = 0
    time: str = ""
    frontier: list[bytes] = field(default_factory=list)


def verify(progress: Progress | None = None) -> Report:
    """Check the whole ledger and the tables against it; `progress` hears (entries done, of how many).

    Memory does not grow with the ledger. The key is this machine's ledger key.
    """
    before = known.known()  # read first: it may grow while we walk
    with _snapshot() as session:
        found = session.execute(select(_HEAD).where(_HEAD.c.id == 1)).mappings().one_or_none()
        head = dict(found) if found is not None else None
        origin, key = head["origin"] if head else "", current().key("ledger")
        chain = _Chain(origin, canonical.key_id(key), canonical.Seal(key), canonical.genesis(origin))
        try:
            _walk(session, chain, head["size"] if head else 0, progress)
            _check_head(chain, head)
            _check_tables(session, chain)
            if (gone := known.lost(session.connection(), before)) is not None:
                raise Bad(min(chain.size, gone.size - 1), "rollback", gone.words)
        except Bad as bad:
            return Report(False, chain.size, bad.seq, bad.problem, bad.kind, origin or None)
        return Report(True, chain.size, origin=origin or None, root=canonical.root(chain.frontier).hex())


@contextmanager
def _snapshot() -> Iterator[Session]:
    """A session that sees one moment, however long the walk takes and whatever is appended meanwhile."""
    with db.engine.connect() as connection:
        postgresql = connection.dialect.name == "postgresql"
        if postgresql:
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with Session(connection, autoflush=False) as session:
            if postgresql:
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            yield session


def _walk(session: Session, chain: _Chain, size: int, progress: Progress | None) -> None:
    recorded: list[tables.Recorded] = []
    held = 0
    while batch := rows.entries(session, chain.size, BATCH):
        broken: Bad | None = None
        with rows.Parts(session, batch[0].seq, batch[-1].seq) as parts:
            for row in batch:
                try:
                    body = _check_entry(row, chain)
                    payloads = _check_parts(session, row.seq, body, parts.of(row.seq))
                except Bad as bad:
                    broken = bad
                    break
                chain.size += 1
                if body["type"] in tables.COMPARED:
                    recorded.append((row.seq, body, payloads))
                    held += sum(map(len, filter(None, payloads.values())))
                if held > HELD_BYTES:
                    _compare(session, recorded)
                    recorded, held = [], 0
        # A changed row before the break is the first bad one.
        _compare(session, recorded)
        recorded, held = [], 0
        if broken is not None:
            raise broken
        if progress is not None:
            progress(chain.size, max(size, chain.size))


def _compare(session: Session, recorded: Sequence[tables.Recorded]) -> None:
    if recorded and (found := tables.check_rows(session, recorded)) is not None:
        raise Bad(*found)


def _check_entry(row: rows.Entry, chain: _Chain) -> dict[str, Any]:
    """The body of an entry that stands where it belongs, in the right form, chained and sealed."""
    seq = chain.size
    if row.seq != seq:
        if row.seq < seq:
            raise Bad(row.seq, "chain", f"entry {row.seq} does not belong to the log")
        raise Bad(seq, "missing", f"entry {seq} is missing")
    try:
        body = canonical.decode(row.body)
    except canonical.NotCanonical as error:
        raise Bad(seq, "form", f"the body of entry {seq} is not canonical: {error}") from None
    leaf = canonical.leaf_hash(row.body)
    if row.leaf != leaf.hex():
        raise Bad(seq, "leaf", f"the body of entry {seq} is not the one that was hashed")
    if row.prev != chain.prev or body.get("prev") != chain.prev:
        raise Bad(seq, "chain", f"entry {seq} does not follow the entry before it")
    if row.mac_key_id != chain.key_id:
        raise Bad(seq, "mac", f"entry {seq} was sealed with a key that this machine does not have")
    if row.mac != chain.seal(leaf):
        raise Bad(seq, "mac", f"entry {seq} was not sealed with the ledger key")
    _check_form(row, body, chain)
    chain.prev, chain.time = row.leaf, body["time"]
    chain.frontier = canonical.grow(chain.frontier, seq, leaf)
    return body


def _check_form(row: rows.Entry, body: Mapping[str, Any], chain: _Chain) -> None:
    seq, type_ = chain.size, body.get("type")
    allowed = _ALLOWED.get(type_) if isinstance(type_, str) else None
    if (
        allowed is None
        or not COMMON <= body.keys() <= allowed
        or (body["v"], body["log"], body["seq"]) != (VERSION, chain.origin, seq)
        or (type_ == CREATED) != (seq == 0)
    ):
        raise Bad(seq, "form", f"entry {seq} says what an entry of its type and place cannot say")
    if row.type != type_ or row.indexed != tuple(map(body.get, _SAID)):
        raise Bad(seq, "index", f"the columns of entry {seq} differ from its body")
    if not tables.same_moment(row.time, body["time"]):
        raise Bad(seq, "index", f"the time of entry {seq} differs from its body")
    if body["time"] < chain.time:
        raise Bad(seq, "time", f"entry {seq} is older than the entry before it")


def _check_parts(
    session: Session, seq: int, body: Mapping[str, Any], found: Sequence[Any]
) -> tables.Payloads:
    """The payloads of an entry's parts, None for erased ones; all that it commits to and no others."""
    payloads: dict[str, bytes | None] = {}
    for _, part, salt, payload, erased_by in found:
        if erased_by is not None:
            _check_erased(session, seq, part, erased_by, salt is None and payload is None)
        elif not isinstance(salt, bytes) or not isinstance(payload, bytes):
            raise Bad(seq, "part", f"part {part} of entry {seq} is gone without an erasure")
        elif len(salt) != canonical.SALT_BYTES or canonical.commitment(salt, part, payload) != body.get(part):
            raise Bad(seq, "part", f"part {part} of entry {seq} is not what the entry commits to")
        payloads[part] = payload
    if payloads.keys() != body.keys() & _PART_NAMES:
        raise Bad(seq, "part", f"entry {seq} has lost a part, or has one too many")
    return payloads


def _check_erased(session: Session, seq: int, part: str, erased_by: int, empty: bool) -> None:
    """An erased part is empty, and a later entry about the same item says that it was erased."""
    item = select(_ENTRY.c.item_id).where(_ENTRY.c.seq == seq).scalar_subquery()
    covering = select(_ENTRY.c.seq).where(
        _ENTRY.c.seq == erased_by, _ENTRY.c.type == "erasure", _ENTRY.c.item_id == item
    )
    if not empty or erased_by <= seq or session.scalar(covering) is None:
        raise Bad(seq, "part", f"part {part} of entry {seq} was erased without an entry saying so")


def _check_head(chain: _Chain, head: Mapping[str, Any] | None) -> None:
    size = head["size"] if head else 0
    if chain.size < size:
        raise Bad(chain.size, "missing", f"entry {chain.size} is missing: the end of the log was cut off")
    if chain.size > size:
        raise Bad(size, "head", f"entry {size} stands behind the end of the log")
    if head is None or size == 0:
        return
    frontier = [node.hex() for node in chain.frontier]
    found = (head["last_leaf"], stamp(head["last_time"]), head["frontier"])
    if found != (chain.prev, chain.time, frontier):
        raise Bad(size - 1, "head", "the ledger's head disagrees with its last entry")


def _check_tables(session: Session, chain: _Chain) -> None:
    """What only the whole ledger can tell: parts of no entry, rows taken back or never recorded."""
    beyond = select(_PART.c.seq).where((_PART.c.seq < 0) | (_PART.c.seq >= chain.size))
    if (stray := session.scalar(beyond.order_by(_PART.c.seq).limit(1))) is not None:
        raise Bad(stray, "part", f"a part of entry {stray} belongs to no entry")
    if (found := tables.check_flags(session, BATCH)) is not None:
        raise Bad(*found)
    if (unrecorded := tables.stray_decision(session)) is not None:
        raise Bad(max(chain.size - 1, 0), "decision", f"decision {unrecorded} was never recorded")
