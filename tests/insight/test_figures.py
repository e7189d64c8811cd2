"""The figures against items whose fate is known one by one."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from sqlalchemy import select

from reviewqueue.db import db, now
from reviewqueue.insight.figures import Part, figures
from reviewqueue.models import Item
from reviewqueue.review.settle import override
from tests.make import Make

pytestmark = pytest.mark.usefixtures("base")


def of(project: Any, days: float = 30) -> Any:
    db.session.rollback()
    return figures(project, now() - timedelta(days=days))


def counts(parts: list[Part]) -> dict[str, tuple[int, int]]:
    return {part.name: (part.count, part.of) for part in parts}


def test_figures_of_nothing_are_nothing(make: Make) -> None:
    found = of(make.project())
    assert (found.submitted, found.waiting, found.seconds, found.control.share) == (0, 0, None, None)
    assert counts(found.routes) == {"release": (0, 0), "review": (0, 0), "block": (0, 0)}
    assert (found.arms, found.reasons, found.days) == ([], [], [])


def test_figures_count_routes_verdicts_reasons_and_causes(make: Make) -> None:
    block = {"name": "no", "when": [{"field": "input", "op": "eq", "value": "bad"}], "route": "block"}
    project = make.project(confidence_below=0.5, control_rate=0.0, undo_seconds=0, rules=[block])
    ada = make.person("ada")
    for _ in range(3):
        make.item(project, confidence=0.9)
    make.item(project, input="bad")
    make.decide(ada, make.item(project))
    make.decide(ada, make.item(project), "edit", "Better.", "tone", "prompt")
    make.decide(ada, make.item(project), "reject", None, "unsafe", "model")
    make.decide(ada, make.item(project), "reject", None, "unsafe", "prompt")
    make.item(project)
    found = of(project)
    assert found.submitted == 9
    assert counts(found.routes) == {"release": (3, 9), "review": (5, 9), "block": (1, 9)}
    assert counts(found.verdicts) == {"approve": (1, 4), "edit": (1, 4), "reject": (2, 4)}
    assert counts(found.reasons) == {"unsafe": (2, 3), "tone": (1, 3)}
    assert counts(found.causes) == {"prompt": (2, 3), "model": (1, 3)}
    assert (found.waiting, found.released, found.chosen, found.control.of) == (1, 3, 0, 0)
    assert (found.timed, found.seconds is not None and 0 <= found.seconds < 60) == (4, True)
    assert sum(count for _, count in found.days) == 9


def test_figures_of_the_control_sample_count_what_was_chosen_by_lot_alone(make: Make) -> None:
    project = make.project(confidence_below=0.1, control_rate=0.5, undo_seconds=0)
    ada, cleo = make.person("ada"), make.person("cleo")
    made = [make.item(project, confidence=0.9) for _ in range(40)]
    chosen = [item for item in made if item.sampled]
    others = [item for item in made if not item.sampled]
    assert len(chosen) > 4
    assert len(others) > 2
    for item in chosen[:3]:
        make.decide(ada, item)
    make.decide(ada, chosen[3], "reject", None, "tone")
    override(cleo, others[0].id, "reject", None, "tone")
    found = of(project)
    assert (found.released, found.chosen) == (40, len(chosen))
    assert (found.control.count, found.control.of, found.control.share) == (1, 4, 0.25)
    assert found.late_finds == 1


def test_figures_take_the_decision_in_force(make: Make) -> None:
    project = make.project(undo_seconds=0)
    item = make.item(project)
    make.decide(make.person("ada"), item, "reject", None, "tone")
    override(make.person("cleo"), item.id, "approve", None, "other")
    assert counts(of(project).verdicts) == {"approve": (1, 1), "edit": (0, 1), "reject": (0, 1)}


def test_figures_compare_arms_among_what_people_decided(make: Make) -> None:
    project = make.project(undo_seconds=0)
    ada = make.person("ada")
    for arm, verdicts in {
        "examples": ("approve", "approve", "reject"),
        "control": ("reject", "reject"),
    }.items():
        for verdict in verdicts:
            make.decide(ada, make.item(project, arm=arm), verdict, None, "tone")
        make.item(project, arm=arm)
    make.decide(ada, make.item(project))
    assert counts(of(project).arms) == {"control": (2, 2), "examples": (1, 3)}


def test_figures_add_up_what_backends_say_it_cost(make: Make) -> None:
    project = make.project()
    make.item(project, usage={"input_tokens": 100, "output_tokens": 20, "cost_usd": 0.25})
    make.item(project, usage={"input_tokens": 10, "cost_usd": 1})
    make.item(project, usage={"latency_ms": 12.5})
    make.item(project)
    cost = of(project).cost
    assert (cost.told, cost.usd, cost.tokens) == (2, pytest.approx(1.25), 130)


def test_figures_keep_to_the_period_and_the_project(make: Make) -> None:
    project, other = make.project(), make.project("other")
    make.item(other)
    with time_machine.travel(now() - timedelta(days=10), tick=True):
        make.item(project)
    make.item(project)
    assert of(project, 30).submitted == 2
    assert len(of(project, 30).days) == 2
    assert of(project, 5).submitted == 1
    last_week = figures(project, now() - timedelta(days=30), now() - timedelta(days=5))
    assert last_week.submitted == 1


def test_figures_count_overdue_reviews_and_expired_items(make: Make) -> None:
    project = make.project(due_minutes=60, on_timeout="reject")
    make.item(project)
    assert of(project).overdue == 0
    with time_machine.travel(now() + timedelta(hours=2), tick=True):
        assert of(project).overdue == 1
        from reviewqueue.review.expire import expire_due

        assert expire_due() == 1
        found = of(project)
        assert (found.overdue, found.waiting, found.timeouts) == (0, 0, 1)
        assert counts(found.verdicts)["reject"] == (0, 0)


def test_figures_tell_the_median_wait(make: Make) -> None:
    project = make.project(undo_seconds=0)
    ada = make.person("ada")
    for hours in (1, 2, 30):
        item = make.item(project)
        with time_machine.travel(now() + timedelta(hours=hours), tick=True):
            make.decide(ada, item)
    found = figures(project, now() - timedelta(days=1), now() + timedelta(days=5))
    assert (found.timed, found.seconds) == (3, pytest.approx(7200, abs=60))
    assert len(db.session.scalars(select(Item)).all()) == 3
