"""Corrections kept for prompts: examples, and the numbered sets they make."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from reviewqueue.db import Base
from reviewqueue.models.columns import Json, one_of

EXAMPLE_STATES = ("proposed", "active", "retired")


class Example(Base):
    """Input, rejected output, corrected output and reason.

    It belongs to every set numbered `first_set` to `last_set`; both are written once, so a set never changes.
    """

    __tablename__ = "example"
    __table_args__ = (
        one_of("state", EXAMPLE_STATES),
        Index("ix_example_project", "project_id", "state", "id"),
        Index("ix_example_input", "project_id", "input_sha256"),
        Index("ix_example_sets", "project_id", "first_set", "last_set"),
    )

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # exa_
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    decision_id: Mapped[str] = mapped_column(ForeignKey("decision.id"), unique=True)
    item_id: Mapped[str] = mapped_column(ForeignKey("item.id"), index=True)
    state: Mapped[str] = mapped_column(String(16))
    input: Mapped[Any | None] = mapped_column(Json)
    input_text: Mapped[str] = mapped_column(Text)
    input_sha256: Mapped[str] = mapped_column(String(64))  # of the text, normalised: finds contradictions
    output: Mapped[Any | None] = mapped_column(Json)  # None: a reject says only what not to say
    rejected_output: Mapped[Any | None] = mapped_column(Json)
    reason: Mapped[str | None] = mapped_column(String(200))
    author_id: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    created_at: Mapped[datetime]
    promoted_by: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    promoted_at: Mapped[datetime | None]
    retired_by: Mapped[str | None] = mapped_column(ForeignKey("person.id"))
    retired_at: Mapped[datetime | None]
    first_set: Mapped[int | None]
    last_set: Mapped[int | None]


class ExampleSet(Base):
    """A numbered snapshot of a project's active examples."""

    __tablename__ = "example_set"
    __table_args__ = (UniqueConstraint("project_id", "number", name="uq_example_set_number"),)

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # set_
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    number: Mapped[int]
    size: Mapped[int]
    created_at: Mapped[datetime]
    created_by: Mapped[str] = mapped_column(String(30))  # usr_, or "system"
