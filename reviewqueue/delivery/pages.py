"""The pages of deliveries: what was sent to whom, what came of it, and sending it again.

What a receiver answered is hostile and shown as text alone.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, redirect, url_for
from sqlalchemy import Select, func, or_, select
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
MOST = 1_000  # sent again by one click; the command line has no such limit
FILTERS = ("state", "backend", "project", "type", "item", "since", "until")
WATCHED = ("due", "inflight", "parked", "dead")
OUTCOMES: dict[str, str] = {
    **{str(word): meaning for word, meaning in MEANING.items()},
    "blocked": f"{MEANING['blocked']} Or what is sent, or where to, was changed in the database.",
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
    given = lists.asked(*FILTERS)
    callers = _callers()
    which = _which(given, callers)
    query: Select[*tuple[Any, ...]] = select(Delivery, Attempt.outcome).outerjoin(
        Attempt, (Attempt.delivery_id == Delivery.id) & (Attempt.number == Delivery.attempts)
    )
    troubled = db.session.execute(
        select(Endpoint, Backend.name)
        .join(Backend, Backend.id == Endpoint.backend_id)
        .where(or_(Endpoint.state != "active", Endpoint.probe_wait > 0), Backend.active)
        .order_by(Backend.name)
    ).all()
    again = replace(which, states=[state for state in which.states if state in replays.ENDED])
    may_replay = bool(again.states) and access.may(web.actor(), "replay")
    return web.show(
        "delivery/deliveries.html",
        listed=lists.listed(which.narrow(query), Delivery.id, given, lists.id_cursor("evt")),
        given=given,
        backends=[backend.name for backend, _ in callers],
        projects=sorted({project.name for _, project in callers}),
        names={backend.id: backend.name for backend, _ in callers},
        states=DELIVERY_STATES,
        types=EVENTS,
        counts={state: _count(state) for state in WATCHED},
        counted=COUNTED,
        troubled=troubled,
        outcomes=OUTCOMES,
        replayable=replays.count(web.actor(), again, COUNTED) if given and may_replay else 0,
        most=MOST,
    )


def _callers() -> list[tuple[Backend, Project]]:
    joined = select(Backend, Project).join(Project, Project.id == Backend.project_id).order_by(Backend.name)
    return [(backend, project) for backend, project in db.session.execute(joined)]


def _which(given: dict[str, str], callers: list[tuple[Backend, Project]]) -> replays.Which:
    """The deliveries that the filters in the address ask for."""
    name = lists.chosen(given, "backend", [backend.name for backend, _ in callers])
    project = lists.chosen(given, "project", [project.name for _, project in callers])
    wanted = [
        backend.id for backend, its in callers if name in (None, backend.name) and project in (None, its.name)
    ]
    state = lists.chosen(given, "state", DELIVERY_STATES)
    return replays.Which(
        since=lists.day(given, "since"),
        until=lists.day(given, "until", end=True),
        backend_ids=wanted if name or project else None,
        states=(state,) if state else DELIVERY_STATES,
        type=lists.chosen(given, "type", EVENTS),
        item_id=given.get("item"),
    )


def _count(state: str) -> int:
    first = select(Delivery.id).where(Delivery.state == state).limit(COUNTED).subquery()
    return db.session.scalar(select(func.count()).select_from(first)) or 0


@pages.post("/deliveries/replay")
@web.right("replay")
def replay_range() -> Response:
    """Send again what fits the filters of the list and has ended."""
    given = lists.asked(*FILTERS)
    which = _which(given, _callers())
    which = replace(which, states=[state for state in which.states if state in replays.ENDED])
    sent = 0
    for some in replays.replay_all(web.actor(), which):
        sent += some
        if sent >= MOST:
            break
    web.notice(f"{sent:,} will be sent again: same ids, same content.")
    return redirect(f"{url_for('delivery.deliveries')}?{urlencode(given)}", 303)


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
        can_replay=found.state in replays.ENDED,
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
