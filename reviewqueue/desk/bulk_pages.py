"""Many items decided at once: what would happen, the group of those that say the same, and what came of it.

Nothing is decided by looking. Every page works without script; with it a long batch goes on by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeGuard

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from reviewqueue import lists
from reviewqueue.db import db
from reviewqueue.desk import pages as desk
from reviewqueue.desk import readable
from reviewqueue.errors import Invalid
from reviewqueue.finding import alike, batch, find
from reviewqueue.models import Item, Project, Queue, Review
from reviewqueue.people.access import item_for, queue_for
from reviewqueue.review import queues
from reviewqueue.web import actor, notice, right, show

pages = Blueprint("bulk", __name__)

SAMPLE = 5  # of a group, looked at before the rest follows
DISAGREED = "You did not say the same of all."


@pages.get("/queues/<project>/<queue>/triage")
@right("review")
def preview(project: str, queue: str) -> Response:
    """What deciding the marked items, or all that match, would do."""
    return _preview(queue_for(actor(), project, queue), project)


@pages.post("/queues/<project>/<queue>/batches")
@right("review")
def decide(project: str, queue: str) -> AnyResponse:
    """Give the items that are still marked one verdict, and show what came of it."""
    found, form = queue_for(actor(), project, queue), request.form
    verdicts = dict.fromkeys(form.getlist("item")[: batch.MOST], form.get("verdict", ""))
    try:
        begun = batch.begin(actor(), found, verdicts, *_why())
    except Invalid as error:
        return _preview(found, project, error)
    return _carried_on(begun)


@pages.get("/queues/<project>/<queue>/alike/<item_id>")
@right("review")
def group(project: str, queue: str, item_id: str) -> Response:
    """The items that say the same as this one: a sample to decide, the rest follows when it agrees."""
    return _group(queue_for(actor(), project, queue), item_id)


@pages.post("/queues/<project>/<queue>/alike/<item_id>")
@right("review")
def decide_group(project: str, queue: str, item_id: str) -> AnyResponse:
    """Decide the sample; the rest gets the same verdict, or none at the first disagreement."""
    found, form = queue_for(actor(), project, queue), request.form
    ids = alike.like(actor(), found, item_id)
    said = {id_: form[f"verdict.{id_}"] for id_ in ids if form.get(f"verdict.{id_}")}
    rest = [id_ for id_ in ids if id_ not in said]
    shown = set(form.getlist("sample")) & set(ids)
    left = {}
    try:
        if not said or shown - said.keys():
            raise Invalid("Say of each in the sample whether it is right.", field="verdict")
        first = alike.decided(actor(), item_id)
        if len({*said.values(), *([first.verdict] if first else [])}) == 1:
            said |= dict.fromkeys(rest, next(iter(said.values())))
        else:
            left = dict.fromkeys(rest, DISAGREED)
        begun = batch.begin(actor(), found, said, *_why(), left, item_id if _edited(first) else None)
    except Invalid as error:
        return _group(found, item_id, error)
    return _carried_on(begun)


@pages.get("/batches/<batch_id>")
@right("review")
def result(batch_id: str) -> Response:
    """What came of each item of a batch of mine."""
    told = batch.told(actor(), batch_id)
    queue = db.session.get_one(Queue, told.batch.queue_id)
    project = db.session.get_one(Project, queue.project_id)
    return show("desk/batch.html", told=told, queue=queue, project=project, line=readable.line)


@pages.post("/batches/<batch_id>/run")
@right("review")
def go_on(batch_id: str) -> AnyResponse:
    """Go on with a batch that is not done yet."""
    return _carried_on(batch_id)


@pages.post("/batches/<batch_id>/undo")
@right("review")
def undo(batch_id: str) -> AnyResponse:
    """Take back what can still be taken back."""
    count = batch.undo_batch(actor(), batch_id)
    notice(f"{count} taken back." if count else "It was too late to take anything back.")
    return redirect(f"/batches/{batch_id}", 303)


def _why() -> tuple[str | None, str | None, str | None]:
    """Reason, cause and note, as the form gives them."""
    form = request.form
    return form.get("reason") or None, form.get("cause") or None, form.get("note") or None


def _carried_on(batch_id: str) -> AnyResponse:
    batch.carry_on(actor(), batch_id)
    return redirect(f"/batches/{batch_id}", 303)


def _preview(queue: Queue, project_name: str, error: Invalid | None = None) -> Response:
    marked = request.values.getlist("item")[: batch.MOST]
    given = {name: value for name, value in request.values.items() if name in desk.names()}
    matching = 0
    if request.values.get("all") and not marked:
        filters = find.of_queue(queue, given)
        listed = queues.page(actor(), project_name, queue.name, filters, limit=batch.MOST)
        marked = [row.item.id for row in listed.rows]
        matching = queues.matching(actor(), project_name, queue.name, filters, batch.MOST + 1)
    planned = batch.plan(actor(), queue, marked)
    project = db.session.get_one(Project, queue.project_id)
    return show(
        "desk/triage.html", status=422 if error else 200, queue=queue, project=project, line=readable.line,
        planned=[one for one in planned if not one.left], left=[one for one in planned if one.left],
        matching=find.told(matching), more=matching > batch.MOST, error=error, faults=_faults(error),
        form=request.form, back=lists.address_of(f"/queues/{project.name}/{queue.name}", given),
    )  # fmt: skip


def _group(queue: Queue, item_id: str, error: Invalid | None = None) -> Response:
    first, item = alike.decided(actor(), item_id), item_for(actor(), item_id)
    ids = alike.like(actor(), queue, item_id)
    planned = batch.plan(actor(), queue, ids, item_id if _edited(first) else None)
    free = [one.item for one in planned if not one.left]
    project = db.session.get_one(Project, queue.project_id)
    sample = _sample(free, item_id)
    return show(
        "desk/alike.html", status=422 if error else 200, queue=queue, project=project, line=readable.line,
        item=item, free=free, left=[one for one in planned if one.left],
        sample=[(item, readable.readable(item.output, project.kind), readable.readable(item.input))
                for item in sample],
        rest=len(free) - len(sample), error=error, faults=_faults(error), first=first,
        correction=readable.changes(project.kind, item.output, first.output) if _edited(first) else None,
        form=request.form or _as_decided(first, sample),
    )  # fmt: skip


def _edited(first: Review | None) -> TypeGuard[Review]:
    return first is not None and first.verdict == "edit" and first.output is not None


def _as_decided(first: Review | None, sample: Sequence[Item]) -> Mapping[str, str | None]:
    """The form as it begins after one of the group was decided: the others would be decided alike."""
    if first is None:
        return {}
    return {f"verdict.{item.id}": first.verdict for item in sample} | {
        "reason": first.reason, "cause": first.cause,
    }  # fmt: skip


def _sample(items: Sequence[Item], first: str) -> list[Item]:
    """Some of the group: this one, and others by lot, always the same ones."""
    by_lot = sorted(items, key=lambda item: hashlib.sha256(f"{first}:{item.id}".encode()).digest())
    return sorted(by_lot, key=lambda item: item.id != first)[:SAMPLE]


def _faults(error: Invalid | None) -> Mapping[str, str]:
    return {fault["pointer"]: fault["message"] for fault in error.errors} if error else {}
