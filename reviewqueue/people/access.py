"""Roles and rights in one table, and the one place that says who may see which object.

Nobody else decides what an actor may do or see. What is not theirs is Missing, told apart from what is
not there to nobody.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from sqlalchemy import Select, bindparam, false, select

from reviewqueue.db import db, reading
from reviewqueue.errors import Forbidden, Missing
from reviewqueue.models import ApiKey, Backend, Item, Person, Project, Queue, QueueAccess
from reviewqueue.prepared import Prepared

ADJUDICATION = "adjudication"
SCOPES = ("items:write", "items:read", "examples:read", "export:read")
REMEMBERED = 0.5  # seconds a process trusts in an API key it looked up; revoking takes a second at most

_EVERYBODY = frozenset({"reviewer", "lead", "admin", "auditor"})
_DECIDERS = frozenset({"reviewer", "lead", "admin"})
_LEADERS = frozenset({"lead", "admin"})
_OVERSEERS = frozenset({"lead", "admin", "auditor"})
_ADMINS = frozenset({"admin"})

# Right → roles. A backend has none of these, whatever its key says: its rights are the scopes.
RIGHTS: dict[str, frozenset[str]] = {
    "review": _DECIDERS,
    "adjudicate": _LEADERS,
    "override": _LEADERS,
    "promote": _LEADERS,
    "assign": _LEADERS,
    "replay": _LEADERS | {"system"},
    "export": _LEADERS | {"system"},
    "read_items": _EVERYBODY | {"system"},
    "read_examples": _EVERYBODY | {"system"},
    "read_policies": _EVERYBODY | {"system"},
    "read_audit": _OVERSEERS | {"system"},
    "read_deliveries": _OVERSEERS | {"system"},
    "read_backends": _OVERSEERS | {"system"},
    "insight": _OVERSEERS | {"system"},
    "read_people": frozenset({"admin", "auditor", "system"}),
    "publish": _ADMINS | {"system"},
    "manage_people": _ADMINS | {"system"},
    "manage_backends": _ADMINS | {"system"},
} | {scope: frozenset({"backend"}) for scope in SCOPES}


@dataclass(frozen=True)
class Actor:
    """Who acts: a person, a backend by its key, or the system itself (commands, the passing of time)."""

    id: str
    role: str
    every_queue: bool = True
    scopes: frozenset[str] = frozenset()
    backend_id: str | None = None
    project_id: str | None = None


SYSTEM = Actor("system", "system")


def actor_of(person: Person) -> Actor:
    """The person as one who acts; a deactivated one may do nothing."""
    if not person.active:
        raise Forbidden("this account has been deactivated")
    return Actor(person.id, person.role, every_queue=person.every_queue)


def authenticate_key(text: str) -> Actor | None:
    """The backend whose live API key this is, with the key's scopes; None for any other text.

    What was found is remembered for REMEMBERED seconds, or until `forget_keys`.
    """
    key_hash, moment = hash_key(text), time.monotonic()
    looked, actor = _live.get(key_hash, (-REMEMBERED, None))
    if actor is not None and moment - looked < REMEMBERED:
        return actor
    with reading() as connection:
        found = _LIVE_KEY.row(connection, {"key_hash": key_hash})
    if found is None:
        _live.pop(key_hash, None)
        return None
    scopes, backend_id, project_id = found
    actor = backend_actor(backend_id, project_id, scopes)
    _live[key_hash] = moment, actor  # counted from before the look, which may have taken long
    return actor


def forget_keys() -> None:
    """Look every API key up again: one was revoked, or a backend stopped."""
    _live.clear()


_live: dict[str, tuple[float, Actor]] = {}  # the hash of a key → looked up when, and whose it is

_LIVE_KEY = Prepared(
    lambda _: (
        select(ApiKey.scopes, Backend.id, Backend.project_id)
        .join(Backend, Backend.id == ApiKey.backend_id)
        .where(ApiKey.key_hash == bindparam("key_hash"), ApiKey.revoked_at.is_(None), Backend.active)
    )
)


def backend_actor(backend_id: str, project_id: str, scopes: Iterable[str]) -> Actor:
    """A backend that proved itself by a key or a signature."""
    return Actor(
        backend_id, "backend", every_queue=False, scopes=frozenset(scopes),
        backend_id=backend_id, project_id=project_id,
    )  # fmt: skip


def hash_key(text: str) -> str:
    """What is stored of an API key. It has 256 random bits, so that a plain hash is enough."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def may(actor: Actor, right: str) -> bool:
    """Whether the actor has this right, or its key this scope; KeyError for an unknown right."""
    return actor.role in RIGHTS[right] and (right not in SCOPES or right in actor.scopes)


def require(actor: Actor, right: str) -> None:
    """Forbidden unless the actor has the right."""
    if not may(actor, right):
        if actor.role == "backend" and right in SCOPES:
            raise Forbidden(f"this API key lacks the scope {right}")
        raise Forbidden("your role does not allow this")


def visible_queues(actor: Actor) -> list[Queue]:
    """The queues the actor may look into, by project and name."""
    return list(db.session.scalars(_queues(actor).order_by(Queue.project_id, Queue.name)))


def sees(actor: Actor, queue: Queue) -> bool:
    """Whether `queue` is one of `visible_queues`."""
    if not may(actor, "read_items") or (queue.name == ADJUDICATION and not _oversees(actor)):
        return False
    return actor.every_queue or db.session.get(QueueAccess, (actor.id, queue.id)) is not None


def queue_for(actor: Actor, project_name: str, queue_name: str, right: str = "review") -> Queue:
    """That queue; Missing when it is not there or not theirs, Forbidden when they only lack `right`."""
    wanted = (
        _queues(actor)
        .join(Project, Project.id == Queue.project_id)
        .where(Project.name == project_name, Queue.name == queue_name)
    )
    queue = db.session.scalars(wanted).one_or_none()
    if queue is None:
        raise Missing(f"there is no queue {queue_name} in project {project_name}")
    require(actor, right)
    return queue


def _queues(actor: Actor) -> Select[Queue]:
    """Every question about queues starts here. An auditor looks into all and may work none."""
    query = select(Queue)
    if not may(actor, "read_items"):
        return query.where(false())
    if not _oversees(actor):
        query = query.where(Queue.name != ADJUDICATION)
    if not actor.every_queue:
        mine = select(QueueAccess.queue_id).where(QueueAccess.person_id == actor.id)
        query = query.where(Queue.id.in_(mine))
    return query


def _oversees(actor: Actor) -> bool:
    return may(actor, "read_audit")


def _projects(actor: Actor) -> Select[Project]:
    """Every question about projects, and what belongs to them, starts here."""
    query = select(Project)
    if actor.role == "backend":
        return query.where(Project.id == actor.project_id)
    if _oversees(actor):
        return query
    return query.where(Project.id.in_(_queues(actor).with_only_columns(Queue.project_id)))


def projects_of(actor: Actor) -> list[Project]:
    """The projects whose items the actor may read, by name."""
    return list(db.session.scalars(_projects(actor).order_by(Project.name)))


def project_for(actor: Actor, name: str) -> Project:
    """That project; Missing when it is not there or not theirs."""
    project = db.session.scalars(_projects(actor).where(Project.name == name)).one_or_none()
    if project is None:
        raise Missing(f"there is no project {name}")
    return project


def item_for(actor: Actor, item_id: str) -> Item:
    """That item: a backend's own, or one of a project in which a person sees a queue; else Missing."""
    query = select(Item).where(Item.id == item_id)
    if actor.role == "backend":
        query = query.where(Item.backend_id == actor.backend_id)
    else:
        query = query.where(Item.project_id.in_(_projects(actor).with_only_columns(Project.id)))
    item = db.session.scalars(query).one_or_none()
    if item is None:
        raise Missing("there is no such item")
    return item


def people_of(ids: Iterable[str | None]) -> dict[str, str]:
    """The names of people and backends by their ids; unknown ids are left out."""
    wanted = {id_ for id_ in ids if id_}
    names: dict[str, str] = {}
    for table, prefix in ((Person, "usr_"), (Backend, "bck_")):
        of_kind = [id_ for id_ in wanted if id_.startswith(prefix)]
        if of_kind:
            rows = db.session.execute(select(table.id, table.name).where(table.id.in_(of_kind)))
            names |= {row.id: row.name for row in rows}
    return names
