"""The desk and the lists of queues: what waits for me, what I hold, where to begin.

Reads only. Filters and sorting are names this page allows; nothing else in an address may reach a query.
"""

from __future__ import annotations

from itertools import groupby

from flask import Blueprint, Response, request

from reviewqueue import lists
from reviewqueue.config import current
from reviewqueue.desk import readable, seen
from reviewqueue.errors import Invalid
from reviewqueue.finding import alike, catalogue, find, views
from reviewqueue.finding import asked as asking
from reviewqueue.models.review import PRIORITIES
from reviewqueue.people.access import ADJUDICATION, may, project_for, projects_of, queue_for
from reviewqueue.review import day, queues
from reviewqueue.web import actor, right, show

pages = Blueprint("desk", __name__)

MORE = ("claimed", "model", "prompt", *asking.OVERSEEN)
AGES = (
    ("", "Any"),
    ("1", "Over 1 hour"),
    ("4", "Over 4 hours"),
    ("24", "Over a day"),
    ("168", "Over a week"),
)


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
        day=day.day_of(actor()) if may(actor(), "review") else None,
        views=views.views_of(actor(), everywhere=True), told=find.told, address=lists.address_of,
        public_url=current().public_url, undo=seen.undoable(actor()),
    )  # fmt: skip


@pages.get("/queues/<project>/<queue>")
@right("read_items")
def waiting(project: str, queue: str) -> Response:
    """What waits in one queue, page by page."""
    found = queue_for(actor(), project, queue, "read_items")
    given = lists.asked(*names())
    cursor, narrowed = request.args.get("cursor"), any(name != "sort" for name in given)
    listed, count, error = queues.Page([], None), 0, None
    try:
        narrowing = find.of_queue(found, given)
        sort = given.get("sort", "queue")
        listed = queues.page(actor(), project, queue, narrowing, sort=sort, cursor=cursor)
        count = queues.matching(actor(), project, queue, narrowing, find.COUNTED + 1) if narrowed else 0
    except Invalid as invalid:
        error = invalid
    return show(
        "desk/queue.html", status=422 if error else 200, queue=found, project=project_for(actor(), project),
        told=find.told, address=lists.address_of,
        rows=listed.rows, given=given, error=error, why=seen.why, neutral=seen.NEUTRAL,
        line=readable.line, ages=AGES, priorities=list(PRIORITIES),
        next=lists.address(given, cursor=listed.next_cursor) if listed.next_cursor else None,
        first=lists.address(given) if cursor else None, count=find.told(count), narrowed=narrowed,
        chips=lists.chips(given, asking.LABELS, _told), more=[name for name in MORE if name in given],
        overseen=may(actor(), "read_audit"), bulk=may(actor(), "review") and queue != ADJUDICATION,
        more_like=alike.more_like(found, [row.item.number for row in listed.rows]),
        views=views.views_of(actor(), found), saved=lists.address_of("", given)[1:],
        unlisted=catalogue.unlisted() if narrowed else 0, undo=seen.undoable(actor()),
        others=alike.others(actor()),
    )  # fmt: skip


def names() -> tuple[str, ...]:
    """What the address of a queue's list may hold, as far as the actor may use it."""
    return (*asking.names(actor(), of_queue=True), "sort")


def _told(name: str, value: str) -> str:
    """A filter's value in words."""
    words = (
        dict(AGES)
        if name == "age"
        else {"yes": "by somebody", "no": "by nobody"}
        if name == "claimed"
        else {}
    )
    return words.get(value, value)
