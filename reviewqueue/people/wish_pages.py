"""One's own wishes on the account page: keys, and what one wants to be spared."""

from __future__ import annotations

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from reviewqueue.content.harm import CATEGORIES
from reviewqueue.errors import Invalid
from reviewqueue.people.wishes import ACTIONS, MOST_A_DAY, Wishes, choose_care, choose_keys
from reviewqueue.web import actor, notice, person, right, show

pages = Blueprint("wishes", __name__)


@pages.get("/account/work")
@right("read_items")
def work() -> Response:
    """The keys one uses and what one wants to be spared."""
    return _page({})


@pages.post("/account/keys")
@right("read_items")
def set_keys() -> AnyResponse:
    """Keep one's own keys."""
    try:
        choose_keys(actor(), request.form)
    except Invalid as refused:
        return _page({fault["pointer"]: fault["message"] for fault in refused.errors}, 422)
    notice("Your keys are set.")
    return redirect("/account/work", 303)


@pages.post("/account/care")
@right("read_items")
def set_care() -> AnyResponse:
    """Keep what one wants to be spared."""
    form = request.form
    try:
        choose_care(
            actor(), form.get("protection", ""), form.getlist("leave_out"), form.get("daily", "")
        )  # fmt: skip
    except Invalid as refused:
        return _page({fault["pointer"]: fault["message"] for fault in refused.errors}, 422)
    notice("Kept. Nobody else sees this.")
    return redirect("/account/work", 303)


def _page(errors: dict[str, str], status: int = 200) -> Response:
    me = person()
    wishes = me.wishes if me else Wishes()
    typed = {name: request.form.get(name, key) for name, key in wishes.keys.items()}
    return show(
        "people/work.html", status=status, actions=ACTIONS, typed=typed, wishes=wishes, errors=errors,
        categories=list(CATEGORIES), form=request.form, most=MOST_A_DAY,
    )  # fmt: skip
