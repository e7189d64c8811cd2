"""Who and what is there: people with their queues, backends with their keys and secrets. Reads only.

What is listed here was made to be shown: it must never contain a hash, a key or a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, or_, select

from reviewqueue.db import db, now
from reviewqueue.errors import Missing
from reviewqueue.models import (
    ApiKey,
    Backend,
    Endpoint,
    Person,
    Project,
    Queue,
    QueueAccess,
    Secret,
    WebSession,
)
from reviewqueue.people.access import Actor, require


@dataclass(frozen=True)
class Member:
    """A person as the list of people shows them."""

    id: str
    name: str
    email: str
    role: str
    active: bool
    every_queue: bool
    queues: Sequence[str]  # "project / queue", when not every one
    has_password: bool
    last_seen: datetime | None
    created_at: datetime


@dataclass(frozen=True)
class Caller:
    """A backend as the list of backends shows it."""

    id: str
    name: str
    project: str
    active: bool
    keys: int
    url: str | None
    endpoint: str | None  # its state
    why: str | None
    created_at: datetime


def everybody(actor: Actor) -> list[Member]:
    """All people, those with an account in use first, by name."""
    require(actor, "read_people")
    people = db.session.scalars(select(Person).order_by(Person.active.desc(), Person.name, Person.id))
    return _members(people.all())


def member(actor: Actor, person_id: str) -> Member:
    """One person; Missing when there is none."""
    require(actor, "read_people")
    found = db.session.get(Person, person_id)
    if found is None:
        raise Missing("There is no such person.")
    return _members([found])[0]


def _members(people: Sequence[Person]) -> list[Member]:
    ids = [person.id for person in people]
    granted: dict[str, list[str]] = {}
    rows = db.session.execute(
        select(QueueAccess.person_id, Project.name, Queue.name)
        .join(Queue, Queue.id == QueueAccess.queue_id)
        .join(Project, Project.id == Queue.project_id)
        .where(QueueAccess.person_id.in_(ids))
        .order_by(Project.name, Queue.name)
    )
    for person_id, project, queue in rows:
        granted.setdefault(person_id, []).append(f"{project} / {queue}")
    latest = (
        select(WebSession.person_id, func.max(WebSession.seen_at))
        .where(WebSession.person_id.in_(ids))
        .group_by(WebSession.person_id)
    )
    seen: dict[str, datetime] = {row[0]: row[1] for row in db.session.execute(latest)}
    return [
        Member(
            person.id, person.name, person.email, person.role, person.active, person.every_queue,
            granted.get(person.id, []), person.password_hash is not None, seen.get(person.id),
            person.created_at,
        )
        for person in people
    ]  # fmt: skip


def queues_by_project() -> list[tuple[str, str, str]]:
    """(queue id, project, queue) of every queue, for choosing among them."""
    rows = db.session.execute(
        select(Queue.id, Project.name, Queue.name)
        .join(Project, Project.id == Queue.project_id)
        .order_by(Project.name, Queue.name)
    )
    return [(row[0], row[1], row[2]) for row in rows]


def granted_queues(person_id: str) -> set[str]:
    """The ids of the queues given to a person by name."""
    return set(db.session.scalars(select(QueueAccess.queue_id).where(QueueAccess.person_id == person_id)))


def callers(actor: Actor) -> list[Caller]:
    """All backends, those in use first, by name."""
    require(actor, "read_backends")
    keys = (
        select(ApiKey.backend_id, func.count().label("n"))
        .where(ApiKey.revoked_at.is_(None))
        .group_by(ApiKey.backend_id)
        .subquery()
    )
    rows = db.session.execute(
        select(Backend, Project.name, Endpoint, keys.c.n)
        .join(Project, Project.id == Backend.project_id)
        .outerjoin(Endpoint, Endpoint.backend_id == Backend.id)
        .outerjoin(keys, keys.c.backend_id == Backend.id)
        .order_by(Backend.active.desc(), Backend.name)
    )
    return [
        Caller(
            backend.id, backend.name, project, backend.active, count or 0, endpoint and endpoint.url,
            endpoint and endpoint.state, endpoint and endpoint.why, backend.created_at,
        )
        for backend, project, endpoint, count in rows
    ]  # fmt: skip


def caller(actor: Actor, name: str) -> tuple[Backend, Caller]:
    """One backend, stopped ones included; Missing when there is none."""
    for shown in callers(actor):
        if shown.name == name:
            return db.session.get_one(Backend, shown.id), shown
    raise Missing("There is no such backend.")


def keys_of(backend_id: str) -> list[ApiKey]:
    """A backend's API keys, those in force first, newest first."""
    newest = select(ApiKey).where(ApiKey.backend_id == backend_id).order_by(ApiKey.created_at.desc())
    return sorted(db.session.scalars(newest), key=lambda key: key.revoked_at is not None)


def secrets_in_force(backend_id: str) -> list[tuple[str, datetime, datetime | None]]:
    """(purpose, made, ends) of the webhook secrets in force, newest first; never the secrets."""
    rows = db.session.execute(
        select(Secret.purpose, Secret.created_at, Secret.expires_at)
        .where(Secret.backend_id == backend_id, or_(Secret.expires_at.is_(None), Secret.expires_at > now()))
        .order_by(Secret.purpose.desc(), Secret.created_at.desc())
    )
    return [(row[0], row[1], row[2]) for row in rows]
