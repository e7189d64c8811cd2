"""The rows of a submission: items, the reviews they want, and who was there first.

Two unique keys decide between submissions of the same item; what was looked up before never does. Nothing
here opens or ends a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Select, Text, bindparam, func, insert, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from reviewqueue.db import Base, db, now
from reviewqueue.errors import Conflict, Missing, Refusal
from reviewqueue.ids import new_id
from reviewqueue.intake.arrival import EDITION, Arrival, Desk
from reviewqueue.intake.items import COLUMNS, as_submitted, columns_of
from reviewqueue.intake.room import require_room
from reviewqueue.intake.seal import ARRIVING
from reviewqueue.models import Item, Project, Review
from reviewqueue.models import Submission as Known
from reviewqueue.models.review import PRIORITIES
from reviewqueue.prepared import Prepared


@dataclass(frozen=True)
class Answer:
    """What a submission is answered: the item's id, its shape as submitted, and whether this is a repeat."""

    id: str
    body: dict[str, Any]
    replayed: bool

    @property
    def item(self) -> Item:
        """The item as it stands now."""
        return db.session.scalars(select(Item).where(Item.id == self.id)).one()


class Overtaken(Exception):
    """The project changed between routing and storing, or the key was taken: look again."""


def _insert(table: type[Base]) -> Callable[[str], Any]:
    """INSERT … ON CONFLICT DO NOTHING, on both databases."""

    def build(dialect: str) -> Any:
        if dialect == "postgresql":
            return postgresql.insert(table).on_conflict_do_nothing()
        return sqlite.insert(table).on_conflict_do_nothing()

    return build


def _still(dialect: str) -> Select[Any]:
    """One row, the project's id, when it is as the desk that routed has it."""
    held = select(Project.id).where(
        Project.id == bindparam("project"), *(column == bindparam(column.key) for column in EDITION)
    )
    if dialect == "sqlite":
        return held
    # A number is taken before its item is visible; `seal` waits for whoever holds this.
    return held.add_columns(func.pg_advisory_xact_lock_shared(ARRIVING))


def _key_taken(dialect: str) -> Any:
    """The key's row, unless the key names something already or the project changed."""
    names = ["backend_id", "key", "fingerprint", "item_id", "created_at"]
    still = _still(dialect).subquery()
    values = [bindparam(name, type_=Known.__table__.c[name].type) for name in names]
    # SQLite needs a WHERE here to tell ON CONFLICT from a join's ON.
    taken = select(*values).select_from(still).where(literal_column("1 = 1"))
    return _insert(Known)(dialect).from_select(names, taken)


_LOOK = Prepared(
    lambda _: (
        select(*EDITION, Known.fingerprint, Known.item_id, Known.answer)
        .outerjoin(Known, (Known.backend_id == bindparam("backend")) & (Known.key == bindparam("key")))
        .where(Project.id == bindparam("project"))
    )
)
_STILL = Prepared(_still)
_TAKE_KEY = Prepared(_key_taken)
_ONE_BATCH = Prepared(
    lambda _: select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("backend", type_=Text), 0)))
)
_ITEM = [column.key for column in Item.__table__.columns if column.key != "number"]
_INSERT = Prepared(_insert(Item), _ITEM)
_INSERT_ONE = Prepared(lambda dialect: _insert(Item)(dialect).returning(Item.number), _ITEM)
_INSERT_REVIEW = Prepared(
    lambda _: insert(Review),
    ["id", "item_id", "item_number", "project_id", "queue_id", "purpose", "round", "seat", "state", "rank",
     "due_at", "created_at", "fence"],
)  # fmt: skip
_ANSWERED = Prepared(
    lambda _: (
        select(*COLUMNS, Project.name)
        .join(Project, Project.id == Item.project_id)
        .where(Item.id == bindparam("id"))
    )
)


class Named(NamedTuple):
    """What an idempotency key names: an item, or the results of a batch."""

    fingerprint: str
    item_id: str | None
    answer: str | None


def look(
    connection: Connection, project_id: str, backend_id: str, key: str | None
) -> tuple[tuple[Any, ...], Named | None]:
    """The edition of the project, and what `key` names of this backend, if anything."""
    row = _LOOK.row(connection, {"project": project_id, "backend": backend_id, "key": key})
    if row is None:
        raise Missing("there is no such project, or it is not this backend's", "project_not_found")
    size = len(EDITION)
    return row[:size], Named(*row[size:]) if row[size] is not None else None


def begin(
    connection: Connection,
    desk: Desk,
    backend_id: str,
    key: str | None,
    fingerprint: str,
    item_id: str | None,
) -> None:
    """Make sure that `desk` still holds, and let `key`, if there is one, name this submission for good.

    Overtaken when the project changed, or somebody took the key. Lets `seal` know that numbers come.
    """
    edition = {column.key: value for column, value in zip(EDITION, desk.edition, strict=True)}
    values = {"project": desk.project_id} | edition
    if key is None:
        held = _STILL.row(connection, values) is not None
    else:
        named = {"backend_id": backend_id, "key": key, "fingerprint": fingerprint, "item_id": item_id}
        held = _TAKE_KEY.run(connection, values | named | {"created_at": now()}) == 1
    if not held:
        raise Overtaken


def one_batch_at_a_time(connection: Connection, backend_id: str) -> None:
    """Let a backend's batches come one after the other: two that name the same external ids in another order
    would each wait for the other on PostgreSQL. On SQLite all writers do."""
    if connection.dialect.name == "postgresql":
        _ONE_BATCH.rows(connection, {"backend": backend_id})


def store_all(connection: Connection, desk: Desk, arrivals: Sequence[Arrival]) -> list[Answer | Refusal]:
    """Insert the items and the reviews they want; whose external id is known is a repeat or a conflict."""
    numbers = _insert_items(connection, arrivals)
    new = [arrival for arrival in arrivals if arrival.row["id"] in numbers]
    reviews = [review for arrival in new for review in _reviews(arrival, desk, numbers[arrival.row["id"]])]
    if reviews:
        require_room(connection, [review["queue_id"] for review in reviews])
        _INSERT_REVIEW.run_many(connection, reviews)
    known = _known(connection, [arrival for arrival in arrivals if arrival.row["id"] not in numbers])
    return [
        Answer(arrival.row["id"], as_submitted(arrival.row, desk.project), replayed=False)
        if arrival.row["id"] in numbers
        else _compare(connection, arrival, desk, known[arrival.row["external_id"]])
        for arrival in arrivals
    ]


def store_one(connection: Connection, desk: Desk, arrival: Arrival) -> Answer:
    """`store_all` for one item; raises what refuses it."""
    (answer,) = store_all(connection, desk, [arrival])
    if isinstance(answer, Refusal):
        raise answer
    return answer


def _insert_items(connection: Connection, arrivals: Sequence[Arrival]) -> dict[str, int]:
    """The numbers of those that were not there yet, by id."""
    if len(arrivals) == 1:
        (row,) = (arrival.row for arrival in arrivals)
        found = _INSERT_ONE.row(connection, row)
        return {row["id"]: found[0]} if found else {}
    _INSERT.run_many(connection, [arrival.row for arrival in arrivals])
    ids = [arrival.row["id"] for arrival in arrivals]
    found_all = connection.execute(select(Item.id, Item.number).where(Item.id.in_(ids)))
    return {row.id: row.number for row in found_all}


def _reviews(arrival: Arrival, desk: Desk, number: int) -> list[dict[str, Any]]:
    route, row = arrival.route, arrival.row
    created: datetime = row["created_at"]
    return [
        {
            "id": new_id("rev"),
            "item_id": row["id"],
            "item_number": number,
            "project_id": desk.project_id,
            "queue_id": desk.queues[route.queue or ""],
            "purpose": "gate" if route.decision == "review" else "control",
            "round": 1,
            "seat": seat,
            "state": "wanted",
            "rank": PRIORITIES[route.priority],
            "due_at": created + timedelta(minutes=desk.policy.due_minutes),
            "created_at": created,
            "fence": 0,
        }
        for seat in range(1, route.reviews + 1)
    ]


def _known(connection: Connection, arrivals: Sequence[Arrival]) -> dict[str, Mapping[str, Any]]:
    if not arrivals:
        return {}
    first = arrivals[0].row
    rows = connection.execute(
        select(Item.id, Item.external_id, Item.content_sha256).where(
            Item.backend_id == first["backend_id"],
            Item.project_id == first["project_id"],
            Item.external_id.in_([arrival.row["external_id"] for arrival in arrivals]),
        )
    )
    return {row.external_id: row._asdict() for row in rows}


def _compare(
    connection: Connection, arrival: Arrival, desk: Desk, known: Mapping[str, Any]
) -> Answer | Refusal:
    if known["content_sha256"] != arrival.content_sha256:
        return Conflict("an item with this external_id and other content is there", "external_id_conflict")
    (row,) = columns_of(connection, [known["id"]])
    return Answer(known["id"], as_submitted(row, desk.project), replayed=True)


def answer_of(connection: Connection, item_id: str) -> Answer:
    """The answer to the submission that made this item, given again."""
    row = _ANSWERED.row(connection, {"id": item_id})
    if row is None:
        raise Missing("there is no such item")
    *columns, project = row
    told = dict(zip((column.key for column in COLUMNS), columns, strict=True))
    return Answer(item_id, as_submitted(told, project), replayed=True)


def answers_of(connection: Connection, ids: Sequence[str]) -> dict[str, Answer]:
    """The answers to the submissions that made these items, given again."""
    rows = connection.execute(
        select(Item.id, Project.name).join(Project, Project.id == Item.project_id).where(Item.id.in_(ids))
    )
    names = {row.id: row.name for row in rows}
    return {
        row["id"]: Answer(row["id"], as_submitted(row, names[row["id"]]), replayed=True)
        for row in columns_of(connection, ids)
    }
