"""What hands a review to somebody else, or a text in beside it: assigning, and comments.

Must never decide: a comment is no verdict, and who is given a review still has to give it.
"""

from __future__ import annotations

from flask import Blueprint, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from reviewqueue.errors import Conflict, Invalid
from reviewqueue.people.access import people_of
from reviewqueue.review.assign import assign
from reviewqueue.review.claim import open_claim
from reviewqueue.review.comment import hand_in
from reviewqueue.web import actor, notice, right

pages = Blueprint("handing", __name__)


@pages.post("/items/<item_id>/assignment")
@right("assign")
def give(item_id: str) -> AnyResponse:
    """A lead gives the item's review to somebody, or takes it over; then on with their own work."""
    wanted = request.form.get("person", "")
    try:
        claim = assign(actor(), item_id, actor().id if wanted == "me" else wanted)
    except (Invalid, Conflict) as refused:
        notice(refused.message)
        return redirect(f"/items/{item_id}", 303)
    if claim.person_id == actor().id:
        return redirect(f"/claims/{claim.token}", 303)
    notice(f"Given to {people_of([claim.person_id])[claim.person_id]}.")
    return redirect("/", 303)


@pages.post("/claims/<token>/comment")
@right("review")
def comment(token: str) -> AnyResponse:
    """Hand in what was typed for a review that somebody else has now."""
    _, _, item = open_claim(actor(), token)
    hand_in(actor(), token, request.form.get("text", ""))
    notice("Handed in as a comment. It stands with the item once its reviews are given.")
    return redirect(f"/items/{item.id}", 303)
