"""What the supervisor has ready and says when everything runs: the address, how to sign in, the demo's cast.

Links are printed for whoever started it and for nobody else; they must never reach a log.
"""

from __future__ import annotations

import json
import socket
import sys

from sqlalchemy import func, select

from reviewqueue.db import db
from reviewqueue.delivery import endpoints
from reviewqueue.demo import FOLDER, load_samples
from reviewqueue.models import Backend, Endpoint, Person, WebSession
from reviewqueue.people.access import SYSTEM
from reviewqueue.people.backends import secrets_of
from reviewqueue.people.sign_in import add_person, new_link
from reviewqueue.running.children import say
from reviewqueue.running.stack import Stack

LOOPBACK = "127.0.0.1/32"
FIRST = "admin@localhost"
# One account per role: email, name, role.
CAST = (
    ("reviewer@localhost", "Robin Reviewer", "reviewer"),
    ("lead@localhost", "Lena Lead", "lead"),
    ("admin@localhost", "Ada Admin", "admin"),
    ("auditor@localhost", "Aron Auditor", "auditor"),
)


def allow(before: str | None) -> str:
    """REVIEWQUEUE_CALLBACK_ALLOW with this machine's own address opened, for the demo's receiver."""
    return ",".join(filter(None, [before, LOOPBACK]))


def usual(stack: Stack) -> list[str]:
    """The address, and a link for the first admin as long as nobody has ever signed in."""
    lines = [f"reviewqueue  {stack.settings.public_url}", f"data         {stack.settings.data_dir}"]
    token = first_link()
    if token is not None:
        lines += ["", "Sign in as the first admin (works once, for 72 hours):", _link(stack, token)]
    return lines


def first_link() -> str | None:
    """A sign-in token of the first admin, who is made when there is nobody; None once somebody came."""
    people = db.session.scalars(select(Person).limit(2)).all()
    if not people:
        return add_person(SYSTEM, FIRST, "admin", name="Admin")[1]
    came = db.session.scalar(select(func.count()).select_from(WebSession))
    if came or len(people) > 1 or people[0].email != FIRST or people[0].password_hash is not None:
        return None
    return new_link(SYSTEM, people[0].id)


def _link(stack: Stack, token: str) -> str:
    return f"{stack.settings.public_url}/login/link/{token}"


def with_samples(stack: Stack) -> list[str]:
    """What `make demo` starts with: samples, a receiver, an account per role; the lines to print."""
    load_samples(say)
    _start_receiver(stack)
    lines = [f"reviewqueue  {stack.settings.public_url}", f"data         {stack.settings.data_dir}"]
    lines += ["", "Sign in as (each link works once, for 72 hours):"]
    for email, name, role in CAST:
        person = db.session.scalar(select(Person).where(Person.email == email))
        token = new_link(SYSTEM, person.id) if person else add_person(SYSTEM, email, role, name=name)[1]
        lines.append(f"  {role:9} {_link(stack, token or '')}")
    lines += ["", "Callbacks are printed below as the demo's backends receive them."]
    return lines


def _start_receiver(stack: Stack) -> None:
    """A server of ours on a free port that checks and prints callbacks; every sample backend calls it."""
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    keys = {}
    for backend in db.session.scalars(select(Backend).where(Backend.name.endswith("-demo"))).all():
        keys[backend.name] = secrets_of(backend.id, "callback")
        endpoint = db.session.get(Endpoint, backend.id)
        address = f"{url}/{backend.name}"
        if endpoint is None or endpoint.url != address:
            endpoints.register(SYSTEM, backend.id, address, trusted=True)
    stack.keep.append(listening)
    number = listening.fileno()
    command = [sys.executable, str(FOLDER / "receiver.py"), str(number)]
    stack.add("receiver", command, (number,), {"RECEIVER_SECRETS": json.dumps(keys)})
