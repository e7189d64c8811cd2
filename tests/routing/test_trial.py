from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.errors import Invalid
from reviewqueue.models import Item, Project
from reviewqueue.routing import projects
from reviewqueue.routing.trial import as_submitted, trial
from tests.make import Make


@pytest.fixture
def project(base: Any, make: Make) -> Project:
    """Ten items with confidence 0.0 to 0.9, of which 0.0, 0.5 and 0.7 turned out wrong."""
    project = make.project(confidence_below=0.80, undo_seconds=0)
    ada = make.person("ada")
    for tenth in range(10):
        item = make.item(project, confidence=tenth / 10, feature="f" if tenth == 9 else None)
        if tenth in (0, 5, 7):
            make.decide(ada, item, "reject", None, "tone", "model")
        elif tenth == 6:
            make.decide(ada, item)
    return projects.project_named(project.name)


def test_trial_counts_what_would_have_been_reviewed_and_which_errors_released(project: Project) -> None:
    found = trial(project, {"confidence_below": 0.70})
    assert (found.items, found.known, found.errors) == (10, 4, 3)
    assert (found.now.reviewed, found.now.released, found.now.errors_released) == (8, 2, 0)
    assert (found.then.reviewed, found.then.released) == (7, 3)
    assert (found.then.errors_released, found.then.errors_caught) == (1, 2)
    assert found.changes == ["confidence_below 0.8 → 0.7"]


def test_trial_takes_rules_and_blocks(project: Project) -> None:
    when = [{"field": "feature", "op": "eq", "value": "f"}]
    found = trial(project, {"rules": [{"name": "f", "when": when, "route": "block"}]})
    assert (found.then.blocked, found.then.released) == (1, 1)
    assert found.changes == ["other rules"]


def test_trial_looks_at_the_newest_items(project: Project) -> None:
    found = trial(project, {}, limit=3)
    assert (found.items, found.errors, found.changes) == (3, 1, [])


def test_trial_changes_nothing(project: Project) -> None:
    before = db.session.execute(select(Item.status, Item.route)).all()
    trial(project, {"confidence_below": 0})
    assert db.session.execute(select(Item.status, Item.route)).all() == before
    assert projects.policy_of(project).version == 1


def test_trial_refuses_what_could_not_be_published(project: Project) -> None:
    with pytest.raises(Invalid) as refused:
        trial(project, {"confidence_below": 7})
    assert refused.value.errors[0]["pointer"] == "policy.confidence_below"


def test_as_submitted_gives_every_field_back(base: Any, make: Make) -> None:
    project = make.project()
    data = {
        "output": "x", "input": {"a": None}, "context": [{"text": "t"}], "confidence": 0.5, "risk": 0.1,
        "samples": ["y"], "risk_flags": ["pii"], "external_id": "e", "model": "m", "example_set": 3,
        "prompt": {"name": "p", "version": "1"}, "arm": "examples", "usage": {"cost_usd": 0.5},
        "subject": "s", "feature": "f", "trace": {"url": "u"}, "metadata": {"k": [1]},
    }  # fmt: skip
    item = make.item(project, **data)
    assert as_submitted(item, project.name) == {"project": project.name, **data}
    assert as_submitted(make.item(project, output="x", prompt="p"), project.name)["prompt"] == "p"
