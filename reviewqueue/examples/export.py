"""Examples as files, row by row: memory does not grow with their number.

A reject holds no corrected output, so it appears only where the format has a place for that.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

from sqlalchemy import select

from reviewqueue.db import db, dumps, stamp
from reviewqueue.errors import Invalid
from reviewqueue.examples.retrieve import as_json
from reviewqueue.models import Example, Project
from reviewqueue.text import as_text

BATCH = 500
COLUMNS = ("id", "state", "input", "output", "rejected_output", "reason", "item", "decided_at", "promoted_at")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def export(project: Project, form: str) -> Iterator[str]:
    """The lines, each with its end, of a project's examples in format `form`; Invalid names the formats.

    `jsonl` holds every example with its state and provenance; the other formats only active ones.
    """
    if form not in FORMATS:
        raise Invalid(f"format must be one of {', '.join(FORMATS)}", field="format")
    return FORMATS[form](project)


def _jsonl(project: Project) -> Iterator[str]:
    for example in _rows(project, active=False):
        yield dumps(_full(project, example)) + "\n"


def _openai_chat(project: Project) -> Iterator[str]:
    for example in _rows(project, active=True):
        if example.output is not None:
            turns = [("user", example.input_text), ("assistant", as_text(example.output))]
            yield dumps({"messages": [{"role": role, "content": said} for role, said in turns]}) + "\n"


def _dpo(project: Project) -> Iterator[str]:
    for example in _rows(project, active=True):
        if example.output is not None:
            yield dumps(
                {
                    "prompt": example.input_text,
                    "chosen": as_text(example.output),
                    "rejected": as_text(example.rejected_output),
                }
            ) + "\n"  # fmt: skip


def _csv(project: Project) -> Iterator[str]:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(COLUMNS)
    yield buffer.getvalue()
    for example in _rows(project, active=True):
        buffer.seek(0)
        buffer.truncate()
        full = _full(project, example)
        writer.writerow([_cell(full[column]) for column in COLUMNS])
        yield buffer.getvalue()


FORMATS: dict[str, Callable[[Project], Iterator[str]]] = {
    "jsonl": _jsonl,
    "openai-chat": _openai_chat,
    "dpo": _dpo,
    "csv": _csv,
}


def _cell(value: Any) -> str:
    text = "" if value is None else as_text(value)
    # A spreadsheet would run it as a formula.
    return "'" + text if text.startswith(_FORMULA) else text


def _full(project: Project, example: Example) -> dict[str, Any]:
    return as_json(example) | {
        "project": project.name,
        "state": example.state,
        "decision": example.decision_id,
        "author": example.author_id,
        "promoted_by": example.promoted_by,
        "promoted_at": stamp(example.promoted_at) if example.promoted_at else None,
        "first_set": example.first_set,
        "last_set": example.last_set,
    }


def _rows(project: Project, *, active: bool) -> Iterator[Example]:
    """Examples by id, in batches of their own short reads: no transaction stays open meanwhile."""
    last = ""
    while True:
        query = select(Example).where(Example.project_id == project.id, Example.id > last)
        if active:
            query = query.where(Example.state == "active")
        rows = db.session.scalars(query.order_by(Example.id).limit(BATCH)).all()
        yield from rows
        if len(rows) < BATCH:
            return
        last = rows[-1].id
        db.session.expunge_all()
