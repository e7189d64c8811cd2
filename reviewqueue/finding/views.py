"""Saved views: a list's filters under a name, one's own or everybody's, with how many it finds now.

A shared view is seen by those who may ask what it asks; it must never let anybody ask for more.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import delete, func, or_, select

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Conflict, Forbidden, Invalid, Missing
from reviewqueue.finding import asked, find
from reviewqueue.ids import new_id
from reviewqueue.models import Project, Queue, SavedView
from reviewqueue.people.access import Actor, may, require, visible_queues
from reviewqueue.review import queues
from reviewqueue.review.verdict import clean

MOST = 50  # of one person
LONGEST = 60  # characters of a name
FRESH = 15.0  # seconds for which a count is told again without counting
COUNTING = 0.1  # seconds one page counts; the views after that are told without a count, until the next page

_counted: dict[tuple[str, str], tuple[float, int]] = {}


@dataclass(frozen=True)
class Shown:
    """A view as its reader sees it; `count` stops at find.COUNTED + 1, None when it is not counted."""

    view: SavedView
    project: Project | None  # None: of the list of all items
    queue: Queue | None
    mine: bool
    count: int | None


def save(
    actor: Actor, name: str, given: Mapping[str, str], queue: Queue | None, *, shared: bool
) -> SavedView:
    """Save `given` as a view of the queue's list, or of all items; one of that name of theirs is replaced.

    Forbidden to share for who does not lead; Invalid when it asks what they may not ask, or nothing.
    """
    require(actor, "read_items" if queue else "read_audit")
    if shared and not may(actor, "assign"):
        raise Forbidden("Leads share views; yours are your own.")
    title = clean(name, "name")
    if not title or len(title) > LONGEST or not title.isprintable():
        raise Invalid(f"Give the view a name of at most {LONGEST} characters.", field="name")
    filters = dict(given)
    if set(filters) - {*asked.names(actor, of_queue=queue is not None), "sort"} or not filters:
        raise Invalid("Narrow the list first; then save it.", field="name")
    asked.question(filters)
    queue_id = queue.id if queue else None
    with transaction() as session:
        here = SavedView.queue_id == queue_id if queue_id else SavedView.queue_id.is_(None)
        session.execute(
            delete(SavedView).where(SavedView.person_id == actor.id, SavedView.name == title, here)
        )
        count = select(func.count()).select_from(SavedView).where(SavedView.person_id == actor.id)
        if (session.scalar(count) or 0) >= MOST:
            raise Conflict(f"You have {MOST} views; remove one first.", "too_many")
        view = SavedView(
            id=new_id("viw"), person_id=actor.id, shared=shared, name=title, queue_id=queue_id,
            filters=filters, created_at=now(),
        )  # fmt: skip
        session.add(view)
    return view


def remove(actor: Actor, view_id: str) -> SavedView:
    """Remove a view: one's own, or for leads any shared one. Missing otherwise."""
    require(actor, "read_items")
    with transaction() as session:
        view = session.get(SavedView, view_id)
        if view is None or not (view.person_id == actor.id or (view.shared and may(actor, "assign"))):
            raise Missing("There is no such view.")
        session.delete(view)
    return view


def views_of(actor: Actor, queue: Queue | None = None, *, everywhere: bool = False) -> list[Shown]:
    """The actor's views and the shared ones they may use, by name: of one queue's list, or of all items.

    With `everywhere`, those of every list.
    """
    seen = {one.id: one for one in visible_queues(actor)}
    found = select(SavedView).where(or_(SavedView.person_id == actor.id, SavedView.shared.is_(True)))
    if not everywhere:
        found = found.where(SavedView.queue_id.is_(None) if queue is None else SavedView.queue_id == queue.id)
    views = [view for view in db.session.scalars(found) if _may_use(actor, view, seen)]
    wanted = {seen[view.queue_id].project_id for view in views if view.queue_id}
    projects = {
        project.id: project for project in db.session.scalars(select(Project).where(Project.id.in_(wanted)))
    }
    until = time.monotonic() + COUNTING
    shown = [_shown(actor, view, seen, projects, until) for view in views]
    return sorted(shown, key=lambda one: (one.view.name.casefold(), one.view.id))


def _may_use(actor: Actor, view: SavedView, seen: Mapping[str, Queue]) -> bool:
    if view.queue_id is not None and view.queue_id not in seen:
        return False
    usable = {*asked.names(actor, of_queue=view.queue_id is not None), "sort"}
    return bool(usable - {"sort"}) and not set(view.filters) - usable


def _shown(
    actor: Actor, view: SavedView, seen: Mapping[str, Queue], projects: Mapping[str, Project], until: float
) -> Shown:
    queue = seen[view.queue_id] if view.queue_id else None
    project = projects[queue.project_id] if queue else None
    return Shown(view, project, queue, view.person_id == actor.id, _count(actor, view, project, queue, until))


def _count(
    actor: Actor, view: SavedView, project: Project | None, queue: Queue | None, until: float
) -> int | None:
    """How many the view finds. Everybody who may use it finds the same, so that one count serves all."""
    key, moment = (str(db.engine.url), view.id), time.monotonic()
    known = _counted.get(key)
    if known and moment - known[0] < FRESH:
        return known[1]
    if moment > until:
        return known[1] if known else None
    try:
        if project is None or queue is None:
            count = find.count(actor, asked.question(view.filters))
        else:
            filters = find.of_queue(queue, view.filters)
            count = queues.matching(actor, project.name, queue.name, filters, find.COUNTED + 1)
    except Invalid:
        return None  # what it asks for is not known any more
    if len(_counted) > 10_000:
        _counted.clear()
    _counted[key] = (moment, count)
    return count
