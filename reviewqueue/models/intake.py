"""What arrived: items, and the submissions that name them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Double, ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from reviewqueue.db import Base
from reviewqueue.models.columns import Counter, Json, one_of

STATUSES = ("released", "pending", "decided", "blocked", "withdrawn", "expired", "erased")
ROUTES = ("release", "review", "block")
CONFIDENCE_SOURCES = ("given", "logprobs", "samples")


class Item(Base):
    """One LLM output with its input and context, and what its policy said about it."""

    __tablename__ = "item"
    __table_args__ = (
        one_of("status", STATUSES),
        one_of("route", ROUTES),
        one_of("confidence_source", CONFIDENCE_SOURCES),
        UniqueConstraint("backend_id", "project_id", "external_id", name="uq_item_external_id"),
        Index("ix_item_project_status", "project_id", "status", "number"),
        Index("ix_item_backend", "backend_id", "number"),
        Index("ix_item_created", "project_id", "created_at"),
    )

    number: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)  # order of submission
    id: Mapped[str] = mapped_column(String(30), unique=True)  # itm_
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    backend_id: Mapped[str] = mapped_column(ForeignKey("backend.id"))
    external_id: Mapped[str | None] = mapped_column(String(200))
    content_sha256: Mapped[str] = mapped_column(String(64))  # of all that was submitted, for repeats
    created_at: Mapped[datetime]

    status: Mapped[str] = mapped_column(String(16))
    sequence: Mapped[int] = mapped_column(default=0)  # of the last event told to the backend
    round: Mapped[int] = mapped_column(default=1)  # a new one after each undo, override or amendment

    output: Mapped[Any | None] = mapped_column(Json)
    input: Mapped[Any | None] = mapped_column(Json)
    context: Mapped[list[Any] | None] = mapped_column(Json)
    samples: Mapped[list[Any] | None] = mapped_column(Json)
    details: Mapped[dict[str, Any] | None] = mapped_column(Json)  # "metadata": echoed, never interpreted
    usage: Mapped[dict[str, Any] | None] = mapped_column(Json)
    trace: Mapped[dict[str, Any] | None] = mapped_column(Json)
    risk_flags: Mapped[list[Any] | None] = mapped_column(Json)
    model: Mapped[str | None] = mapped_column(String(200))
    prompt_name: Mapped[str | None] = mapped_column(String(200))
    prompt_version: Mapped[str | None] = mapped_column(String(200))
    example_set: Mapped[int | None]
    arm: Mapped[str | None] = mapped_column(String(32))
    subject: Mapped[str | None] = mapped_column(String(200))
    feature: Mapped[str | None] = mapped_column(String(200))

    policy_version: Mapped[int]
    route: Mapped[str] = mapped_column(String(16))
    route_queue: Mapped[str | None] = mapped_column(String(64))
    route_reasons: Mapped[list[Any]] = mapped_column(Json)  # [{"code", "message"}]

    # What a threshold can later be proved with; written once, kept when the content is erased.
    confidence: Mapped[float | None] = mapped_column(Double)
    confidence_source: Mapped[str | None] = mapped_column(String(16))
    risk: Mapped[float | None] = mapped_column(Double)
    eligible: Mapped[bool]
    passed: Mapped[bool]
    confidence_below: Mapped[float | None] = mapped_column(Double)  # threshold in force, None: none
    risk_above: Mapped[float | None] = mapped_column(Double)
    review_probability: Mapped[float] = mapped_column(Double)  # pi
    floor_probability: Mapped[float] = mapped_column(Double)  # p
    coin: Mapped[float] = mapped_column(Double)
    sampled: Mapped[bool]


class Submission(Base):
    """An idempotency key of a backend: one key names one item (or one batch), for ever."""

    __tablename__ = "submission"

    backend_id: Mapped[str] = mapped_column(ForeignKey("backend.id"), primary_key=True)
    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    fingerprint: Mapped[str] = mapped_column(String(64))  # SHA-256 of method, path and raw body
    # None: a batch. Looked at when the transaction ends, since the key is taken before its item is stored.
    item_id: Mapped[str | None] = mapped_column(
        ForeignKey("item.id", deferrable=True, initially="DEFERRED"), index=True
    )
    answer: Mapped[str | None] = mapped_column(Text)  # a batch's answer, to be given again
    created_at: Mapped[datetime]
