"""People decide: reviews wanted and given, claims held, decisions settled."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from reviewqueue.db import Base
from reviewqueue.models.columns import Counter, Json, one_of

PURPOSES = ("gate", "control", "adjudication")
REVIEW_STATES = ("wanted", "given", "cancelled", "undone")
VERDICTS = ("approve", "edit", "reject")
SOURCES = ("review", "control", "adjudication", "override", "timeout")
CLAIM_ENDS = ("decided", "released", "skipped", "escalated", "taken", "cancelled")
PRIORITIES = {"urgent": 0, "high": 1, "normal": 2, "low": 3}


class Review(Base):
    """One reviewer's turn at an item: wanted, then given.

    Claimed is no state but a lease that has not run out: nothing has to tidy leases.
    """

    __tablename__ = "review"
    __table_args__ = (
        one_of("purpose", PURPOSES),
        one_of("state", REVIEW_STATES),
        one_of("verdict", VERDICTS),
        UniqueConstraint("item_id", "round", "purpose", "seat", name="uq_review_seat"),
        # The order of a queue, as its index: claim_next reads the first rows and stops.
        Index(
            "ix_review_waiting",
            "queue_id",
            "rank",
            "due_at",
            "item_number",
            "id",
            postgresql_where=text("state = 'wanted'"),
            sqlite_where=text("state = 'wanted'"),
        ),
        Index(
            "ix_review_newest",
            "queue_id",
            "item_number",
            "id",
            postgresql_where=text("state = 'wanted'"),
            sqlite_where=text("state = 'wanted'"),
        ),
        Index(
            "ix_review_due",
            "due_at",
            postgresql_where=text("state = 'wanted'"),
            sqlite_where=text("state = 'wanted'"),
        ),
        Index(
            "ix_review_unprepared",
            "item_number",
            postgresql_where=text("state = 'wanted' AND prepared_at IS NULL"),
            sqlite_where=text("state = 'wanted' AND prepared_at IS NULL"),
        ),
        Index("ix_review_holder", "claimed_by", "lease_expires_at"),
        Index("ix_review_given", "given_by", "given_at"),
    )

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # rev_
    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"), index=True)
    item_number: Mapped[int] = mapped_column(Counter)
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    queue_id: Mapped[str] = mapped_column(ForeignKey("queue.id"))
    purpose: Mapped[str] = mapped_column(String(16))
    round: Mapped[int]
    seat: Mapped[int]  # 1..n of the reviews wanted; n of them are blind to each other
    state: Mapped[str] = mapped_column(String(16))
    rank: Mapped[int]  # PRIORITIES: 0 is urgent
    due_at: Mapped[datetime]
    created_at: Mapped[datetime]

    prepared_at: Mapped[datetime | None]
    hints: Mapped[dict[str, Any] | None] = mapped_column(Json)  # {"similar": [...], "hidden": [...]}

    claimed_by: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    claim_token: Mapped[str | None] = mapped_column(String(64), unique=True)
    fence: Mapped[int] = mapped_column(default=0)  # counts claims; only grows
    claimed_at: Mapped[datetime | None]
    lease_expires_at: Mapped[datetime | None]

    decision_id: Mapped[str | None] = mapped_column(String(30), unique=True)  # dec_, from the form
    verdict: Mapped[str | None] = mapped_column(String(16))
    output: Mapped[Any | None] = mapped_column(Json)  # the correction
    reason: Mapped[str | None] = mapped_column(String(200))
    cause: Mapped[str | None] = mapped_column(String(200))
    note: Mapped[str | None] = mapped_column(Text)
    given_by: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    given_at: Mapped[datetime | None]
    dwell_ms: Mapped[int | None]  # from the claim to the verdict


class Claim(Base):
    """The right to give one review: its token is the proof, its draft is never thrown away."""

    __tablename__ = "claim"
    __table_args__ = (
        one_of("ended", CLAIM_ENDS),
        Index("ix_claim_review", "review_id", "fence"),
        Index("ix_claim_person", "person_id", "claimed_at"),
    )

    token: Mapped[str] = mapped_column(String(64), primary_key=True)
    review_id: Mapped[str] = mapped_column(ForeignKey("review.id"))
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"))
    fence: Mapped[int]
    claimed_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    ended: Mapped[str | None] = mapped_column(String(16))
    remark: Mapped[str | None] = mapped_column(Text)  # why skipped, or the note that came with an escalation
    draft: Mapped[dict[str, Any] | None] = mapped_column(Json)  # form fields as they were typed
    draft_at: Mapped[datetime | None]


class Skip(Base):
    """A review a person passed over: not offered to them again before `until`."""

    __tablename__ = "skip"

    review_id: Mapped[str] = mapped_column(ForeignKey("review.id"), primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), primary_key=True)
    until: Mapped[datetime]


class Comment(Base):
    """What somebody handed in on an item whose review had gone to somebody else."""

    __tablename__ = "comment"

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # com_
    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"), index=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"))
    claim_token: Mapped[str] = mapped_column(ForeignKey("claim.token"), unique=True)
    written_at: Mapped[datetime]
    text: Mapped[str] = mapped_column(Text)  # the output as they would have had it, and their note


class Decision(Base):
    """What was settled for an item. At most one of an item's decisions is in force."""

    __tablename__ = "decision"
    __table_args__ = (
        one_of("verdict", VERDICTS),
        one_of("source", SOURCES),
        UniqueConstraint("item_id", "round", name="uq_decision_round"),
        Index(
            "uq_decision_in_force",
            "item_id",
            unique=True,
            postgresql_where=text("undone_at IS NULL AND superseded_at IS NULL"),
            sqlite_where=text("undone_at IS NULL AND superseded_at IS NULL"),
        ),
        Index("ix_decision_project", "project_id", "decided_at"),
        Index("ix_decision_person", "decided_by", "decided_at"),
        Index(
            "ix_decision_unlearned",
            "decided_at",
            postgresql_where=text("learned_at IS NULL"),
            sqlite_where=text("learned_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # dec_
    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"))
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    round: Mapped[int]
    source: Mapped[str] = mapped_column(String(16))
    verdict: Mapped[str | None] = mapped_column(String(16))  # None: a timeout is no verdict
    released: Mapped[bool]  # whether `output` may be used
    output: Mapped[Any | None] = mapped_column(Json)  # the final output; None when nothing may be used
    edited: Mapped[bool]
    reason: Mapped[str | None] = mapped_column(String(200))
    cause: Mapped[str | None] = mapped_column(String(200))
    note: Mapped[str | None] = mapped_column(Text)
    decided_by: Mapped[str | None] = mapped_column(ForeignKey("person.id"))  # None: the policy, by timeout
    decided_at: Mapped[datetime]
    final_at: Mapped[datetime]  # until then it can be undone, and nothing is sent
    policy_version: Mapped[int]
    sequence: Mapped[int | None]  # of the event that tells it; None: nothing to tell
    supersedes: Mapped[str | None] = mapped_column(ForeignKey("decision.id"))
    superseded_at: Mapped[datetime | None]
    undone_at: Mapped[datetime | None]
    learned_at: Mapped[datetime | None]  # when its input was indexed for "similar decisions"
