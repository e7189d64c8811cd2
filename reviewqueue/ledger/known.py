"""The last state of the ledger that this machine has seen, kept in the data folder, outside the database.

An older backup that was put back, or a rewritten log, does not hold it: that is told until somebody has
acknowledged it in the ledger. What is known must never be replaced by a log that does not follow from it.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from sqlalchemy import Connection, select

from reviewqueue.config import current
from reviewqueue.db import db, transaction
from reviewqueue.errors import Conflict
from reviewqueue.ledger.record import Recorded, record
from reviewqueue.models import LedgerEntry, LedgerHead

log = logging.getLogger("reviewqueue.ledger.known")

ACKNOWLEDGED = "rollback.acknowledged"


@dataclass(frozen=True)
class Known:
    """A log once had `size` entries, the last with this leaf hash."""

    size: int
    leaf: str

    @property
    def words(self) -> str:
        """What is wrong when the log does not hold it."""
        return (
            f"this machine has seen a ledger of {self.size} entries that this one is not the continuation "
            "of: an older backup was restored, or entries were replaced; "
            "`python -m reviewqueue ledger acknowledge-rollback` records that this is known"
        )


def known() -> Known | None:
    """What was noted last; None when nothing was, or when the note cannot be read."""
    try:
        said = json.loads(_path().read_bytes())
        return Known(int(said["size"]), str(said["leaf"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def note() -> None:
    """Note where the ledger stands now, if it follows from what is known; costs two look-ups."""
    before = known()
    with db.engine.connect() as connection:
        head = connection.execute(
            select(LedgerHead.size, LedgerHead.last_leaf).where(LedgerHead.id == 1)
        ).one_or_none()
        if head is None or head.size == 0 or (before is not None and head.size == before.size):
            return
        if before is not None and lost(connection, before) is not None:
            return
    _write(Known(head.size, head.last_leaf))


def lost(connection: Connection, before: Known | None) -> Known | None:
    """`before` when the log of this connection does not hold it and nobody has acknowledged that."""
    if before is None:
        return None
    leaf = connection.scalar(select(LedgerEntry.leaf).where(LedgerEntry.seq == before.size - 1))
    if leaf == before.leaf or _acknowledged(connection, before):
        return None
    return before


def rolled_back() -> Known | None:
    """What this machine has seen and the database does not hold; None when all is well."""
    before = known()
    with db.engine.connect() as connection:
        return lost(connection, before)


def acknowledge(actor_id: str) -> Recorded:
    """Record that the loss of what was known is itself known; Conflict when nothing is missing."""
    gone = rolled_back()
    if gone is None:
        raise Conflict("The ledger holds all that this machine has seen of it.", "not_rolled_back")
    with transaction():
        fields = {"known": gone.size, "leaf": gone.leaf}
        recorded = record(ACKNOWLEDGED, fields, actor=actor_id)
    note()
    return recorded


def _acknowledged(connection: Connection, before: Known) -> bool:
    told = connection.scalars(select(LedgerEntry.body).where(LedgerEntry.type == ACKNOWLEDGED))
    bodies = [json.loads(body) for body in told]
    return any((body.get("known"), body.get("leaf")) == (before.size, before.leaf) for body in bodies)


def _path() -> Path:
    return current().data_dir / "ledger-known.json"


def _write(state: Known) -> None:
    """Replace the note in one step; of two writers either may win, each note is true."""
    path = _path()
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        scratch.write_text(json.dumps(asdict(state)) + "\n")
        os.replace(scratch, path)
    except OSError as error:
        # A full disk must not keep a process from starting; what was known before stays known.
        scratch.unlink(missing_ok=True)
        log.warning("the ledger's state cannot be noted: %s", error.strerror)
