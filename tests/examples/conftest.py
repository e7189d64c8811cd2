"""What the tests of examples share: corrections made by Ada and promoted by Cleo."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.examples.collect import promote
from reviewqueue.models import Decision, Example

Teach = Callable[..., Example]


@pytest.fixture
def project(make: Any) -> Any:
    return make.project(undo_seconds=0)


@pytest.fixture
def proposed(make: Any, project: Any) -> Teach:
    """`proposed(asked, corrected)` is the example of an item that Ada corrected (None: rejected)."""

    def correct(asked: Any, corrected: Any, said: str = "I do not know.", **fields: Any) -> Example:
        item = make.item(fields.pop("project", project), input=asked, output=said)
        verdict = "reject" if corrected is None else "edit"
        by = fields.pop("by", None) or make.person("ada")
        make.decide(by, item, verdict, corrected, fields.pop("reason", "tone"), **fields)
        return db.session.scalars(
            select(Example)
            .join(Decision, Decision.id == Example.decision_id)
            .where(Decision.item_id == item.id)
        ).one()

    return correct


@pytest.fixture
def active(make: Any, proposed: Teach) -> Teach:
    """The same, promoted by Cleo."""

    def teach(asked: Any, corrected: Any, *rest: Any, **fields: Any) -> Example:
        return promote(make.person("cleo"), proposed(asked, corrected, *rest, **fields).id)

    return teach
