"""Exports read back as what went in, hold no formulas, and need no more memory for more examples."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import insert, select

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Forbidden, Invalid
from reviewqueue.examples.export import BATCH, FORMATS, export
from reviewqueue.ids import new_id
from reviewqueue.models import Decision, Example, Item, LedgerEntry, Project
from reviewqueue.people.access import SYSTEM
from tests.examples.conftest import Teach
from tests.make import Make

pytestmark = pytest.mark.usefixtures("base")


@pytest.fixture
def taught(active: Teach, proposed: Teach) -> list[Example]:
    """An edit, a reject, both active; and an edit nobody promoted."""
    return [
        active("Where is my parcel?", "At the “depot”,\nsince Monday; 自転車.", "Dunno."),
        active("Say hello", None, "Go away."),
        proposed("Not promoted yet", "Good.", "Bad."),
    ]


def text(project: Project, form: str) -> str:
    return "".join(export(SYSTEM, project, form))


def lines(project: Project, form: str) -> list[dict[str, Any]]:
    written = text(project, form)
    assert written.endswith("\n")
    return [json.loads(line) for line in written.splitlines()]


def test_export_jsonl_holds_every_example_with_its_provenance(
    project: Project, taught: list[Example]
) -> None:
    edit, reject, waiting = lines(project, "jsonl")
    assert [one["id"] for one in (edit, reject, waiting)] == [one.id for one in taught]
    assert [one["state"] for one in (edit, reject, waiting)] == ["active", "active", "proposed"]
    assert edit["output"] == "At the “depot”,\nsince Monday; 自転車."
    assert (reject["output"], reject["rejected_output"]) == (None, "Go away.")
    assert edit["promoted_by"] != edit["author"]
    assert (edit["project"], edit["item"], edit["first_set"]) == (project.name, taught[0].item_id, 1)


def test_export_openai_chat_holds_what_to_say(project: Project, taught: list[Example]) -> None:
    assert lines(project, "openai-chat") == [
        {
            "messages": [
                {"role": "user", "content": "Where is my parcel?"},
                {"role": "assistant", "content": "At the “depot”,\nsince Monday; 自転車."},
            ]
        }
    ]


def test_export_dpo_holds_both_answers(project: Project, taught: list[Example]) -> None:
    assert lines(project, "dpo") == [
        {
            "prompt": "Where is my parcel?",
            "chosen": "At the “depot”,\nsince Monday; 自転車.",
            "rejected": "Dunno.",
        }
    ]


def test_export_csv_reads_back(project: Project, taught: list[Example]) -> None:
    rows = list(csv.DictReader(io.StringIO(text(project, "csv"), newline="")))
    assert [row["id"] for row in rows] == [taught[0].id, taught[1].id]
    assert rows[0]["output"] == "At the “depot”,\nsince Monday; 自転車."
    assert (rows[1]["output"], rows[1]["rejected_output"]) == ("", "Go away.")


@pytest.mark.parametrize(
    "formula",
    [
        "=1+1",
        "+1",
        "-1",
        "@SUM(A1)",
        "\tx",
        "＝1+1",
        '=HYPERLINK("http://evil.example","x")',
        "=cmd|' /C calc'!A0",
    ],
)
def test_export_csv_starts_no_cell_with_a_formula(project: Project, active: Teach, formula: str) -> None:
    active(f"{formula} asked", formula, f"{formula} said")
    (row,) = csv.DictReader(io.StringIO(text(project, "csv"), newline=""))
    for column, value in {"input": f"{formula} asked", "output": formula}.items():
        assert row[column] == "'" + value
    (plain,) = lines(project, "jsonl")
    assert plain["output"] == formula


def test_export_of_other_kinds_writes_json_as_text(make: Make, active: Teach) -> None:
    project = make.project("calls", "tool_call", undo_seconds=0)
    said = {"name": "refund", "arguments": {"order": "A-17", "amount": 20}}
    better = {"name": "refund", "arguments": {"order": "A-17", "amount": 25}}
    active({"ask": "refund it"}, better, said, project=project)
    (pair,) = lines(project, "dpo")
    assert (json.loads(pair["chosen"]), json.loads(pair["rejected"])) == (better, said)
    (full,) = lines(project, "jsonl")
    assert (full["input"], full["output"]) == ({"ask": "refund it"}, better)


def test_export_is_noted_in_the_ledger_before_its_first_row(project: Project, taught: list[Example]) -> None:
    for form, rows in {"jsonl": 3, "openai-chat": 1, "dpo": 1, "csv": 2}.items():
        export(SYSTEM, project, form)
        entry = db.session.scalars(select(LedgerEntry).order_by(LedgerEntry.seq.desc()).limit(1)).one()
        body = json.loads(entry.body)
        assert (body["type"], body["format"], body["rows"], body["set"]) == ("export", form, rows, 2)


def test_export_needs_the_right_or_the_scope(make: Make, project: Project) -> None:
    for name in ("ada", "aud", "mallory"):
        with pytest.raises(Forbidden):
            export(make.person(name), project, "jsonl")
    assert list(export(make.person("cleo"), project, "jsonl")) == []
    assert list(export(make.backend_actor(project), project, "jsonl")) == []


def test_export_names_the_formats(project: Project) -> None:
    with pytest.raises(Invalid, match="jsonl, openai-chat, dpo, csv"):
        export(SYSTEM, project, "xlsx")
    assert list(FORMATS) == ["jsonl", "openai-chat", "dpo", "csv"]


def many(project: Project, item: Item, start: int, count: int) -> None:
    """`count` active examples of 4 KB, written as rows: as many decisions would take minutes."""
    moment = now()
    decisions = [
        {
            "id": new_id("dec"), "item_id": item.id, "project_id": project.id, "round": number,
            "source": "review", "verdict": "edit", "released": True, "edited": True, "decided_at": moment,
            "final_at": moment, "policy_version": 1, "undone_at": moment,
        }
        for number in range(start, start + count)
    ]  # fmt: skip
    examples = [
        {
            "id": new_id("exa"), "project_id": project.id, "decision_id": decision["id"], "item_id": item.id,
            "state": "active", "input": "x", "input_text": "x", "input_sha256": "x", "output": "y" * 4000,
            "rejected_output": "z", "created_at": moment, "first_set": 1,
        }
        for decision in decisions
    ]  # fmt: skip
    with transaction() as session:
        session.execute(insert(Decision), decisions)
        session.execute(insert(Example), examples)


def peak(rows: Iterator[str]) -> tuple[int, int]:
    """How many rows there are, and how much memory reading them took at most."""
    tracemalloc.start()
    count = sum(1 for _ in rows)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return count, most


@pytest.mark.sqlite
def test_export_takes_no_more_memory_for_more_examples(make: Make, project: Project) -> None:
    item = make.item(project)
    many(project, item, 1000, 2 * BATCH)
    few, before = peak(export(SYSTEM, project, "jsonl"))
    many(project, item, 9000, 6 * BATCH)
    more, after = peak(export(SYSTEM, project, "jsonl"))
    assert (few, more) == (2 * BATCH, 8 * BATCH)
    assert after < 1.3 * before
