"""Who may do what: people with a role, and backends with keys and secrets."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, Index, LargeBinary, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from reviewqueue.db import Base
from reviewqueue.models.columns import Json, one_of

ROLES = ("reviewer", "lead", "admin", "auditor")
SECRET_PURPOSES = ("inbound", "callback")


class Person(Base):
    """Somebody who signs in. Emails are stored in lower case."""

    __tablename__ = "person"
    __table_args__ = (one_of("role", ROLES),)

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # usr_
    email: Mapped[str] = mapped_column(String(254), unique=True)
    name: Mapped[str] = mapped_column(String(200))
    role: Mapped[str] = mapped_column(String(16))
    # False: only the queues in QueueAccess, and none when there are none.
    every_queue: Mapped[bool] = mapped_column(default=True)
    password_hash: Mapped[str | None] = mapped_column(String(200))
    active: Mapped[bool] = mapped_column(default=True)
    wishes: Mapped[dict[str, Any] | None] = mapped_column(Json)  # how they like to work: people/wishes.py
    created_at: Mapped[datetime]


class QueueAccess(Base):
    """A queue that a person without `every_queue` may work."""

    __tablename__ = "queue_access"

    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), primary_key=True)
    queue_id: Mapped[str] = mapped_column(ForeignKey("queue.id"), primary_key=True)


class SignInLink(Base):
    """A one-time link; only the hash of its token is kept."""

    __tablename__ = "sign_in_link"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    used_at: Mapped[datetime | None]


class WebSession(Base):
    """A browser that is signed in; only the hash of its token is kept."""

    __tablename__ = "web_session"

    token_hash: Mapped[str] = mapped_column(String(64), primary_key=True)
    person_id: Mapped[str] = mapped_column(ForeignKey("person.id"), index=True)
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    confirmed_at: Mapped[datetime]  # when the password was last given, for steps that ask again
    revoked_at: Mapped[datetime | None]
    browser: Mapped[str] = mapped_column(String(200), default="")


class SignInAttempt(Base):
    """A try to sign in, kept to slow guessing down."""

    __tablename__ = "sign_in_attempt"
    __table_args__ = (
        Index("ix_sign_in_attempt_account", "account", "at"),
        Index("ix_sign_in_attempt_address", "address", "at"),
    )

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # try_
    account: Mapped[str] = mapped_column(String(64))  # hash of the email given
    address: Mapped[str] = mapped_column(String(45))
    at: Mapped[datetime]
    succeeded: Mapped[bool]


class Backend(Base):
    """A program that submits items to one project and receives callbacks."""

    __tablename__ = "backend"

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # bck_
    name: Mapped[str] = mapped_column(String(64), unique=True)  # a slug, stands in /webhooks/<name>
    project_id: Mapped[str] = mapped_column(ForeignKey("project.id"), index=True)
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime]


class ApiKey(Base):
    """A backend's key: its hash, its scopes and the few characters people recognise it by."""

    __tablename__ = "api_key"

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # key_
    backend_id: Mapped[str] = mapped_column(ForeignKey("backend.id"), index=True)
    key_hash: Mapped[str] = mapped_column(String(64), unique=True)
    hint: Mapped[str] = mapped_column(String(16))
    scopes: Mapped[list[Any]] = mapped_column(Json)
    created_at: Mapped[datetime]
    revoked_at: Mapped[datetime | None]


class Secret(Base):
    """A webhook secret, encrypted; several of one purpose overlap while they are being rotated."""

    __tablename__ = "secret"
    __table_args__ = (
        one_of("purpose", SECRET_PURPOSES),
        UniqueConstraint("backend_id", "purpose", "created_at", name="uq_secret_turn"),
    )

    id: Mapped[str] = mapped_column(String(30), primary_key=True)  # sec_
    backend_id: Mapped[str] = mapped_column(ForeignKey("backend.id"), index=True)
    purpose: Mapped[str] = mapped_column(String(16))
    sealed: Mapped[bytes] = mapped_column(LargeBinary)  # nonce + AES-256-GCM
    key_id: Mapped[str] = mapped_column(String(16))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]  # set when a newer one took over
