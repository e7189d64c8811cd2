"""Items from and to files of JSON lines: imported as if they were submitted, exported with all they hold.

Both stream: neither holds more than a few hundred items at a time. An import must never store a line twice,
however often it is broken off and begun anew.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import select

from reviewqueue.db import db, dumps, now, transaction
from reviewqueue.errors import Conflict, Invalid, Missing, Refusal
from reviewqueue.ids import new_id
from reviewqueue.intake.items import told
from reviewqueue.intake.room import unlimited
from reviewqueue.intake.store import Answer
from reviewqueue.intake.submit import submit, submit_batch
from reviewqueue.ledger.record import record
from reviewqueue.models import Backend, Item, Project
from reviewqueue.people.access import Actor, backend_actor, require
from reviewqueue.routing.projects import project_named
from reviewqueue.routing.trial import as_submitted
from reviewqueue.strict_json import loads

BATCH = 200  # lines in a transaction, items in memory
PAGE = 100


@dataclass(frozen=True)
class Imported:
    """What became of one line; `number` counts from 1. Exactly one of `answer` and `refusal` is there."""

    number: int
    answer: Answer | None = None
    refusal: Refusal | None = None


def import_lines(
    actor: Actor, project_name: str, lines: Iterable[bytes], backend: str | None = None
) -> Iterator[Imported]:
    """Submit each line (a submission, or a line of an export) to the project; tells line by line.

    A line with a known external id, or without one but the same as an earlier line, is a repeat. The items
    belong to `backend`; left out, to the project's only one, else to one that the import makes for itself.
    """
    require(actor, "publish")
    project = project_named(project_name)
    name, sender = project.name, _sender(actor, project, backend)
    numbered = enumerate(lines, 1)
    while chunk := list(islice(numbered, BATCH)):
        with unlimited():
            results = _import(sender, name, [(n, line) for n, line in chunk if line.strip()])
        yield from results


def _import(sender: Actor, project: str, lines: list[tuple[int, bytes]]) -> list[Imported]:
    results: dict[int, Imported] = {}
    named: list[tuple[int, Any]] = []
    for number, line in lines:
        try:
            data = _submission(loads(line), project)
            if data.get("external_id") is not None:
                named.append((number, data))
                continue
            # Without a name of its own the line itself is the key.
            digest = hashlib.sha256(dumps(data).encode()).hexdigest()
            results[number] = Imported(number, submit(data, sender, f"import-{digest}", digest))
        except (Invalid, Missing, Conflict) as refused:
            results[number] = Imported(number, refusal=refused)
    answers, _ = submit_batch([data for _, data in named], sender)
    for (number, _), answer in zip(named, answers, strict=True):
        if isinstance(answer, Answer):
            results[number] = Imported(number, answer)
        else:
            results[number] = Imported(number, refusal=answer)
    return [results[number] for number, _ in lines]


def _submission(line: Any, project: str) -> dict[str, Any]:
    if not isinstance(line, dict):
        raise Invalid("a line must be an object", field="")
    data = line["submitted"] if isinstance(line.get("submitted"), dict) else line
    return {**data, "project": project}


def _sender(actor: Actor, project: Project, name: str | None) -> Actor:
    """Who submits what is imported; a backend of the import's own has no key and is never called back."""
    own = f"{project.name[:57]}-import"
    active = select(Backend).where(Backend.project_id == project.id, Backend.active)
    if name is not None:
        found = db.session.scalars(active.where(Backend.name == name)).one_or_none()
        if found is None:
            raise Missing(f"project {project.name} has no backend {name}")
    else:
        backends = db.session.scalars(active.limit(2)).all()
        found = backends[0] if len(backends) == 1 else None
        found = found or db.session.scalars(active.where(Backend.name == own)).one_or_none()
    if found is None:
        with transaction() as session:
            found = Backend(id=new_id("bck"), name=own, project_id=project.id, active=True, created_at=now())
            session.add(found)
            fields = {"change": "backend.added", "backend": found.id}
            record("config", fields, project_id=project.id, actor=actor.id)
        db.session.refresh(found)
    return backend_actor(found.id, found.project_id, ["items:write"])


def export_lines(actor: Actor, project_name: str) -> Iterator[str]:
    """Every item of the project, oldest first, one JSON object a line: the API's shape, and under
    `submitted` what came in, so that an import of the lines makes the same items again."""
    require(actor, "export")
    project = project_named(project_name)
    project_id, name = project.id, project.name
    last, rows = 0, 0
    # By the project's index, SQLite would sort all of its items for every page.
    ours = Item.project_id.concat("") == project_id
    while True:
        items = db.session.scalars(
            select(Item).where(ours, Item.number > last).order_by(Item.number).limit(PAGE)
        ).all()
        if not items:
            break
        last, rows = items[-1].number, rows + len(items)
        for item, shape in zip(items, told(items), strict=True):
            yield dumps(shape | {"submitted": as_submitted(item, name)}) + "\n"
    with transaction():
        fields = {"what": "items", "format": "jsonl", "rows": rows, "role": actor.role}
        record("export", fields, project_id=project_id, actor=actor.id)
