"""The ledger's rows as the driver gives them, in order and few at a time.

Nothing is parsed here: most rows are good, and parsing what is only compared costs most. A row that cannot
even be read must be named, never skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any, NamedTuple, cast

from sqlalchemy import Select, String, Table, select, type_coerce
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from reviewqueue.ledger.entries import INDEXED
from reviewqueue.models import LedgerEntry, LedgerPart

PARTS_AT_ONCE = 50  # a part may hold a whole item

_ENTRY = cast(Table, LedgerEntry.__table__)
_PART = cast(Table, LedgerPart.__table__)
UNREADABLE = (SQLAlchemyError, ValueError, TypeError)


class Bad(Exception):
    """What is wrong with which entry; `kind` is one word for programs."""

    def __init__(self, seq: int, kind: str, problem: str) -> None:
        super().__init__(problem)
        self.seq, self.kind, self.problem = seq, kind, problem


class Entry(NamedTuple):
    """One entry; `indexed` are the columns of INDEXED."""

    seq: int
    prev: str
    leaf: str
    body: bytes
    mac: str
    mac_key_id: str
    type: str
    time: Any
    indexed: tuple[str | None, ...]


_ENTRY_COLUMNS = [
    _ENTRY.c.seq, _ENTRY.c.prev, _ENTRY.c.leaf, type_coerce(_ENTRY.c.body, String), _ENTRY.c.mac,
    _ENTRY.c.mac_key_id, _ENTRY.c.type, type_coerce(_ENTRY.c.time, String),
    *(_ENTRY.c[column] for column in INDEXED.values()),
]  # fmt: skip
_PART_COLUMNS = [
    _PART.c.seq, _PART.c.part, type_coerce(_PART.c.salt, String), type_coerce(_PART.c.payload, String),
    _PART.c.erased_by,
]  # fmt: skip


def entries(session: Session, start: int, limit: int) -> Sequence[Entry]:
    """The next entries from `start` on, at most `limit`; Bad when not even the first can be read."""
    query = select(*_ENTRY_COLUMNS).order_by(_ENTRY.c.seq)
    query = query.where(_ENTRY.c.seq >= start) if start else query
    try:
        return _fetched(session, query.limit(limit))
    except UNREADABLE:
        numbers = select(_ENTRY.c.seq).where(_ENTRY.c.seq >= start).order_by(_ENTRY.c.seq)
        return _readable(session, session.scalars(numbers.limit(limit)).all())


def _fetched(session: Session, query: Select[*tuple[Any, ...]]) -> list[Entry]:
    return [Entry._make((*row[:8], tuple(row[8:]))) for row in session.execute(query).all()]


def _readable(session: Session, numbers: Sequence[int]) -> Sequence[Entry]:
    rows: list[Entry] = []
    for seq in numbers:
        try:
            rows += _fetched(session, select(*_ENTRY_COLUMNS).where(_ENTRY.c.seq == seq))
        except UNREADABLE as error:
            if rows:
                return rows
            raise Bad(seq, "unreadable", f"entry {seq} cannot be read") from error
    return rows


class Parts:
    """The parts of entries `first` to `last`, to be asked for in their order; few are read at a time."""

    def __init__(self, session: Session, first: int, last: int) -> None:
        self._session, self._last = session, last
        between = select(*_PART_COLUMNS).where(_PART.c.seq >= first, _PART.c.seq <= last)
        options = {"stream_results": True, "yield_per": PARTS_AT_ONCE}
        self._result = session.execute(between.order_by(_PART.c.seq), execution_options=options)
        rows = chain.from_iterable(self._result.partitions())
        self._groups = groupby(rows, key=itemgetter(0))
        self._waiting: tuple[int, list[Any]] | None = None

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        self._result.close()

    def of(self, seq: int) -> list[Any]:
        """Those of entry `seq`."""
        try:
            if self._waiting is None:
                self._waiting = next(((number, list(rows)) for number, rows in self._groups), (-1, []))
        except UNREADABLE as error:
            raise self._unreadable(seq) from error
        if self._waiting[0] != seq:
            return []
        rows, self._waiting = self._waiting[1], None
        return rows

    def _unreadable(self, seq: int) -> Bad:
        """The first from `seq` on whose parts cannot be read: several were read at once."""
        for number in range(seq, self._last + 1):
            try:
                self._session.execute(select(*_PART_COLUMNS).where(_PART.c.seq == number)).all()
            except UNREADABLE:
                seq = number
                break
        return Bad(seq, "unreadable", f"a part of entry {seq} cannot be read")
