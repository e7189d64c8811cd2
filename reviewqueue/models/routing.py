"""Projects, their queues and the versions of their policies."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from reviewqueue.db import Base
from reviewqueue.models.columns import Json, one_of

KINDS = ("text", "markdown", "json", "label", "chat", "tool_call")


class Project(Base):
    """One use of an LLM. What may change without a new policy version stands here."""

    __tablename__ = "project"
    __table_args__ = (one_of("kind", KINDS),)

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # prj_
    name: Mapped[str] = mapped_column(String(64), unique=True)  # the slug; never changes
    title: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(16))
    guidelines: Mapped[str] = mapped_column(Text, default="")
    schema: Mapped[dict[str, Any] | None] = mapped_column(Json)  # JSON Schema of the output
    reasons: Mapped[list[Any]] = mapped_column(Json)
    causes: Mapped[list[Any]] = mapped_column(Json)
    replies: Mapped[list[Any]] = mapped_column(Json, default=list)  # saved replies: [{"name", "text"}]
    control_arm: Mapped[float] = mapped_column(default=0.0)  # share of example searches that get none
    policy_version: Mapped[int]  # the version in force
    example_set: Mapped[int] = mapped_column(default=0)  # the newest set's number
    paused: Mapped[bool] = mapped_column(default=False)  # everything goes to review
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]


class Policy(Base):
    """One published version of a project's policy; never changed."""

    __tablename__ = "policy"
    __table_args__ = (UniqueConstraint("project_id", "version", name="uq_policy_version"),)

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # pol_
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    version: Mapped[int]
    body: Mapped[dict[str, Any]] = mapped_column(Json)  # the [policy] table with its defaults filled in
    digest: Mapped[str] = mapped_column(String(64))
    published_at: Mapped[datetime]
    published_by: Mapped[str | None] = mapped_column(ForeignKey("person.id"))  # None: from the command line


class Queue(Base):
    """A named line of reviews in a project: `main`, `adjudication`, and those its rules name."""

    __tablename__ = "queue"
    __table_args__ = (UniqueConstraint("project_id", "name", name="uq_queue_name"),)

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # que_
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"))
    name: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime]
