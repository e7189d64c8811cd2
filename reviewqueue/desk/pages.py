"""The desk and the lists of queues: what waits for me, what I hold, where to begin.

Reads only. Filters and sorting are names this page allows; nothing else in an address may reach a query.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby

from flask import Blueprint, Response, request

from reviewqueue import lists
from reviewqueue.config import current
from reviewqueue.desk import readable, seen
from reviewqueue.errors import Invalid
from reviewqueue.models.review import PRIORITIES
from reviewqueue.people.access import project_for, projects_of, queue_for
from reviewqueue.review import queues
from reviewqueue.web import actor, right, show

pages = Blueprint("desk", __name__)

FILTERS = ("text", "priority", "overdue", "claimed", "age", "model", "sort")
AGES = (
    ("", "Any"),
    ("1", "Over 1 hour"),
    ("4", "Over 4 hours"),
    ("24", "Over a day"),
    ("168", "Over a week"),
)
CLAIMED = {"yes": True, "no": False}


@pages.get("/")
@right("read_items")
def desk() -> Response:
    """My queues with what waits in each, what I hold, and on an empty desk how to begin."""
    lines = queues.overview(actor())
    by_project = [(project, list(group)) for project, group in groupby(lines, key=lambda line: line.project)]
    projects = projects_of(actor())
    empty = seen.nothing_yet(actor())
    return show(
        "desk/desk.html", by_project=by_project, lines=lines,
        first=next((line for line in lines if line.waiting), None),
        holding=queues.holding(actor()), line=readable.line,
        empty=empty, first_item=seen.first_item(projects),
        public_url=current().public_url, undo=seen.undoable(actor()),
    )  # fmt: skip


@pages.get("/queues/<project>/<queue>")
@right("read_items")
def waiting(project: str, queue: str) -> Response:
    """What waits in one queue, page by page."""
    found = queue_for(actor(), project, queue, "read_items")
    given = lists.asked(*FILTERS)
    cursor = request.args.get("cursor")
    listed, error, status = queues.Page([], None), None, 200
    try:
        listed = queues.page(
            actor(), project, queue, _filters(given), sort=given.get("sort", "queue"), cursor=cursor
        )
    except Invalid as invalid:
        error, status = invalid, 422
    return show(
        "desk/queue.html", status=status, queue=found, project=project_for(actor(), project),
        rows=listed.rows, given=given, error=error, why=seen.why, neutral=seen.NEUTRAL,
        line=readable.line,
        ages=AGES, priorities=list(PRIORITIES),
        next=lists.address(given, cursor=listed.next_cursor) if listed.next_cursor else None,
        first=lists.address(given) if cursor else None,
        narrowed=any(name != "sort" for name in given), undo=seen.undoable(actor()),
    )  # fmt: skip


def _filters(given: Mapping[str, str]) -> queues.Filters:
    age = given.get("age")
    if age is not None and not (age.isascii() and age.isdigit() and len(age) < 7):
        raise Invalid("Age is a number of hours.", field="age")
    claimed = lists.chosen(given, "claimed", list(CLAIMED))
    return queues.Filters(
        priority=given.get("priority"),
        age=int(age) if age else None,
        overdue=lists.chosen(given, "overdue", ["yes"]) is not None,
        text=given.get("text"),
        model=given.get("model"),
        claimed=CLAIMED[claimed] if claimed else None,
    )
