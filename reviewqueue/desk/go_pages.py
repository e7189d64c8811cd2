"""Where to go: pages, queues and items by a few letters, for the palette and as a page of its own.

Shows names alone. Must never name a queue or an item that the asker could not open.
"""

from __future__ import annotations

from dataclasses import dataclass

from flask import Blueprint, Response, request
from sqlalchemy import or_, select

from reviewqueue.db import db
from reviewqueue.ids import is_id
from reviewqueue.models import Backend, Item, Project
from reviewqueue.people.access import may, projects_of, visible_queues
from reviewqueue.web import NAVIGATION, actor, right, show

pages = Blueprint("go", __name__)

MOST = 12  # of each kind
_LAST = "\U0010ffff"


@dataclass(frozen=True)
class Goal:
    """One line of the palette: what it is, its name, where it leads."""

    kind: str
    name: str
    address: str


@pages.get("/go")
@right("read_items")
def go() -> Response:
    """What the letters in `q` could mean, best first; without letters every page and queue."""
    text = request.args.get("q", "").strip()[:200]
    goals = [*_items(text), *_pages(text), *_queues(text)]
    return show("desk/go.html", "desk/_goals.html", goals=goals, q=text)


def _pages(text: str) -> list[Goal]:
    told = [(name, address) for name, address, rights in NAVIGATION if any(may(actor(), r) for r in rights)]
    told += [("Account", "/account"), ("Keys and care", "/account/work")]
    return [Goal("page", name, address) for name, address in told if _fits(text, name)]


def _queues(text: str) -> list[Goal]:
    projects = {project.id: project for project in projects_of(actor())}
    named = []
    for queue in visible_queues(actor()):
        project = projects[queue.project_id]
        if _fits(text, project.title, project.name, queue.name):
            name = f"{project.title} · {queue.name}"
            named.append(Goal("queue", name, f"/queues/{project.name}/{queue.name}"))
    return named[:MOST]


def _items(text: str) -> list[Goal]:
    """Items by their id or the beginning of the backend's own."""
    projects = projects_of(actor())
    if len(text) < 2 or not projects:
        return []
    ids = [project.id for project in projects]
    if is_id("itm", text):
        by_name = Item.id == text
    else:
        # Backend and project first, as the index has them: it is read, not the table.
        backends = select(Backend.id).where(Backend.project_id.in_(ids))
        by_name = Item.backend_id.in_(backends) & (Item.external_id >= text) & (
            Item.external_id < text + _LAST
        )  # fmt: skip
    found = db.session.execute(
        select(Item.id, Item.external_id, Project.title)
        .join(Project, Project.id == Item.project_id)
        .where(Item.project_id.in_(ids), or_(by_name))
        .limit(MOST)
    )
    return [Goal("item", f"{row.external_id or row.id} · {row.title}", f"/items/{row.id}") for row in found]


def _fits(text: str, *names: str) -> bool:
    """Whether every word of `text` begins a word of these names."""
    words = " ".join(names).casefold().replace("-", " ").split()
    return all(any(word.startswith(part) for word in words) for part in text.casefold().split())
