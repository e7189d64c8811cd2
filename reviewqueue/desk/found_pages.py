"""The list of all items: filters in the address, found through the catalogue, page by page.

For overseers alone: it tells how items were routed and what was decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, request

from reviewqueue import lists
from reviewqueue.desk.readable import line
from reviewqueue.errors import Invalid
from reviewqueue.finding import asked as asking
from reviewqueue.finding import catalogue, find, views
from reviewqueue.models.intake import STATUSES
from reviewqueue.models.review import VERDICTS
from reviewqueue.people.access import people_of, projects_of, visible_queues
from reviewqueue.web import actor, right, show

pages = Blueprint("found", __name__)

MORE = ("queue", "reason", "cause", "person", "model", "prompt", *asking.OVERSEEN, "within")


@pages.get("/items")
@right("read_audit")
def items() -> Response:
    """Items of every project, newest first, narrowed by what the address says."""
    given = lists.asked(*asking.OF_ITEMS)
    cursor = request.args.get("cursor")
    found, count, error = find.Found((), None), 0, None
    try:
        asked = asking.question(given)
        found = find.find(actor(), asked, after=_after(cursor))
        count = find.count(actor(), asked)
    except Invalid as invalid:
        error = invalid
    choices = _choices()
    people = people_of(hit.decision.decided_by for hit in found.hits if hit.decision)
    return show(
        "desk/items.html", status=422 if error else 200, given=given, error=error, hits=found.hits,
        count=find.told(count), unlisted=catalogue.unlisted(), line=line, people=people, choices=choices,
        chips=lists.chips(given, asking.LABELS, lambda name, value: _told(choices, name, value)),
        more=[name for name in MORE if name in given],
        next=lists.address(given, cursor=str(found.after)) if found.after else None,
        first=lists.address(given) if cursor else None, told=find.told, address=lists.address_of,
        views=views.views_of(actor()), saved=lists.address_of("", given)[1:],
    )  # fmt: skip


def _after(cursor: str | None) -> int | None:
    try:
        return None if cursor is None else lists.number_cursor(cursor)
    except ValueError:
        raise Invalid("This page does not exist; begin at the first.", field="cursor") from None


def _choices() -> dict[str, list[tuple[str, str]]]:
    """What the filters offer: (value, text) by filter."""
    projects = projects_of(actor())
    names = {project.id: project.name for project in projects}
    people = people_of(asking.known("person"))
    queues = [f"{names[queue.project_id]}/{queue.name}" for queue in visible_queues(actor())]
    offered: dict[str, list[tuple[str, str]]] = {
        "project": [(project.name, project.title) for project in projects],
        "queue": [(name, name) for name in sorted(queues)],
        "person": sorted(people.items(), key=lambda pair: pair[1].casefold()),
        "status": [(word, word) for word in STATUSES],
        "verdict": [(word, word) for word in VERDICTS],
    }
    for name in ("reason", "cause", "model", "prompt", "flag"):
        offered[name] = [(word, word) for word in asking.known(name)]
    return offered


def _told(choices: Mapping[str, list[tuple[str, str]]], name: str, value: str) -> str:
    """A filter's value in words."""
    words: dict[str, Any] = dict(choices.get(name, ()))
    if name in asking.HOURS:
        return asking.HOURS[name].get(value, f"{value} h")
    return str(words.get(value, value))
