"""The backend learns: its endpoint, deliveries and their attempts."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from reviewqueue.db import Base
from reviewqueue.models.columns import Json, one_of

ENDPOINT_STATES = ("unverified", "active", "disabled")
DELIVERY_STATES = ("due", "inflight", "parked", "delivered", "dead", "cancelled")
EVENTS = ("item.decided", "item.amended", "item.expired")


class Endpoint(Base):
    """Where a backend is called back."""

    __tablename__ = "endpoint"
    __table_args__ = (one_of("state", ENDPOINT_STATES),)

    backend_id: Mapped[str] = mapped_column(ForeignKey("backend.id"), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    trusted: Mapped[bool] = mapped_column(default=False)
    state: Mapped[str] = mapped_column(String(16))
    why: Mapped[str | None] = mapped_column(Text)  # why it is not active
    challenge: Mapped[str | None] = mapped_column(String(64))
    created_at: Mapped[datetime]
    verified_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    failed_at: Mapped[datetime | None]
    failures: Mapped[int] = mapped_column(default=0)  # attempts since the last success
    probe_wait: Mapped[int] = mapped_column(default=0)  # seconds between probes; 0: it is called as usual
    rest_until: Mapped[datetime | None]  # not called before
    draining: Mapped[bool] = mapped_column(default=False)  # what was parked goes out slowly
    slow: Mapped[bool] = mapped_column(default=False)  # its last answer took long
    mac: Mapped[str | None] = mapped_column(String(64))  # of the address; delivery/seals.py


class Delivery(Base):
    """One event on its way to a backend. The row is the work; a job is only a hint."""

    __tablename__ = "delivery"
    __table_args__ = (
        one_of("type", EVENTS),
        one_of("state", DELIVERY_STATES),
        # A decision that was undone told nobody anything: its number is free for the next one.
        Index(
            "uq_delivery_sequence",
            "item_id",
            "sequence",
            unique=True,
            postgresql_where=text("state <> 'cancelled'"),
            sqlite_where=text("state <> 'cancelled'"),
        ),
        Index(
            "ix_delivery_open",
            "backend_id",
            "next_attempt_at",
            postgresql_where=text("state IN ('due', 'inflight', 'parked')"),
            sqlite_where=text("state IN ('due', 'inflight', 'parked')"),
        ),
        Index(
            "ix_delivery_inflight",
            "backend_id",
            "next_attempt_at",
            postgresql_where=text("state = 'inflight'"),
            sqlite_where=text("state = 'inflight'"),
        ),
        Index("ix_delivery_state", "state", "id"),
        Index("ix_delivery_backend", "backend_id", "id"),
    )

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # evt_: the webhook-id
    backend_id: Mapped[str] = mapped_column(ForeignKey("backend.id"))
    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"), index=True)
    decision_id: Mapped[str | None] = mapped_column(ForeignKey("decision.id"), index=True)
    type: Mapped[str] = mapped_column(String(32))
    sequence: Mapped[int]  # within the item; k + 1 waits for the end of k
    body: Mapped[bytes] = mapped_column(LargeBinary)  # what every attempt sends
    mac: Mapped[str | None] = mapped_column(String(64))  # of whom it is for and the body
    state: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    cycle: Mapped[int] = mapped_column(default=0)  # attempts since it was created or last replayed
    next_attempt_at: Mapped[datetime]  # inflight: when the lease on the attempt runs out
    lease: Mapped[int] = mapped_column(default=0)  # counts takes; a result with an older one is dropped
    ended_at: Mapped[datetime | None]
    request_id: Mapped[str | None] = mapped_column(String(64))  # of the request that caused it


class Attempt(Base):
    """One try to deliver, and what came of it."""

    __tablename__ = "attempt"
    __table_args__ = (UniqueConstraint("delivery_id", "number", name="uq_attempt_number"),)

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # att_
    delivery_id: Mapped[str] = mapped_column(ForeignKey("delivery.id"))
    number: Mapped[int]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    outcome: Mapped[str | None] = mapped_column(String(24))  # None: under way, or its worker died
    status: Mapped[int | None]
    peer: Mapped[str | None] = mapped_column(String(64))
    answer: Mapped[str | None] = mapped_column(Text)  # the first 4 KiB
    headers: Mapped[dict[str, Any] | None] = mapped_column(Json)
