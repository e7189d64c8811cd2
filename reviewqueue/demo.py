"""Sample projects, accounts and a receiver, and the very first sign-in link.

Everything goes through the verbs that real clients use; nothing here is active unless somebody asks for it.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select

from reviewqueue.db import db
from reviewqueue.delivery import endpoints
from reviewqueue.intake.submit import submit
from reviewqueue.models import Backend, Endpoint, Person, Project, WebSession
from reviewqueue.people.access import SCOPES, SYSTEM, backend_actor
from reviewqueue.people.backends import add_backend, backend_named, secrets_of
from reviewqueue.people.sign_in import add_person, new_link
from reviewqueue.routing import projects

if TYPE_CHECKING:
    from reviewqueue.stack import Stack

FOLDER = Path(__file__).resolve().parent.parent / "demo"
LOOPBACK = "127.0.0.1/32"
FIRST = "admin@localhost"
# One account per role: email, name, role.
CAST = (
    ("reviewer@localhost", "Robin Reviewer", "reviewer"),
    ("lead@localhost", "Lena Lead", "lead"),
    ("admin@localhost", "Ada Admin", "admin"),
    ("auditor@localhost", "Aron Auditor", "auditor"),
)

Progress = Callable[[str], None]


def allow(before: str | None) -> str:
    """REVIEWQUEUE_CALLBACK_ALLOW with this machine's own address opened, for the demo's receiver."""
    return ",".join(filter(None, [before, LOOPBACK]))


def first_sign_in(stack: Stack) -> list[str]:
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


def samples(folder: Path = FOLDER) -> Iterator[tuple[Project, Iterator[dict[str, Any]]]]:
    """Each sample project, applied, with its items as a backend would send them."""
    for file in sorted(folder.glob("*/project.toml")):
        project = projects.apply(file, SYSTEM).project
        yield project, _items(file.parent / "items.jsonl")


def _items(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def load_samples(tell: Progress = lambda _: None) -> int:
    """Apply every sample project and submit its items, each once however often this runs; how many came."""
    count = 0
    for project, items in samples():
        backend = sample_backend(project)
        actor = backend_actor(backend.id, project.id, SCOPES)
        for item in items:
            count += not submit(item, actor).replayed
        tell(f"sample project {project.name}")
    return count


def sample_backend(project: Project) -> Backend:
    """The backend that sends a sample project's items; made when it is not there."""
    name = f"{project.name}-demo"
    return backend_named(name) or add_backend(SYSTEM, name, project.name).backend


def prepare(stack: Stack) -> list[str]:
    """What `make demo` starts with: samples, a receiver, an account per role; the lines to print."""
    from reviewqueue.stack import say

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
