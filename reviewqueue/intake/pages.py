"""What a new installation offers its first admin: sample items, and a key that works in the line on the desk.

Only an admin reaches this. Must never show a key a second time.
"""

from __future__ import annotations

from flask import Blueprint, Response, redirect
from werkzeug.wrappers import Response as AnyResponse

from reviewqueue import demo
from reviewqueue.config import current
from reviewqueue.desk import seen
from reviewqueue.people.access import SCOPES, projects_of
from reviewqueue.people.backends import add_backend, add_key, backend_named
from reviewqueue.routing import projects
from reviewqueue.web import actor, notice, right, show

pages = Blueprint("intake", __name__)

FIRST_PROJECT = (
    'name = "first-steps"\ntitle = "First steps"\nkind = "text"\n\n[policy]\nconfidence_below = 0.80\n'
)


@pages.post("/samples")
@right("publish")
def load_samples() -> AnyResponse:
    """Load one sample project of each kind with its items; each item once, however often this is pressed."""
    count = demo.load_samples()
    notice(f"{count} sample items have arrived.")
    return redirect("/", 303)


@pages.post("/first-key")
@right("manage_backends")
def first_key() -> Response:
    """A backend with a key in the line that sends the first item; a project for it when there is none."""
    if not projects_of(actor()):
        projects.apply(FIRST_PROJECT, actor())
    first = seen.first_item(projects_of(actor()))
    name = f"{first.project}-first"[:64].rstrip("-")
    backend = backend_named(name)
    key = (
        add_key(actor(), backend, SCOPES).text
        if backend
        else add_backend(actor(), name, first.project).api_key
    )
    return show("intake/first_key.html", first=first, key=key, public_url=current().public_url)
