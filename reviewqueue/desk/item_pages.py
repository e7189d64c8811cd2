"""One item with all that became of it, and a lead's override.

Everything here is shown by the rules of `seen`: a page about an item must never tell a reviewer what could
sway them while a review of it is open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from flask import Blueprint, Response, redirect, request
from sqlalchemy import select
from werkzeug.wrappers import Response as AnyResponse

from reviewqueue.content.guidance import guided
from reviewqueue.content.show import plain
from reviewqueue.db import db
from reviewqueue.desk import form as forms
from reviewqueue.desk import readable, seen
from reviewqueue.errors import Fault, Invalid
from reviewqueue.ids import new_id
from reviewqueue.ledger import reading
from reviewqueue.models import Item, Project, Queue
from reviewqueue.people.access import item_for, may, people_of
from reviewqueue.review import settle
from reviewqueue.review.comment import comments_on
from reviewqueue.web import actor, notice, right, show

pages = Blueprint("items", __name__)

OVERRIDABLE = ("released", "decided", "blocked", "expired")


@pages.get("/items/<item_id>")
@right("read_items")
def item(item_id: str) -> Response:
    """The item, its route and why, reviews, decisions, deliveries and ledger entries."""
    return _page(item_for(actor(), item_id))


@pages.post("/items/<item_id>/overrides")
@right("override")
def override(item_id: str) -> AnyResponse:
    """A lead reverses: a new decision that supersedes the one in force, with its own callback."""
    found = item_for(actor(), item_id)
    project = db.session.get_one(Project, found.project_id)
    form, verdict = request.form, request.form.get("verdict", "")
    try:
        output = forms.outcome(project, found, verdict, form)
        settle.override(
            actor(), item_id, verdict, output, form.get("reason"), form.get("cause"), form.get("note"),
            form.get("decision_id") or None,
        )  # fmt: skip
    except Invalid as error:
        db.session.rollback()
        return _page(found, typed=forms.draft_of(form), faults=error.errors, status=422)
    notice("Overridden. The backend is told once it can no longer be undone.")
    return redirect(f"/items/{item_id}", 303)


def _page(
    item: Item, *, typed: Mapping[str, str] | None = None, faults: Sequence[Fault] = (), status: int = 200
) -> Response:
    project = db.session.get_one(Project, item.project_id)
    trail = seen.trail(actor(), item)
    sent = seen.deliveries(item) if may(actor(), "read_deliveries") else []
    told = reading.trail(item.id) if may(actor(), "read_audit") else []
    people = {one.given_by for one in trail.reviews} | {one.claimed_by for one in trail.reviews}
    people |= {one.decided_by for one in trail.decisions} | {one.entry.actor for one in told}
    comments = comments_on(item.id) if not trail.open else []
    people |= {one.person_id for one in comments}
    queues = db.session.execute(select(Queue.id, Queue.name).where(Queue.project_id == project.id))
    return show(
        "desk/item.html",
        status=status,
        item=item, project=project, trail=trail, why=seen.why(item),
        shown_status=item.status if trail.told else "pending",
        output=readable.readable(item.output, project.kind),
        final=[_final(project, item, one.output) for one in trail.decisions],
        corrections={one.id: readable.changes(project.kind, item.output, one.output)
                     for one in trail.reviews if one.output is not None and one.id not in trail.kept_back},
        asked=readable.readable(item.input), passages=readable.passages(item.context),
        alternatives=readable.alternatives(item.output, item.samples),
        details=readable.readable(item.details) if item.details else None, plain=plain,
        trace=readable.leads_to((item.trace or {}).get("url")),
        sent=sent, told=told,
        learned=seen.learned(item) if may(actor(), "read_examples") and trail.told else [],
        comments=comments, names=people_of(people), queues={row.id: row.name for row in queues},
        guides=guided(project.guidelines, tuple(project.reasons)).told,
        overridable=may(actor(), "override") and item.status in OVERRIDABLE,
        form=forms.fill(project, item, typed, faults), refused=bool(faults), decision_id=new_id("dec"),
        verdict=request.form.get("verdict", ""), undo=seen.undoable(actor()),
    )  # fmt: skip


def _final(project: Project, item: Item, output: object) -> readable.Changes | None:
    """What a decision changed; None when it let nothing out."""
    return None if output is None else readable.changes(project.kind, item.output, output)
