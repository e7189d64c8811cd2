"""How items are found: a card for each, the words the cards use, saved views, and decisions in bulk.

Cards and facets are copies made for reading. They are written by a job, never by a submission.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Double, ForeignKey, Index, String, Text, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column

from reviewqueue.db import Base
from reviewqueue.models.columns import Counter, Json, one_of
from reviewqueue.models.review import VERDICTS

OUTCOMES = ("decided", "left", "refused", "undone")
FACETS = ("project", "queue", "reason", "cause", "person", "model", "prompt", "flag")


class Facet(Base):
    """A word that items are found by, such as a model's name; cards hold its number, to stay narrow."""

    __tablename__ = "facet"
    __table_args__ = (one_of("name", FACETS), UniqueConstraint("name", "value", name="uq_facet_value"))

    code: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=True)
    name: Mapped[str] = mapped_column(String(16))
    value: Mapped[str] = mapped_column(String(410))


class Card(Base):
    """What one item is found by. Narrow on purpose: a million of them are read through in one go."""

    __tablename__ = "card"
    __table_args__ = (
        Index(
            "ix_card_alike",
            "alike",
            "number",
            postgresql_where=text("due IS NOT NULL"),
            sqlite_where=text("due IS NOT NULL"),
        ),
        Index("ix_card_stale", "number", postgresql_where=text("stale"), sqlite_where=text("stale")),
    )

    number: Mapped[int] = mapped_column(Counter, primary_key=True, autoincrement=False)  # of the item
    project: Mapped[int]  # a facet's code, as are the others but for `status`, `verdict` and the times
    queue: Mapped[int | None]  # where a review of it is wanted, or else the queue it was routed to
    status: Mapped[int]  # place in STATUSES
    verdict: Mapped[int | None]  # place in VERDICTS, of the decision in force, as the next three
    reason: Mapped[int | None]
    cause: Mapped[int | None]
    person: Mapped[int | None]
    model: Mapped[int | None]
    prompt: Mapped[int | None]
    created: Mapped[int]  # when it was submitted, in seconds since 1970
    due: Mapped[int | None]  # when the first review still wanted is due, likewise
    confidence: Mapped[float | None] = mapped_column(Double)
    risk: Mapped[float | None] = mapped_column(Double)
    alike: Mapped[int | None] = mapped_column(BigInteger)  # the same for items that say the same
    stale: Mapped[bool] = mapped_column(default=False)  # something changed that no ledger entry tells


class Mark(Base):
    """How far a job has come that reads something in its order."""

    __tablename__ = "mark"

    name: Mapped[str] = mapped_column(String(32), primary_key=True)
    at: Mapped[int] = mapped_column(BigInteger)


class SavedView(Base):
    """Filters of a list that somebody saved under a name, for themselves or for everybody."""

    __tablename__ = "saved_view"
    __table_args__ = (Index("ix_saved_view_person", "person_id"),)

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # viw_
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"))
    shared: Mapped[bool]
    name: Mapped[str] = mapped_column(String(60))
    queue_id: Mapped[str | None] = mapped_column(ForeignKey("queue.id"))  # None: of the list of all items
    filters: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[datetime]


class Batch(Base):
    """Verdicts that one person gave to many items at once."""

    __tablename__ = "batch"
    __table_args__ = (Index("ix_batch_person", "person_id", "created_at"),)

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # bat_
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"))
    queue_id: Mapped[str] = mapped_column(ForeignKey("queue.id"))
    reason: Mapped[str | None] = mapped_column(String(200))
    cause: Mapped[str | None] = mapped_column(String(200))
    note: Mapped[str | None] = mapped_column(Text)
    after_id: Mapped[str | None] = mapped_column(ForeignKey("item.id"))  # its correction is given to the rest
    created_at: Mapped[datetime]


class BatchItem(Base):
    """One item of a batch and what came of it."""

    __tablename__ = "batch_item"
    __table_args__ = (
        one_of("outcome", OUTCOMES),
        one_of("verdict", VERDICTS),
        UniqueConstraint("batch_id", "place", name="uq_batch_item_place"),
    )

    batch_id: Mapped[str] = mapped_column(ForeignKey("batch.id"), primary_key=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"), primary_key=True)
    place: Mapped[int]
    verdict: Mapped[str] = mapped_column(String(16))
    decision_id: Mapped[str] = mapped_column(
        String(30)
    )  # chosen beforehand, so that nothing is decided twice
    outcome: Mapped[str | None] = mapped_column(String(16))  # None: still to be done
    said: Mapped[str | None] = mapped_column(String(300))  # why it was left, refused or not undone
