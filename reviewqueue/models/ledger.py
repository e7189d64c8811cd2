"""What happened, for good: the ledger's entries, their parts and the head of the chain."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import CheckConstraint, ForeignKey, Index, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column

from reviewqueue.db import Base
from reviewqueue.models.columns import Counter, Json


class LedgerEntry(Base):
    """One entry: canonical bytes, chained by `prev`, sealed by `mac`. The other columns are for look-ups."""

    __tablename__ = "ledger_entry"
    __table_args__ = (
        Index("ix_ledger_entry_item", "item_id", "seq"),
        Index("ix_ledger_entry_type", "type", "seq"),
        Index("ix_ledger_entry_actor", "actor", "seq"),
        Index("ix_ledger_entry_project", "project_id", "seq"),
        Index("ix_ledger_entry_time", "time"),
        Index(
            "uq_ledger_entry_decision",
            "decision_id",
            unique=True,
            postgresql_where=text("type = 'decision'"),
            sqlite_where=text("type = 'decision'"),
        ),
    )

    seq: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=False)
    prev: Mapped[str] = mapped_column(String(64), unique=True)
    leaf: Mapped[str] = mapped_column(String(64), unique=True)
    body: Mapped[bytes] = mapped_column(LargeBinary)
    mac: Mapped[str] = mapped_column(String(64))
    mac_key_id: Mapped[str] = mapped_column(String(16))
    type: Mapped[str] = mapped_column(String(32))
    time: Mapped[datetime]
    item_id: Mapped[str | None] = mapped_column(String(30))
    decision_id: Mapped[str | None] = mapped_column(String(30))
    project_id: Mapped[str | None] = mapped_column(String(30))
    actor: Mapped[str | None] = mapped_column(String(30))


class LedgerPart(Base):
    """Content an entry commits to by a salted hash, so that it can be erased without breaking the chain."""

    __tablename__ = "ledger_part"

    seq: Mapped[int] = mapped_column(ForeignKey("ledger_entry.seq"), primary_key=True)
    part: Mapped[str] = mapped_column(String(16), primary_key=True)
    salt: Mapped[bytes | None] = mapped_column(LargeBinary)
    payload: Mapped[bytes | None] = mapped_column(LargeBinary)
    erased_by: Mapped[int | None] = mapped_column(Counter)  # seq of the erasure entry


class LedgerHead(Base):
    """The end of the chain: the one row every append locks, last of all."""

    __tablename__ = "ledger_head"
    __table_args__ = (CheckConstraint("id = 1", name="single"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    origin: Mapped[str] = mapped_column(String(200))
    size: Mapped[int] = mapped_column(Counter)
    last_leaf: Mapped[str] = mapped_column(String(64))
    last_time: Mapped[datetime]
    frontier: Mapped[list[Any]] = mapped_column(Json)  # the tree's compact range, hex hashes, largest first
