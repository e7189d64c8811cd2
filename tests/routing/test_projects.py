from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from reviewqueue.db import db
from reviewqueue.errors import Forbidden, Invalid, Missing
from reviewqueue.models import LedgerEntry, Policy, Project, Queue
from reviewqueue.people.access import SYSTEM
from reviewqueue.routing import projects
from tests.make import Make

WHOLE = """
name = "refunds"
title = "Refunds"
kind = "tool_call"
guidelines = "guidelines.md"
schema = "call.schema.json"
reasons = ["wrong fact", "other"]
causes  = ["prompt", "other"]
control_arm = 0.2

[policy]
confidence_below = 0.80
risk_above = 0.50
control_rate = 0.10
due_minutes = 240

[[policy.rules]]
name = "large refund"
when = [{ field = "output.arguments.amount", op = "gt", value = 500 }]
route = "review"
queue = "seniors"
reviews = 2
priority = "high"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a whole project."""
    folder = tmp_path / "refunds"
    folder.mkdir()
    (folder / "project.toml").write_text(WHOLE)
    (folder / "guidelines.md").write_text("Be **fair**.")
    (folder / "call.schema.json").write_text('{"type": "object", "required": ["name"]}')
    return folder


def queues(project: Project) -> set[str]:
    return set(db.session.scalars(select(Queue.name).where(Queue.project_id == project.id)))


def ledger(project: Project) -> list[dict[str, Any]]:
    entries = db.session.scalars(
        select(LedgerEntry).where(LedgerEntry.project_id == project.id).order_by(LedgerEntry.seq)
    )
    return [json.loads(entry.body) for entry in entries]


def test_apply_creates_the_project_its_policy_and_its_queues(base: Any, folder: Path) -> None:
    done = projects.apply(folder / "project.toml", SYSTEM)
    project = projects.project_named("refunds")
    assert (done.created, done.policy_version, done.project.id) == (True, 1, project.id)
    assert project.guidelines == "Be **fair**."
    assert project.schema == {"type": "object", "required": ["name"]}
    assert (project.reasons, project.causes, project.control_arm) == (
        ["wrong fact", "other"], ["prompt", "other"], 0.2,
    )  # fmt: skip
    assert queues(project) == {"main", "adjudication", "seniors"}
    policy = projects.body_of(projects.policy_of(project))
    assert (policy.confidence_below, policy.missing_confidence, policy.undo_seconds) == (0.8, "review", 10)
    assert policy.rules[0].reviews == 2
    said = ledger(project)
    assert [entry["change"] for entry in said] == ["project.created", "policy.published", "queues.added"]
    assert said[1]["policy"] == projects.policy_of(project).digest
    assert any("seniors" in change for change in done.changes)


def test_apply_again_changes_nothing(base: Any, folder: Path) -> None:
    projects.apply(folder / "project.toml", SYSTEM)
    entries = db.session.scalar(select(func.count(LedgerEntry.seq)))
    again = projects.apply(str(folder / "project.toml"), SYSTEM)
    assert (again.created, again.changes, again.policy_version) == (False, [], 1)
    assert db.session.scalar(select(func.count(LedgerEntry.seq))) == entries


def test_apply_a_changed_policy_adds_a_version_and_keeps_the_old_one(base: Any, folder: Path) -> None:
    first = projects.apply(folder / "project.toml", SYSTEM).project
    old = projects.policy_of(first).body
    text = WHOLE.replace("confidence_below = 0.80", "confidence_below = 0.70").replace("seniors", "leads")
    done = projects.apply(text, SYSTEM, folder)
    assert done.policy_version == 2
    assert projects.policy_of(done.project, 1).body == old
    assert projects.body_of(projects.policy_of(done.project)).confidence_below == 0.7
    assert queues(done.project) == {"main", "adjudication", "seniors", "leads"}
    assert any("confidence_below 0.8 → 0.7" in change for change in done.changes)
    assert any('rule "large refund" changed' in change for change in done.changes)


def test_apply_back_to_an_old_policy_is_a_new_version(base: Any, folder: Path) -> None:
    projects.apply(folder / "project.toml", SYSTEM)
    projects.apply(WHOLE.replace("0.80", "0.70"), SYSTEM, folder)
    assert projects.apply(folder / "project.toml", SYSTEM).policy_version == 3
    digests = db.session.scalars(select(Policy.digest).order_by(Policy.version)).all()
    assert digests[0] == digests[2] != digests[1]


def test_apply_changed_texts_publish_no_policy(base: Any, folder: Path) -> None:
    projects.apply(folder / "project.toml", SYSTEM)
    (folder / "guidelines.md").write_text("Be strict.")
    done = projects.apply(WHOLE.replace('"Refunds"', '"Money back"'), SYSTEM, folder)
    assert done.policy_version == 1
    assert done.changes == ["title: Refunds → Money back", "guidelines changed"]
    assert ledger(done.project)[-1]["target"] == "title guidelines"


def test_apply_a_small_file_fills_in_the_rest(base: Any) -> None:
    project = projects.apply('name = "x-1"\nkind = "text"\n', SYSTEM).project
    assert (project.title, project.guidelines, project.schema) == ("X 1", "", None)
    assert "tone" in project.reasons
    assert "retrieval" in project.causes


BROKEN = [
    # what is written instead of what, and the line, field and remedy that the answer names
    ("kind = ", "kind == ", "line 4", ""),
    ('kind = "tool_call"', 'kind = "toolcall"', "line 4", "one of: text, markdown"),
    ('name = "refunds"', 'name = "Re funds"', "line 2", "name must match"),
    ('name = "refunds"', 'nam = "refunds"', "line 2", "did you mean name"),
    ("control_arm = 0.2", "control_arm = 2", "line 9", "control_arm must be at most 1"),
    ('reasons = ["wrong fact", "other"]', 'reasons = ["other", "other"]', "line 7", "twice"),
    ('"guidelines.md"', '"missing.md"', "line 5", "No such file"),
    ('"guidelines.md"', '"../secret.md"', "line 5", "no file next to this one"),
    ('"call.schema.json"', '"broken.schema.json"', "line 6", "is not JSON"),
    ('"call.schema.json"', '"wrong.schema.json"', "line 6", "cannot be used"),
    ('"call.schema.json"', '"../call.schema.json"', "line 6", "no file next to this one"),
    ("risk_above = 0.50", 'risk_above = "high"', "line 13", "policy.risk_above must be a number"),
    ("risk_above = 0.50", "risk_over = 0.50", "line 13", "did you mean risk_above"),
    ("due_minutes = 240", "due_minutes = 0", "line 15", "at least 1"),
    ('op = "gt"', 'op = "larger"', "line 19", "one of: eq, ne"),
    ('op = "gt", value = 500', 'op = "matches", value = "(?<=x)"', "line 19", 'rule "large refund": the pat'),
    ("reviews = 2", "reviews = 20", "line 22", "at most 9"),
    ('queue = "seniors"', 'queu = "seniors"', "line 21", "did you mean queue"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "line", "remedy"), BROKEN)
def test_apply_a_broken_file_names_line_and_remedy_and_changes_nothing(
    base: Any, folder: Path, old: str, new: str, line: str, remedy: str
) -> None:
    (folder / "broken.schema.json").write_text("{")
    (folder / "wrong.schema.json").write_text('{"type": "strung"}')
    (folder.parent / "secret.md").write_text("SECRET")
    projects.apply(folder / "project.toml", SYSTEM)
    before = snapshot()
    (folder / "project.toml").write_text(WHOLE.replace(old, new).replace('"Refunds"', '"Other"'))
    with pytest.raises(Invalid) as refused:
        projects.apply(folder / "project.toml", SYSTEM)
    message = refused.value.errors[0]["message"] if refused.value.errors else refused.value.message
    assert "project.toml" in message
    assert line in message
    assert remedy in message
    assert snapshot() == before


def snapshot() -> list[Any]:
    counts = [db.session.scalar(select(func.count()).select_from(t)) for t in (Policy, Queue, LedgerEntry)]
    return [*counts, *db.session.execute(select(Project.title, Project.updated_at)).one()]


def test_apply_names_the_line_of_a_condition_among_several(base: Any) -> None:
    text = """name = "x"
kind = "text"
[policy]
# a comment with [brackets] and { braces
[[policy.rules]]
name = "one"
route = "review"
when = [
  { field = "output", op = "contains", value = "a { b" },
  { field = "output", op = "starts", value = "c" },
]
"""
    with pytest.raises(Invalid, match="line 10"):
        projects.apply(text, SYSTEM)


def test_apply_keeps_the_kind_once_there_are_items(base: Any, make: Make) -> None:
    project = make.project("x", "text")
    assert projects.apply('name = "x"\nkind = "markdown"\n', SYSTEM).changes[0] == "kind: text → markdown"
    make.item(projects.project_named("x"))
    with pytest.raises(Invalid, match="another name"):
        projects.apply('name = "x"\nkind = "text"\n', SYSTEM)
    db.session.refresh(project)
    assert project.kind == "markdown"


def test_apply_keeps_a_schema_that_the_kind_does_not_ask_for(base: Any, make: Make) -> None:
    schema = 'schema = { type = "object" }'
    for kind in ("text", "markdown", "chat"):
        project = projects.apply(f'name = "x-{kind}"\nkind = "{kind}"\n{schema}\n', SYSTEM).project
        assert project.schema == {"type": "object"}
    assert make.item(projects.project_named("x-text"), output="no object").output == "no object"
    with pytest.raises(Invalid, match="cannot be used"):
        projects.apply('name = "x"\nkind = "text"\nschema = { type = "strung" }\n', SYSTEM)


def test_apply_refuses_labels_without_a_list(base: Any) -> None:
    with pytest.raises(Invalid, match="required for kind label"):
        projects.apply('name = "x"\nkind = "label"\n', SYSTEM)
    with pytest.raises(Invalid, match="list the labels"):
        projects.apply('name = "x"\nkind = "label"\nschema = { enum = [] }\n', SYSTEM)


def test_apply_is_for_admins(base: Any, make: Make) -> None:
    for name in ("ada", "cleo", "aud", "mallory"):
        with pytest.raises(Forbidden):
            projects.apply('name = "x"\nkind = "text"\n', make.person(name))
    done = projects.apply('name = "x"\nkind = "text"\n', make.person("dora"))
    assert projects.policy_of(done.project).published_by == make.person("dora").id


def test_pause_and_resume_are_recorded(base: Any, make: Make) -> None:
    make.project("x")
    assert projects.pause(SYSTEM, "x").paused
    assert projects.pause(SYSTEM, "x").paused
    project = projects.resume(SYSTEM, "x")
    assert not project.paused
    changes = [entry["change"] for entry in ledger(project)]
    assert changes[-2:] == ["project.paused", "project.resumed"]
    assert changes.count("project.paused") == 1


def test_project_named_and_policy_of_are_missing_when_not_there(base: Any, make: Make) -> None:
    with pytest.raises(Missing):
        projects.project_named("nowhere")
    with pytest.raises(Missing):
        projects.policy_of(make.project("x"), 2)


DEMO = Path(__file__).parents[2] / "demo"


@pytest.mark.parametrize("file", sorted(DEMO.glob("*/project.toml")), ids=lambda path: path.parent.name)
def test_apply_takes_the_demo_projects(base: Any, file: Path) -> None:
    assert projects.apply(file, SYSTEM).created
