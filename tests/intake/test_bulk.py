from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

from reviewqueue.db import db
from reviewqueue.errors import Conflict, Forbidden, Invalid, Missing
from reviewqueue.intake import bulk
from reviewqueue.intake.bulk import Imported, export_lines, import_lines
from reviewqueue.intake.submit import submit
from reviewqueue.models import Backend, Item, LedgerEntry, Project
from reviewqueue.people.access import SYSTEM
from tests.make import Make


def lines(*items: Any) -> list[bytes]:
    return [json.dumps(item).encode() + b"\n" for item in items]


def one(**fields: Any) -> dict[str, Any]:
    return {"output": "It left on Monday.", **fields}


def count() -> int:
    return int(db.session.scalar(select(func.count()).select_from(Item)) or 0)


def replayed(results: list[Imported]) -> list[bool | None]:
    return [result.answer.replayed if result.answer else None for result in results]


@pytest.fixture
def project(base: Flask, make: Make) -> Project:
    return make.project(confidence_below=0.80)


def test_import_submits_each_line_once_however_often_it_runs(project: Project) -> None:
    file = lines(one(external_id="a", confidence=0.1), one(output="no id"), one(external_id="b"), "")
    file[3] = b"\n"
    first = list(import_lines(SYSTEM, project.name, file))
    assert [result.number for result in first] == [1, 2, 3]
    assert replayed(first) == [False, False, False]
    assert replayed(list(import_lines(SYSTEM, project.name, file))) == [True, True, True]
    assert count() == 3


def test_import_goes_on_where_it_was_broken_off(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk, "BATCH", 10)
    file = lines(*(one(external_id=str(n)) for n in range(35)))
    running = import_lines(SYSTEM, project.name, file)
    for _ in range(15):
        next(running)
    assert count() == 20
    assert sum(bool(again) for again in replayed(list(import_lines(SYSTEM, project.name, file)))) == 20
    assert count() == 35


def test_import_tells_what_is_wrong_line_by_line(project: Project) -> None:
    file = [
        *lines(one(external_id="a"), one(confidence=2), one(external_id="a", output="other"), [1]),
        b'{"output": "x", "output": "y"}',
        b"nonsense",
        *lines(one(external_id="c", confidence=2), one(external_id="d")),
    ]
    results = list(import_lines(SYSTEM, project.name, file))
    assert [result.number for result in results] == list(range(1, 9))
    refusals = [type(result.refusal) if result.refusal else None for result in results]
    assert refusals == [None, Invalid, Conflict, Invalid, Invalid, Invalid, Invalid, None]
    assert count() == 2


def test_import_belongs_to_the_only_backend_or_the_one_named(project: Project, make: Make) -> None:
    mine = make.backend_actor(project)
    list(import_lines(SYSTEM, project.name, lines(one(external_id="a"))))
    assert db.session.scalars(select(Item.backend_id)).all() == [mine.id]
    other = make.backend_actor(project, "second")
    list(import_lines(SYSTEM, project.name, lines(one(external_id="b")), backend="second"))
    list(import_lines(SYSTEM, project.name, lines(one(external_id="c"))))
    list(import_lines(SYSTEM, project.name, lines(one(external_id="d"))))
    own = db.session.scalars(select(Backend.id).where(Backend.name == f"{project.name}-import")).one()
    owners = db.session.scalars(select(Item.backend_id).order_by(Item.number)).all()
    assert owners == [mine.id, other.id, own, own]
    with pytest.raises(Missing):
        list(import_lines(SYSTEM, project.name, [], backend="nobody"))


def test_export_gives_every_item_with_what_came_in(project: Project, make: Make) -> None:
    backend = make.backend_actor(project)
    data = one(project=project.name, confidence=0.1, external_id="e", metadata={"a": [1, None]}, prompt="p")
    pending = submit(data, backend)
    released = submit(one(project=project.name, confidence=0.9), backend)
    told = [json.loads(line) for line in export_lines(SYSTEM, project.name)]
    assert [item["id"] for item in told] == [pending.id, released.id]
    assert told[0] == pending.body | {"submitted": data}
    assert told[1]["output"] == "It left on Monday."
    entry = db.session.scalars(select(LedgerEntry).where(LedgerEntry.type == "export")).one()
    assert json.loads(entry.body)["rows"] == 2


def test_an_export_can_be_imported_into_another_project(
    project: Project, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "PAGE", 3)
    file = lines(*(one(external_id=str(n), confidence=n / 10, metadata={"n": n}) for n in range(10)))
    list(import_lines(SYSTEM, project.name, file))
    copy = make.project("copy", confidence_below=0.80)
    moved = list(
        import_lines(SYSTEM, copy.name, (line.encode() for line in export_lines(SYSTEM, project.name)))
    )
    assert replayed(moved) == [False] * 10
    contents = [
        [{**json.loads(line)["submitted"], "project": ""} for line in export_lines(SYSTEM, name)]
        for name in (project.name, copy.name)
    ]
    assert contents[0] == contents[1]


def test_export_is_for_leads_and_import_for_admins(project: Project, make: Make) -> None:
    for name in ("ada", "aud", "mallory"):
        with pytest.raises(Forbidden):
            list(export_lines(make.person(name), project.name))
    with pytest.raises(Forbidden):
        list(import_lines(make.person("cleo"), project.name, []))
    assert list(export_lines(make.person("cleo"), project.name)) == []
