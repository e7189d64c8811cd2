"""The review page and what is done there: claim, decide, save, skip, pass on, give back, undo.

A verb says what happened; here it becomes a page or the way to one. Must never lose what somebody typed:
every refusal shows it again or keeps it with the claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from reviewqueue import background
from reviewqueue.content.fits import check
from reviewqueue.db import db, now
from reviewqueue.desk import form as forms
from reviewqueue.desk import readable, seen
from reviewqueue.desk.review_pages import editor_part, lost_page, lost_part, place_of, review_page
from reviewqueue.errors import Conflict, Fault, Invalid, LeaseLost
from reviewqueue.finding import alike
from reviewqueue.ids import new_id
from reviewqueue.models import Claim, Decision, Project, Queue
from reviewqueue.people.access import queue_for
from reviewqueue.review import claim as claims
from reviewqueue.review import decide as decisions
from reviewqueue.review import next as turns
from reviewqueue.web import actor, notice, person, right, show

pages = Blueprint("review", __name__)


@pages.post("/queues/<project>/<queue>/claims")
@right("review")
def claim_from(project: str, queue: str) -> AnyResponse:
    """Claim the best next review of a queue, or say that nothing is free."""
    found = queue_for(actor(), project, queue)
    try:
        claimed = turns.next_claim(actor(), found, _left_out())
    except Conflict as full:
        return _to_the_desk(full)
    if claimed is not None:
        return redirect(f"/claims/{claimed.token}", 303)
    return show(
        "desk/nothing.html", **place_of(found), undo=seen.undoable(actor()), others=alike.others(actor())
    )


@pages.post("/items/<item_id>/claims")
@right("review")
def claim_one(item_id: str) -> AnyResponse:
    """Claim a review of this very item; the refusal says who has it."""
    try:
        return redirect(f"/claims/{claims.claim_item(actor(), item_id).token}", 303)
    except Conflict as error:
        if error.code != "holding_enough":
            raise
        return _to_the_desk(error)


@pages.get("/claims/<token>")
@right("review")
def review(token: str) -> AnyResponse:
    """The review page; what became of the review when the claim is no longer in force."""
    claim, review, item = claims.open_claim(actor(), token)
    if claim.ended == "decided":
        return redirect(f"/items/{item.id}", 303)
    if review.claim_token != token or (review.lease_expires_at or now()) <= now() + turns.AHEAD:
        # Somebody may be taking it at this moment: then the claim is read again, ended.
        if not turns.begin(actor(), token):
            with suppress(LeaseLost):
                claims.renew(actor(), token)
        claim, review, item = claims.open_claim(actor(), token)
    if _taken_unopened(claim):
        return _next(review.queue_id)
    if review.claim_token != token or review.state != "wanted":
        return lost_page(token, None)
    typed = claim.draft if "fresh" not in request.args else None
    return review_page(claim, review, item, typed=typed, restored=bool(typed))


@pages.put("/claims/<token>")
@right("review")
def keep(token: str) -> AnyResponse:
    """Heartbeat and draft: how long the claim holds, or who has the review now."""
    claim, _, item = claims.open_claim(actor(), token)
    draft = forms.draft_of(request.form)
    project = db.session.get_one(Project, item.project_id)
    if draft is not None and claim.draft is None and forms.says_nothing(project, item, draft):
        draft = None
    try:
        until = claims.renew(actor(), token, draft)
    except LeaseLost as lost:
        return lost_part(token, draft, lost.message)
    return show("desk/_lease.html", "desk/_lease.html", until=until, saved=draft is not None)


@pages.get("/claims/<token>/lease")
@right("review")
def lease(token: str) -> AnyResponse:
    """Whether the review is still the asker's: nothing when it is, else who has it. Renews nothing."""
    claim, review, _ = claims.open_claim(actor(), token)
    if review.claim_token == token and review.state == "wanted":
        background.here(actor().id, review.id)
        return Response(status=204)
    return lost_part(token, None, claims.why_lost(db.session(), actor(), claim))


@pages.post("/claims/<token>/changes")
@right("review")
def changes(token: str) -> AnyResponse:
    """What the form, as it stands, changes, and whether that fits; nothing is kept or decided."""
    claim, review, item = claims.open_claim(actor(), token)
    project = db.session.get_one(Project, item.project_id)
    faults: Sequence[Fault] = ()
    changed = None
    try:
        output = forms.output_of(project, item, request.form)
        changed = readable.changes(project.kind, item.output, output)
        faults = check(project.kind, project.schema, output) if changed else ()
    except Invalid as error:
        faults = error.errors
    if not request.headers.get("HX-Request"):
        return review_page(claim, review, item, typed=forms.draft_of(request.form), faults=faults)
    form = forms.fill(project, item, forms.draft_of(request.form), faults)
    return show("desk/_changes.html", "desk/_changes.html", changes=changed, form=form, claim=claim)


@pages.post("/claims/<token>/shape")
@right("review")
def reshape(token: str) -> AnyResponse:
    """The form with an entry or key more, less, or of another name; nothing is kept or decided."""
    claim, review, item = claims.open_claim(actor(), token)
    project = db.session.get_one(Project, item.project_id)
    typed = (forms.draft_of(request.form) or {}) | forms.keys_of(request.form)
    faults = list[Fault]()
    try:
        typed = forms.reshape(project, item, typed, request.form.get("do", ""))
    except Invalid as error:
        faults = error.errors
    if request.headers.get("HX-Request"):
        return editor_part(claim, project, item, typed, faults)
    return review_page(claim, review, item, typed=typed, faults=faults)


@pages.post("/claims/<token>/decision")
@right("review")
def decide(token: str) -> AnyResponse:
    """Give the verdict and go on to the next review."""
    claim, review, item = claims.open_claim(actor(), token)
    project = db.session.get_one(Project, item.project_id)
    form, verdict, draft = request.form, request.form.get("verdict", ""), forms.draft_of(request.form)
    queue_id = review.queue_id
    try:
        output = forms.outcome(project, item, verdict, form)
        decisions.decide(
            actor(), token, form.get("decision_id") or new_id("dec"), verdict, output,
            form.get("reason"), form.get("cause"), form.get("note"), draft=draft,
        )  # fmt: skip
    except (Invalid, Conflict) as error:
        # A form with faults is shown again, not kept: a page opened anew must not begin with what cannot be.
        if isinstance(error, Invalid) and _save(token, None):
            again = review_page(claim, review, item, typed=draft, faults=error.errors, status=422)
            return _here(again, token)
        _save(token, draft)
        why = error.message if isinstance(error, Conflict) else None
        return _here(lost_page(token, draft, why), token)
    ahead = form.get("ahead", "")
    if ahead and turns.begin(actor(), ahead):
        # The browser has that page already: only what has changed since goes there.
        answer = show("desk/_undo.html", undo=seen.undoable(actor()), others=alike.others(actor()))
        answer.headers["X-Next-Claim"] = answer.headers["HX-Push-Url"] = f"/claims/{ahead}"
        return answer
    return _next(queue_id)


@pages.post("/claims/<token>/ahead")
@right("review")
def ahead(token: str) -> AnyResponse:
    """The page of the next review, claimed for half a minute while this one is read; or nothing."""
    _, review, _ = claims.open_claim(actor(), token)
    try:
        claimed = turns.claim_ahead(actor(), db.session.get_one(Queue, review.queue_id), _left_out())
    except Conflict:
        claimed = None
    if claimed is None:
        return Response(status=204)
    claim, review, item = claims.open_claim(actor(), claimed.token)
    answer = review_page(claim, review, item, typed=claim.draft, restored=bool(claim.draft))
    answer.headers["X-Next-Claim"] = f"/claims/{claim.token}"
    return answer


@pages.post("/claims/<token>/skip")
@right("review")
def skip(token: str) -> AnyResponse:
    """Pass the review over, for a while or until a time, and go on to the next."""
    claim, review, item = claims.open_claim(actor(), token)
    queue_id = review.queue_id
    try:
        at, zone = request.form.get("until_at") or request.form.get("until", ""), request.form.get("zone", "")
        claims.skip(actor(), token, request.form.get("reason"), forms.until_of(at, zone))
    except Invalid as error:
        return review_page(claim, review, item, aside=error.errors, status=422)
    except LeaseLost:
        return lost_page(token, None)
    notice("Skipped. It is not offered to you again for a while.")
    return _next(queue_id)


@pages.post("/claims/<token>/release")
@right("review")
def release(token: str) -> AnyResponse:
    """Give the review back to its queue."""
    _, review, _ = claims.open_claim(actor(), token)
    queue_id = review.queue_id
    if "unopened" in request.form:  # a page that was fetched ahead and never shown
        turns.leave_unopened(actor(), token)
        return Response(status=204)
    claims.release(actor(), token)
    notice("Given back to its queue.")
    return redirect(_address(queue_id), 303)


@pages.post("/claims/<token>/escalation")
@right("review")
def escalate(token: str) -> AnyResponse:
    """Pass the review to another queue with a note, and go on to the next."""
    claim, review, item = claims.open_claim(actor(), token)
    queue_id = review.queue_id
    try:
        moved = decisions.escalate(
            actor(), token, request.form.get("queue", ""), request.form.get("note")
        )  # fmt: skip
    except Invalid as error:
        return review_page(claim, review, item, aside=error.errors, status=422)
    except LeaseLost:
        return lost_page(token, None)
    notice(f"Passed on to {moved.name}.")
    return _next(queue_id)


@pages.post("/decisions/<decision_id>/undo")
@right("review")
def undo(decision_id: str) -> AnyResponse:
    """Take back what was decided, and return to it."""
    claim = decisions.undo(actor(), decision_id)
    notice("Taken back. Nothing was sent.")
    if claim is not None:
        return redirect(f"/claims/{claim.token}", 303)
    return redirect(f"/items/{db.session.get_one(Decision, decision_id).item_id}", 303)


def _save(token: str, draft: dict[str, str] | None) -> bool:
    """Keep what came with a verdict that was refused; the page that says why shows it as well.

    Returns whether the claim is still in force: when it is not, nothing the form says could decide.
    """
    db.session.rollback()
    with suppress(LeaseLost):
        with suppress(Invalid):
            claims.renew(actor(), token, draft)
        return True
    return False


def _here(answer: Response, token: str) -> Response:
    """`answer`, with the address of the review page in the bar: reloading must not send the form again."""
    answer.headers["HX-Push-Url"] = f"/claims/{token}"
    return answer


def _next(queue_id: str) -> AnyResponse:
    """To what the reviewer holds in this queue already, else to the best next review, else to the queue.

    The next one is only offered: who leaves now keeps nothing from the others.
    """
    ahead = request.form.get("ahead", "")
    held = ahead if ahead and turns.begin(actor(), ahead) else _held(queue_id)
    if held is None:
        try:
            queue = db.session.get_one(Queue, queue_id)
            claimed = turns.next_claim(actor(), queue, _left_out(), offered=True)
        except Conflict as full:
            return _to_the_desk(full)
        # Nothing is free when the page that was left has fetched the last one at this very moment.
        held = claimed.token if claimed else _held(queue_id)
    return redirect(f"/claims/{held}" if held else _address(queue_id), 303)


def _held(queue_id: str) -> str | None:
    """The token of what the reviewer holds in this queue, be it only fetched ahead: then it is opened now."""
    if held := seen.held_in(actor(), queue_id):
        return held
    fetched = turns.unopened(actor(), queue_id)
    return fetched if fetched and turns.begin(actor(), fetched) else None


def _to_the_desk(full: Conflict) -> AnyResponse:
    """To what the reviewer holds already: that is the most they may."""
    notice(full.message)
    return redirect("/", 303)


def _left_out() -> tuple[str, ...]:
    me = person()
    return me.wishes.leave_out if me else ()


def _taken_unopened(claim: Claim) -> bool:
    """Whether somebody else took what was only offered: what is opened is kept for a whole lease."""
    taken = claim.ended_at if claim.ended == "taken" and claim.draft is None else None
    return taken is not None and taken < claim.claimed_at + claims.LEASE


def _address(queue_id: str) -> str:
    place = place_of(db.session.get_one(Queue, queue_id))
    return f"/queues/{place['project'].name}/{place['queue'].name}"
