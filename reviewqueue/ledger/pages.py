"""The audit pages: the whole ledger, one entry with its checks, and verifying all of it.

They read and check; nothing here can write an entry.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint
from sqlalchemy import Select, select
from werkzeug.wrappers import Response

from reviewqueue import lists, web
from reviewqueue.content.show import plain
from reviewqueue.db import db
from reviewqueue.ledger import reading
from reviewqueue.ledger.entries import FIELDS
from reviewqueue.ledger.verify import verify
from reviewqueue.models import LedgerEntry, LedgerPart, Person, Project
from reviewqueue.people import access

pages = Blueprint("ledger", __name__)

VERIFIED_HERE = 50_000  # entries a request may check, a few seconds' worth; more is the command's work
FILTERS = ("person", "project", "kind", "item", "since", "until")


@pages.get("/audit")
@web.right("read_audit")
def audit() -> Response:
    """The whole ledger, newest first."""
    return _audit(None)


@pages.post("/audit/verification")
@web.right("read_audit")
def verification() -> Response:
    """Verify the whole ledger, and show what was found above it."""
    if reading.size() > VERIFIED_HERE:
        return _audit(None)
    return _audit(verify())


def _audit(report: Any) -> Response:
    given = lists.asked(*FILTERS)
    people = db.session.execute(select(Person.id, Person.name).order_by(Person.name)).all()
    projects = {row.id: row for row in db.session.scalars(select(Project).order_by(Project.name))}
    listed = lists.listed(_narrowed(given, projects), LedgerEntry.seq, given, lists.number_cursor)
    told = [reading.tell(row[0]) for row in listed.rows]
    size = reading.size()
    return web.show(
        "ledger/audit.html",
        listed=listed,
        told=told,
        names=access.people_of(id_ for one in told for id_ in _named(one)),
        given=given,
        people=people,
        projects=projects,
        kinds=sorted(FIELDS),
        report=report,
        size=size,
        here=size <= VERIFIED_HERE,
    )


def _named(told: reading.Told) -> list[str | None]:
    """Ids in an entry that have a name to be shown."""
    return [told.entry.actor, told.body.get("target"), told.body.get("backend")]


def _narrowed(given: dict[str, str], projects: dict[str, Project]) -> Select[*tuple[Any, ...]]:
    query = select(LedgerEntry)
    if "person" in given:
        query = query.where(LedgerEntry.actor == given["person"])
    if name := lists.chosen(given, "project", [project.name for project in projects.values()]):
        wanted = next(id_ for id_, project in projects.items() if project.name == name)
        query = query.where(LedgerEntry.project_id == wanted)
    if kind := lists.chosen(given, "kind", sorted(FIELDS)):
        query = query.where(LedgerEntry.type == kind)
    if "item" in given:
        query = query.where(LedgerEntry.item_id == given["item"])
    since, until = lists.day(given, "since"), lists.day(given, "until", end=True)
    if since is not None:
        first = reading.first_since(since)
        query = query.where(LedgerEntry.seq >= (first if first is not None else reading.size()))
    if until is not None and (after := reading.first_since(until)) is not None:
        query = query.where(LedgerEntry.seq < after)
    return query


@pages.get("/audit/<int:seq>")
@web.right("read_audit")
def entry(seq: int) -> Response:
    """One entry: its canonical bytes, what it commits to, and whether all of that holds."""
    found = reading.entry_at(seq)
    parts, told = reading.parts_of(seq), reading.tell(found)
    return web.show(
        "ledger/entry.html",
        told=told,
        names=access.people_of(_named(told)),
        body=plain(found.body.decode("utf-8", "replace")),
        parts=[(part, _text(part)) for part in parts],
        checks=reading.checks(found, parts),
        size=reading.size(),
    )


def _text(part: LedgerPart) -> Any:
    return None if part.payload is None else plain(part.payload.decode("utf-8", "replace"))
