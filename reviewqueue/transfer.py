"""Items from a file and into one: a line each.

Nothing is submitted here but through `submit`; importing the same file again must change nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from sqlalchemy import select

from reviewqueue.db import db, dumps
from reviewqueue.errors import Invalid, Refusal
from reviewqueue.intake.items import submitted, told
from reviewqueue.intake.strict_json import loads
from reviewqueue.intake.submit import submit
from reviewqueue.models import Backend, Item
from reviewqueue.people.access import SCOPES, SYSTEM, backend_actor
from reviewqueue.people.backends import add_backend, backend_named
from reviewqueue.routing.projects import project_named

BATCH = 200


@dataclass
class Imported:
    """What became of a file's lines; `refused` holds (line number, why)."""

    submitted: int = 0
    known: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)


def import_items(file: Path, project_name: str, progress: Callable[[int], object]) -> Imported:
    """Submit each line that is not blank; `progress` gets the bytes read. A refused line stops nothing.

    The same line names the same item for ever (a line that stands twice in the file names two), so an import
    that was cut off is simply run again.
    """
    project = project_named(project_name)
    backend = _importer(project.name)
    actor = backend_actor(backend.id, project.id, SCOPES)
    done, seen = Imported(), Counter[bytes]()
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            progress(len(line))
            digest = sha256(line.strip()).digest()
            if not line.strip():
                continue
            seen[digest] += 1
            key = f"import-{sha256(digest + seen[digest].to_bytes(8, 'big')).hexdigest()[:40]}"
            try:
                data = loads(line)
                if not isinstance(data, dict):
                    raise Invalid("must be a JSON object")
                data = data.get("submission", data)  # a line of an export carries it beside the answer
                if data.setdefault("project", project.name) != project.name:
                    raise Invalid(f"belongs to project {data['project']!r}")
                answer = submit(data, actor, key=key, fingerprint=digest.hex())
            except Refusal as refusal:
                done.refused.append((number, refusal.message))
                continue
            if answer.replayed:
                done.known += 1
            else:
                done.submitted += 1
    return done


def _importer(project_name: str) -> Backend:
    """The backend in whose name lines are submitted; made on the first import."""
    name = f"{project_name[:57]}-import"
    return backend_named(name) or add_backend(SYSTEM, name, project_name).backend


def export_items(project_name: str) -> Iterator[str]:
    """Every item of the project, oldest first: a line as the API answers it, with what was submitted."""
    project = project_named(project_name)
    last = 0
    while True:
        rows = select(Item).where(Item.project_id == project.id, Item.number > last)
        batch = db.session.scalars(rows.order_by(Item.number).limit(BATCH)).all()
        if not batch:
            return
        last = batch[-1].number
        for item, answer in zip(batch, told(batch), strict=True):
            yield dumps(answer | {"submission": submitted(item, project.name)}) + "\n"
        db.session.rollback()  # memory stays flat, and no long transaction holds up others
