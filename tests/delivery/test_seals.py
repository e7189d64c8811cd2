"""Whoever writes to the database, but has no key, causes no callback."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import pytest
from sqlalchemy import func, insert, select, update

from reviewqueue.db import db, transaction
from reviewqueue.delivery.deliver import deliver_due
from reviewqueue.delivery.endpoints import prove, register
from reviewqueue.errors import Conflict
from reviewqueue.ids import new_id
from reviewqueue.intake.store import Answer as Answered
from reviewqueue.intake.submit import submit_batch
from reviewqueue.models import Attempt, Delivery, Endpoint
from tests.delivery.conftest import Clock
from tests.make import Make
from tests.receiver import Receiver, receiver

pytestmark = pytest.mark.usefixtures("base")


def test_a_forged_event_is_refused_and_said(
    make: Make, project: Any, backend: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    other = make.project("other", undo_seconds=0)
    make.backend(other, callback=backend.url)
    make.decide(make.person("ada"), make.item(project))
    assert deliver_due() == 1
    true = db.session.execute(select(Delivery.__table__)).mappings().one()
    backend.heard.clear()
    changes: list[dict[str, Any]] = [
        {"body": true["body"].replace(b"approve", b"reject")},
        {"body": true["body"] + b" "},
        {"backend_id": make.backend(other).backend.id},
        {"mac": None},
        {"mac": "0" * 64},
        {},  # another event with the same content
    ]
    sent = [
        {"project": project.name, "output": f"Answer {number}", "confidence": 0.1} for number in range(100)
    ]
    answers, _ = submit_batch(sent, make.backend_actor(project))
    fresh = {"state": "due", "attempts": 0, "cycle": 0, "ended_at": None}
    with transaction() as session:
        for answer, change in zip(answers, itertools.cycle(changes), strict=False):
            assert isinstance(answer, Answered)
            row = {**true, **fresh, "id": new_id("evt"), "item_id": answer.id, **change}
            session.execute(insert(Delivery).values(**row))
        # And the true one, changed where it stands.
        changed = {"state": "due", "cycle": 0, "ended_at": None, "body": b"{}"}
        session.execute(update(Delivery).where(Delivery.id == true["id"]).values(**changed))
    made = 0
    with caplog.at_level(logging.ERROR):
        while made < 101:
            made += deliver_due()
            with transaction() as session:  # the breaker opens, and is no part of this
                session.execute(update(Endpoint).values(failures=0, probe_wait=0, rest_until=None))
    assert backend.heard == []
    assert caplog.text.count("changed in the database") >= 101
    db.session.rollback()
    outcomes = select(Attempt.outcome, func.count()).group_by(Attempt.outcome)
    assert dict(db.session.execute(outcomes).all()) == {"ok": 1, "blocked": made}


def test_an_address_that_was_changed_is_not_called_until_it_is_registered_anew(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    make.decide(make.person("ada"), make.item(project))
    backend_id = make.backend(project).backend.id
    with receiver() as thief:
        with transaction() as session:
            session.execute(update(Endpoint).values(url=thief.url))
        assert deliver_due() == 1
        with pytest.raises(Conflict):
            prove(make.person("dora"), backend_id)
        assert thief.heard == backend.heard == []
    register(make.person("dora"), backend_id, backend.url, trusted=True)
    clock.move(seconds=10)
    assert deliver_due() == 1
    assert len(backend.heard) == 1
