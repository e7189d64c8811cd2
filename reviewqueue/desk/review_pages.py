"""How the review page and its refusals are drawn: everything they show, gathered in one place.

Draws only. Must never change anything, nor show what `seen` keeps from a reviewer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flask import Response, request
from sqlalchemy import select

from reviewqueue.content.fields import to_fields
from reviewqueue.content.guidance import guided
from reviewqueue.content.hidden import hidden_characters
from reviewqueue.content.show import as_text, plain
from reviewqueue.db import db, now
from reviewqueue.desk import form as forms
from reviewqueue.desk import readable, seen
from reviewqueue.desk.care import care
from reviewqueue.desk.support import support
from reviewqueue.errors import Fault, Invalid
from reviewqueue.finding import alike
from reviewqueue.ids import new_id
from reviewqueue.models import Claim, Item, Project, Queue, Review
from reviewqueue.people.access import people_of
from reviewqueue.people.wishes import Wishes
from reviewqueue.review import claim as claims
from reviewqueue.review.assign import candidates
from reviewqueue.review.queues import RANKS, history
from reviewqueue.web import actor, person, show


def review_page(
    claim: Claim,
    review: Review,
    item: Item,
    *,
    typed: Mapping[str, str] | None = None,
    faults: Sequence[Fault] = (),
    aside: Sequence[Fault] = (),
    restored: bool = False,
    status: int = 200,
) -> Response:
    """The review page. `faults` are of the decision form, `aside` of skipping and passing on."""
    queue = db.session.get_one(Queue, review.queue_id)
    project = db.session.get_one(Project, review.project_id)
    form = forms.fill(project, item, typed, faults)
    given = seen.others(actor(), review)
    led, context = readable.spoken(item.context) if project.kind == "tool_call" else (None, item.context)
    supported = support(_text(project, item), context)
    me = person()
    spared = care(actor(), me.wishes if me else Wishes(), item)
    hints = review.hints or {"similar": [], "hidden": _hidden(item)}
    elsewhere = select(Queue.name).where(Queue.project_id == project.id, Queue.id != queue.id)
    return show(
        "desk/review.html",
        status=status,
        claim=claim, review=review, item=item, project=project, queue=queue,
        decision_id=request.form.get("decision_id") or new_id("dec"),
        form=form, restored=restored, draft_at=claim.draft_at,
        priority=RANKS[review.rank], why=seen.why(item, review.purpose), others=alike.others(actor()),
        output=readable.readable(item.output, project.kind), asked=readable.readable(item.input),
        led=led, passages=readable.passages(context, supported.texts), support=supported,
        alternatives=readable.alternatives(item.output, item.samples),
        changes=_changed(project, item, typed), guidelines=guided(project.guidelines, tuple(project.reasons)),
        trace=readable.leads_to((item.trace or {}).get("url")),
        hints=hints, plain=plain, given=given, names=people_of(one.given_by for one in given),
        said=[readable.changes(project.kind, item.output, one.output) if one.output is not None else None
              for one in given],
        notes=[turn for turn in history(review.id) if turn.ended == "escalated"],
        queues=db.session.scalars(elsewhere.order_by(Queue.name)).all(), snoozes=forms.SNOOZES,
        aside={fault["pointer"]: fault["message"] for fault in aside}, asides=request.form,
        undo=seen.undoable(actor()), care=spared, people=candidates(actor(), queue),
        replies=[(one["name"], _filled(one["text"], item)) for one in project.replies],
    )  # fmt: skip


def _filled(text: str, item: Item) -> str:
    """A saved reply with what its placeholders stand for; one that says nothing here stays as it is."""
    me = person()
    known = {
        "item": item.id, "external_id": item.external_id, "subject": item.subject, "model": item.model,
        "feature": item.feature, "reviewer": me.name if me else None,
    }  # fmt: skip
    return re.sub(r"\{(\w+)\}", lambda found: known.get(found[1]) or found[0], text)


def _hidden(item: Item) -> list[dict[str, Any]]:
    """The hints on the output of an item that is not prepared yet."""
    return [
        {"where": "output", "name": char.name, "codepoint": char.codepoint, "count": char.count}
        for char in hidden_characters(as_text(item.output))
        if not char.in_place
    ]


def _changed(project: Project, item: Item, typed: Mapping[str, str] | None) -> readable.Changes | None:
    try:
        return readable.changes(project.kind, item.output, forms.output_of(project, item, typed or {}))
    except Invalid:
        return None


def _text(project: Project, item: Item) -> Any:
    """What of the output is held against the passages: a text, or the last thing a conversation says."""
    fields = to_fields(project.kind, project.schema, item.output) if project.kind == "chat" else []
    return fields[0].value if fields else item.output if project.kind in ("text", "markdown") else None


def editor_part(
    claim: Claim, project: Project, item: Item, typed: Mapping[str, str], faults: Sequence[Fault]
) -> Response:
    """The editor alone, its fields drawn anew."""
    form = forms.fill(project, item, typed, faults)
    return show(
        "desk/_editor.html", "desk/_editor.html", claim=claim, project=project, form=form, plain=plain
    )


@dataclass(frozen=True)
class Lost:
    """Two texts of one item: what the reader typed, and what became of it meanwhile."""

    mine: str
    theirs: str | None  # None: nobody may see it, or there is none
    between: readable.Changes | None
    free: bool  # the reader can claim it again
    comment: bool  # there is something to hand in


def lost_page(token: str, typed: Mapping[str, str] | None, message: str | None = None) -> Response:
    """Who has the review now and what was decided, beside what was typed, which is kept."""
    _, review, _ = claims.open_claim(actor(), token)
    return show(
        "desk/lost.html", "desk/_lost.html", 409, **_lost_values(token, typed, message),
        names=people_of([review.given_by]), undo=seen.undoable(actor()),
        **place_of(db.session.get_one(Queue, review.queue_id)),
    )  # fmt: skip


def lost_part(token: str, typed: Mapping[str, str] | None, message: str) -> Response:
    """The same for a review page that is open: what was typed stays in its form."""
    values = _lost_values(token, typed, message)
    answer = show("desk/_lost.html", "desk/_lost.html", 409, **values)
    answer.headers["HX-Retarget"], answer.headers["HX-Reswap"] = "#lost-place", "innerHTML"
    return answer


def _lost_values(token: str, typed: Mapping[str, str] | None, message: str | None) -> dict[str, Any]:
    claim, review, item = claims.open_claim(actor(), token)
    project = db.session.get_one(Project, item.project_id)
    known = review.state == "given" and not seen.trail(actor(), item).open
    typed = typed or claim.draft or {}
    note, mine = typed.get("note", ""), _output_text(project, item, typed)
    theirs = _decided_text(review, item) if known else None
    other = theirs if theirs is not None else as_text(item.output)
    nothing = forms.says_nothing(project, item, typed)
    return {
        "claim": claim, "item": item, "decided": review if known else None,
        "message": message or claims.why_lost(db.session(), actor(), claim),
        "kept": "" if nothing else "\n\n".join(part for part in (mine, note) if part),
        "lost": Lost(
            mine=mine,
            theirs=theirs,
            between=None if nothing or mine == other else readable.changes("text", other, mine),
            free=review.state == "wanted" and (review.claimed_by in (None, actor().id) or _lapsed(review)),
            comment=not nothing,
        ),
    }  # fmt: skip


def _lapsed(review: Review) -> bool:
    return review.lease_expires_at is None or review.lease_expires_at <= now()


def _output_text(project: Project, item: Item, typed: Mapping[str, str]) -> str:
    try:
        return as_text(forms.output_of(project, item, typed))
    except Invalid:
        return "\n\n".join(text for name, text in typed.items() if name.startswith("output"))


def _decided_text(review: Review, item: Item) -> str | None:
    """The output as the other reviewer left it; None when it was rejected."""
    if review.verdict == "reject":
        return None
    return as_text(review.output if review.verdict == "edit" else item.output)


def place_of(queue: Queue) -> dict[str, Any]:
    """A queue and its project, for a page's head."""
    return {"queue": queue, "project": db.session.get_one(Project, queue.project_id)}
