"""seal(): what was submitted enters the ledger, some seconds later and many items at a time.

Submitting never waits for the ledger's head. Sealed are only numbers below which nothing can appear any
more, so that no item is ever left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from sqlalchemy import func, select, text
from sqlalchemy.exc import OperationalError

from reviewqueue.db import db, transaction
from reviewqueue.ledger import canonical
from reviewqueue.ledger.record import HEAD, record
from reviewqueue.models import Item, LedgerEntry

ARRIVING = (
    7213905502  # PostgreSQL advisory lock: shared by who stores items, alone by who asks for the horizon
)
BATCH = 1000  # items an entry seals at most
SEALED = "submissions.sealed"


def seal() -> int:
    """Seal every item that was stored before now; returns how many."""
    sealed = 0
    horizon = _horizon()
    while horizon is not None:
        done = _seal_some(horizon)
        sealed += done
        if done < BATCH:
            break
    return sealed


def seal_due() -> bool:
    """Whether an item waits to be sealed."""
    return db.session.scalar(select(func.max(Item.number)).where(Item.number > _last())) is not None


def root(digests: Iterable[str]) -> str:
    """The RFC 6962 root, in hex, over items' content digests (hex) in the order of their numbers."""
    frontier: list[bytes] = []
    for size, digest in enumerate(digests):
        frontier = canonical.grow(frontier, size, canonical.leaf_hash(bytes.fromhex(digest)))
    return canonical.root(frontier).hex()


def _horizon() -> int | None:
    """The highest number so far with no smaller one still on its way; None when that cannot be told now.

    On PostgreSQL a number is taken before its item is visible. Whoever stores items holds ARRIVING shared
    until it commits; once we had it alone, every number up to the highest visible is there or never will be.
    On SQLite writers come one after another.
    """
    try:
        with transaction() as session:
            if session.get_bind().dialect.name == "postgresql":
                session.execute(text("SET LOCAL lock_timeout = '1s'"))
                session.execute(select(func.pg_advisory_xact_lock(ARRIVING)))
            return session.scalar(select(func.max(Item.number)))
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) == "55P03":  # somebody is storing for long: next time
            return None
        raise


def _seal_some(horizon: int) -> int:
    with transaction() as session:
        session.execute(HEAD)  # one sealer at a time, from reading the last number to writing the next
        rows = session.execute(
            select(Item.number, Item.content_sha256)
            .where(Item.number > _last(), Item.number <= horizon)
            .order_by(Item.number)
            .limit(BATCH)
        ).all()
        if rows:
            fields = {
                "n": len(rows),
                "first": rows[0].number,
                "last": rows[-1].number,
                "root": root(row.content_sha256 for row in rows),
            }
            record(SEALED, fields)
    return len(rows)


def _last() -> int:
    """The highest number that is sealed."""
    newest = (
        select(LedgerEntry.body).where(LedgerEntry.type == SEALED).order_by(LedgerEntry.seq.desc()).limit(1)
    )
    body = db.session.scalar(newest)
    return int(json.loads(body)["last"]) if body is not None else 0
