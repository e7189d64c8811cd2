"""Saving and removing views of lists. Where a view leads is its list's own address."""

from __future__ import annotations

from urllib.parse import parse_qsl

from flask import Blueprint, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from reviewqueue import lists
from reviewqueue.db import db
from reviewqueue.errors import Invalid
from reviewqueue.finding import asked, views
from reviewqueue.models import Project, Queue, SavedView
from reviewqueue.people.access import may, queue_for
from reviewqueue.web import actor, notice, right

pages = Blueprint("views", __name__)


@pages.post("/views")
@right("read_items")
def save() -> AnyResponse:
    """Save the filters of the list somebody is on under a name."""
    form = request.form
    project, _, name = form.get("list", "").partition("/")
    queue = queue_for(actor(), project, name, "read_items") if project else None
    if queue is None and not may(actor(), "read_audit"):
        raise Invalid("Say which queue's list this is a view of.", field="list")
    usable = {*asked.names(actor(), of_queue=queue is not None), "sort"}
    sent = parse_qsl(form.get("filters", "")[:8000])
    given = {name: value[: lists.LONGEST] for name, value in sent if name in usable}
    view = views.save(actor(), form.get("name", ""), given, queue, shared=bool(form.get("shared")))
    notice("Saved.")
    return redirect(lists.address_of(_path(queue), view.filters), 303)


@pages.post("/views/<view_id>/removal")
@right("read_items")
def remove(view_id: str) -> AnyResponse:
    """Remove a view of one's own, or a shared one as a lead."""
    view: SavedView = views.remove(actor(), view_id)
    notice("Removed.")
    return redirect(_path(db.session.get(Queue, view.queue_id) if view.queue_id else None), 303)


def _path(queue: Queue | None) -> str:
    if queue is None:
        return "/items"
    return f"/queues/{db.session.get_one(Project, queue.project_id).name}/{queue.name}"
