"""Examples as files, row by row: memory does not grow with their number.

A reject holds no corrected output, so it appears only where the format has a place for that. Every export
is an entry in the ledger before its first row leaves.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import ColumnElement, Engine, func, null, select
from sqlalchemy.orm import Session

from reviewqueue.db import db, dumps, stamp, transaction
from reviewqueue.errors import Invalid
from reviewqueue.examples.retrieve import as_json
from reviewqueue.ledger.record import record
from reviewqueue.models import Example, Project
from reviewqueue.people.access import Actor, require
from reviewqueue.text import as_text

BATCH = 500
COLUMNS = ("id", "state", "input", "output", "rejected_output", "reason", "item", "decided_at", "promoted_at")
# What spreadsheets take for the beginning of a formula, in both widths.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def export(actor: Actor, project: Project, form: str) -> Iterator[str]:
    """The lines, each with its end, of a project's examples in format `form`; Invalid names the formats.

    `jsonl` holds every example with its state and provenance; the other formats only active ones. A person
    needs the right `export`, a key the scope `export:read`.
    """
    require(actor, "export:read" if actor.role == "backend" else "export")
    if form not in FORMATS:
        raise Invalid(f"format must be one of {', '.join(FORMATS)}", field="format")
    line, which = FORMATS[form]
    project_id, name = project.id, project.name
    said = {"what": "examples", "format": form, "set": project.example_set, "role": actor.role}
    with transaction() as session:
        count = select(func.count()).select_from(Example).where(Example.project_id == project_id, *which)
        record("export", said | {"rows": session.scalar(count)}, project_id=project_id, actor=actor.id)
    rows = (line(_full(name, example)) for example in _rows(db.engine, project_id, which))
    return _with_header(rows) if form == "csv" else rows


def _jsonl(example: dict[str, Any]) -> str:
    return dumps(example) + "\n"


def _openai_chat(example: dict[str, Any]) -> str:
    turns = [("user", example["input"]), ("assistant", example["output"])]
    return dumps({"messages": [{"role": role, "content": as_text(said)} for role, said in turns]}) + "\n"


def _dpo(example: dict[str, Any]) -> str:
    fields = {"prompt": "input", "chosen": "output", "rejected": "rejected_output"}
    return dumps({field: as_text(example[source]) for field, source in fields.items()}) + "\n"


def _csv(example: dict[str, Any]) -> str:
    return _csv_row([_cell(example[column]) for column in COLUMNS])


def _with_header(rows: Iterator[str]) -> Iterator[str]:
    yield _csv_row(COLUMNS)
    yield from rows


def _csv_row(cells: Any) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()


def _cell(value: Any) -> str:
    text = "" if value is None else as_text(value)
    return "'" + text if text.startswith(_FORMULA) else text


_ACTIVE = (Example.state == "active",)
_CORRECTED = (*_ACTIVE, Example.output.is_not(null()))

# Format → how one example is written, and which examples have a place in it.
FORMATS: dict[str, tuple[Callable[[dict[str, Any]], str], tuple[ColumnElement[bool], ...]]] = {
    "jsonl": (_jsonl, ()),
    "openai-chat": (_openai_chat, _CORRECTED),
    "dpo": (_dpo, _CORRECTED),
    "csv": (_csv, _ACTIVE),
}


def _full(project_name: str, example: Example) -> dict[str, Any]:
    return as_json(example) | {
        "project": project_name,
        "state": example.state,
        "decision": example.decision_id,
        "author": example.author_id,
        "promoted_by": example.promoted_by,
        "promoted_at": stamp(example.promoted_at) if example.promoted_at else None,
        "first_set": example.first_set,
        "last_set": example.last_set,
    }


def _rows(engine: Engine, project_id: str, which: tuple[ColumnElement[bool], ...]) -> Iterator[Example]:
    """Examples by id, in batches of their own short reads: no transaction stays open meanwhile."""
    last = ""
    # By the project's index, SQLite would sort all of its examples for every batch.
    ours = Example.project_id.concat("") == project_id
    while True:
        query = select(Example).where(ours, Example.id > last, *which)
        with Session(engine) as session:
            rows = session.scalars(query.order_by(Example.id).limit(BATCH)).all()
        if not rows:
            return
        last = rows[-1].id
        yield from rows
