"""The pages of deliveries: what was sent to whom, what came of it, and sending it again.

What a receiver answered is hostile and shown as text alone.
"""

from __future__ import annotations

import json
from typing import Any

from flask import Blueprint, redirect, url_for
from sqlalchemy import Select, func, select
from werkzeug.wrappers import Response

from reviewqueue import lists, web
from reviewqueue.content.show import json_tree, plain
from reviewqueue.db import db
from reviewqueue.delivery import replay as replays
from reviewqueue.delivery.callback import MEANING
from reviewqueue.delivery.taking import OPEN_STATES
from reviewqueue.delivery.turns import DELAYS
from reviewqueue.errors import Missing
from reviewqueue.models import Attempt, Backend, Delivery, Endpoint, Item, Project
from reviewqueue.models.delivery import DELIVERY_STATES, EVENTS
from reviewqueue.people import access

pages = Blueprint("delivery", __name__)

COUNTED = 10_000
ENDED = ("delivered", "dead")
WATCHED = ("due", "inflight", "parked", "dead")
OUTCOMES: dict[str, str] = {
    **{str(word): meaning for word, meaning in MEANING.items()},
    "killed": "The process that made this attempt ended before the answer came; it is made again.",
    "fenced": "The answer came after the attempt's time had run out, so it does not count.",
    "poison": "This delivery ended the process that attempted it, again and again.",
}
STATES = {
    "due": "will be attempted",
    "inflight": "is being attempted",
    "parked": "waits until the backend's address is active again",
    "delivered": "the receiver has it",
    "dead": "given up after the last attempt",
    "cancelled": "taken back before it was sent",
}


@pages.get("/deliveries")
@web.right("read_deliveries")
def deliveries() -> Response:
    """Every delivery, newest first."""
    given = lists.asked("state", "backend", "project", "type", "item")
    backends = db.session.execute(
        select(Backend, Project).join(Project, Project.id == Backend.project_id).order_by(Backend.name)
    ).all()
    names = [backend.name for backend, _ in backends]
    projects = sorted({project.name for _, project in backends})
    wanted = [
        backend.id
        for backend, project in backends
        if lists.chosen(given, "backend", names) in (None, backend.name)
        and lists.chosen(given, "project", projects) in (None, project.name)
    ]
    listed = lists.listed(_narrowed(given, wanted), Delivery.id, given, lists.id_cursor("evt"))
    troubled = db.session.execute(
        select(Endpoint, Backend.name)
        .join(Backend, Backend.id == Endpoint.backend_id)
        .where(Endpoint.state != "active", Backend.active)
        .order_by(Backend.name)
    ).all()
    return web.show(
        "delivery/deliveries.html",
        listed=listed,
        given=given,
        backends=names,
        projects=projects,
        names={backend.id: backend.name for backend, _ in backends},
        states=DELIVERY_STATES,
        types=EVENTS,
        counts={state: _count(state) for state in WATCHED},
        counted=COUNTED,
        troubled=troubled,
        outcomes=OUTCOMES,
    )


def _narrowed(given: dict[str, str], backend_ids: list[str]) -> Select[*tuple[Any, ...]]:
    query: Select[*tuple[Any, ...]] = select(Delivery, Attempt.outcome).outerjoin(
        Attempt, (Attempt.delivery_id == Delivery.id) & (Attempt.number == Delivery.attempts)
    )
    if "backend" in given or "project" in given:
        query = query.where(Delivery.backend_id.in_(backend_ids))
    if state := lists.chosen(given, "state", DELIVERY_STATES):
        query = query.where(Delivery.state == state)
    if kind := lists.chosen(given, "type", EVENTS):
        query = query.where(Delivery.type == kind)
    if "item" in given:
        query = query.where(Delivery.item_id == given["item"])
    return query


def _count(state: str) -> int:
    first = select(Delivery.id).where(Delivery.state == state).limit(COUNTED).subquery()
    return db.session.scalar(select(func.count()).select_from(first)) or 0


@pages.get("/deliveries/<delivery_id>")
@web.right("read_deliveries")
def delivery(delivery_id: str) -> Response:
    """One delivery with its attempts."""
    found = db.session.get(Delivery, delivery_id)
    if found is None:
        raise Missing("There is no such delivery.")
    item = db.session.scalars(select(Item).where(Item.id == found.item_id)).one()
    attempts = db.session.scalars(
        select(Attempt).where(Attempt.delivery_id == found.id).order_by(Attempt.number.desc())
    ).all()
    return web.show(
        "delivery/delivery.html",
        delivery=found,
        item=item,
        project=db.session.get_one(Project, item.project_id),
        endpoint=db.session.get_one(Endpoint, found.backend_id),
        names=access.people_of([found.backend_id]),
        attempts=attempts,
        before=_open_before(found),
        body=json_tree(json.loads(found.body)),
        size=len(found.body),
        plain=plain,
        meaning=STATES[found.state],
        outcomes=OUTCOMES,
        delays=DELAYS,
        can_replay=found.state in ENDED,
    )


def _open_before(found: Delivery) -> Delivery | None:
    """The earlier event of the same item that this one waits for."""
    return db.session.scalars(
        select(Delivery)
        .where(
            Delivery.item_id == found.item_id,
            Delivery.sequence < found.sequence,
            Delivery.state.in_(OPEN_STATES),
        )
        .order_by(Delivery.sequence)
        .limit(1)
    ).one_or_none()


@pages.post("/deliveries/<delivery_id>/replay")
@web.right("replay")
def replay(delivery_id: str) -> Response:
    """Send an ended delivery again."""
    replays.replay(web.actor(), delivery_id)
    web.notice("It will be sent again: same id, same content.")
    return redirect(url_for("delivery.delivery", delivery_id=delivery_id), 303)
