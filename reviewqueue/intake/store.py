"""The rows of a submission: items, the reviews they want, and who was there first.

Two unique keys decide between submissions of the same item; what was looked up before never does. Nothing
here opens or ends a transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from reviewqueue.background import ring
from reviewqueue.db import after_commit, db
from reviewqueue.errors import Conflict, Refusal
from reviewqueue.ids import new_id
from reviewqueue.intake.arrival import Arrival, Desk
from reviewqueue.intake.items import as_submitted, columns_of
from reviewqueue.intake.room import require_room
from reviewqueue.intake.seal import ARRIVING
from reviewqueue.models import Item, Project, Review
from reviewqueue.models.review import PRIORITIES


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
    """The project changed between routing and storing: route again."""


def insert_into(session: Session, table: Any) -> Any:
    """An INSERT of this database's own kind: it can say ON CONFLICT."""
    dialect = postgresql if session.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def arriving(session: Session, desk: Desk) -> None:
    """Make sure that `desk` still holds, and let `seal` know that numbers are about to be taken."""
    query = select(Project.policy_version, Project.paused).where(Project.id == desk.project_id)
    if session.get_bind().dialect.name == "postgresql":
        query = query.add_columns(func.pg_advisory_xact_lock_shared(ARRIVING))
    if tuple(session.execute(query).one())[:2] != (desk.policy_version, desk.paused):
        raise Overtaken


def store_all(session: Session, desk: Desk, arrivals: Sequence[Arrival]) -> list[Answer | Refusal]:
    """Insert the items and the reviews they want; whose external id is known is a repeat or a conflict."""
    if not arrivals:
        return []
    statement = (
        insert_into(session, Item)
        .on_conflict_do_nothing(index_elements=["backend_id", "project_id", "external_id"])
        .returning(Item.id, Item.number)
    )
    rows = session.connection().execute(statement, [arrival.row for arrival in arrivals])
    numbers = {row.id: row.number for row in rows}
    reviews = [
        review
        for arrival in arrivals
        if arrival.row["id"] in numbers
        for review in _reviews(arrival, desk, numbers[arrival.row["id"]])
    ]
    if reviews:
        require_room(session, [review["queue_id"] for review in reviews])
        session.connection().execute(insert(Review), reviews)
        after_commit(lambda: ring("prepare"))
    known = _known(session, [arrival for arrival in arrivals if arrival.row["id"] not in numbers])
    return [
        Answer(arrival.row["id"], as_submitted(arrival.row, desk.project), replayed=False)
        if arrival.row["id"] in numbers
        else _compare(arrival, desk, known[arrival.row["external_id"]])
        for arrival in arrivals
    ]


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


def _known(session: Session, arrivals: Sequence[Arrival]) -> dict[str, Mapping[str, Any]]:
    if not arrivals:
        return {}
    first = arrivals[0].row
    rows = session.execute(
        select(Item.id, Item.external_id, Item.content_sha256).where(
            Item.backend_id == first["backend_id"],
            Item.project_id == first["project_id"],
            Item.external_id.in_([arrival.row["external_id"] for arrival in arrivals]),
        )
    )
    return {row.external_id: row._asdict() for row in rows}


def _compare(arrival: Arrival, desk: Desk, known: Mapping[str, Any]) -> Answer | Refusal:
    if known["content_sha256"] != arrival.content_sha256:
        return Conflict("an item with this external_id and other content is there", "external_id_conflict")
    (row,) = columns_of([known["id"]])
    return Answer(known["id"], as_submitted(row, desk.project), replayed=True)


def answers_of(ids: Sequence[str]) -> dict[str, Answer]:
    """The answers to the submissions that made these items, given again."""
    rows = db.session.execute(
        select(Item.id, Project.name).join(Project, Project.id == Item.project_id).where(Item.id.in_(ids))
    )
    names = {row.id: row.name for row in rows}
    return {
        row["id"]: Answer(row["id"], as_submitted(row, names[row["id"]]), replayed=True)
        for row in columns_of(ids)
    }
