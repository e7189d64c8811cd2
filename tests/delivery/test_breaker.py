"""An address that fails is left alone, then probed; one that comes back hears what was parked, slowly."""

from __future__ import annotations

import itertools
import subprocess
import time
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.delivery import breaker
from reviewqueue.delivery.deliver import deliver_due, delivery_due
from reviewqueue.delivery.endpoints import prove
from reviewqueue.models import Attempt, Delivery, Endpoint
from tests.delivery.conftest import Clock
from tests.make import Make
from tests.receiver import Answer, Heard, Receiver, echo

pytestmark = pytest.mark.usefixtures("base")


def decided(make: Make, project: Any, number: int) -> None:
    for _ in range(number):
        make.decide(make.person("ada"), make.item(project))


def endpoint() -> Endpoint:
    db.session.rollback()
    return db.session.scalars(select(Endpoint)).one()


def test_five_failures_open_the_breaker_and_probes_come_after_60_s_and_then_twice_as_late(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    backend.says(500)
    decided(make, project, 20)
    made = deliver_due()
    assert breaker.OPENS <= made < breaker.OPENS + breaker.IN_FLIGHT
    for wait in (60, 120, 240, 480, 900, 900):
        assert (endpoint().probe_wait, delivery_due()) == (wait, False)
        clock.move(seconds=wait - 2)
        assert deliver_due() == 0, wait
        clock.move(seconds=2.1)
        assert deliver_due() == 1, wait
    clock.move(seconds=900)
    backend.says(200)
    assert deliver_due() >= 20 - made  # the probe was received, so the rest follows at once
    assert (endpoint().probe_wait, endpoint().failures, endpoint().failing_since) == (0, 0, None)


def test_failures_with_successes_between_them_open_nothing(
    make: Make, project: Any, backend: Receiver
) -> None:
    turn = itertools.count(1)

    def moody(heard: Heard) -> Answer:
        with backend.lock:
            return (200 if next(turn) % 4 == 0 else 500), {}, b""

    backend.answer = moody
    decided(make, project, 20)
    assert deliver_due() == 20
    assert endpoint().probe_wait == 0


def test_a_breaker_of_one_address_is_none_of_another_s(make: Make, project: Any, backend: Receiver) -> None:
    name = project.name
    backend.answer = lambda heard: (500 if heard.event["data"]["project"] == name else 200, {}, b"")
    other = make.project("other", undo_seconds=0)
    make.backend(other, callback=backend.url)
    decided(make, project, 10)
    decided(make, other, 10)
    deliver_due()
    db.session.rollback()
    states = dict(db.session.execute(select(Delivery.backend_id, Delivery.state)).all())
    assert states[make.backend(other).backend.id] == "delivered"
    waiting = select(Endpoint.probe_wait).order_by(Endpoint.probe_wait)
    assert list(db.session.scalars(waiting)) == [0, 60]


def test_what_was_parked_goes_out_in_order_and_five_a_second(
    make: Make, project: Any, backend: Receiver
) -> None:
    backend.says(410)
    decided(make, project, 1)
    deliver_due()
    decided(make, project, 11)
    db.session.rollback()
    assert set(db.session.scalars(select(Delivery.state))) == {"parked"}

    heard_at: list[float] = []

    def note(heard: Heard) -> Answer:
        if heard.event["type"] != "endpoint.verify":
            heard_at.append(time.monotonic())
        return echo(heard)

    backend.answer = note
    assert prove(make.person("dora"), endpoint().backend_id).ok
    backend.heard.clear()
    assert deliver_due() == 12
    for first, later in zip(heard_at, heard_at[8:], strict=False):
        assert later - first > 7 / breaker.DRAIN_PER_SECOND  # four at once, then at their pace
    assert not endpoint().draining
    decided(make, project, 10)
    began = time.monotonic()
    assert deliver_due() == 10
    assert time.monotonic() - began < 10 / breaker.DRAIN_PER_SECOND


def test_a_delivery_that_was_scheduled_while_its_address_came_back_is_not_left_parked(
    make: Make, project: Any, backend: Receiver
) -> None:
    decided(make, project, 1)
    with transaction() as session:
        session.execute(update(Delivery).values(state="parked"))
    assert deliver_due() == 1
    assert backend.heard


# --- deliveries that end their worker ---------------------------------------------------------------


def test_a_delivery_that_kills_its_worker_three_times_is_given_up_and_the_others_are_not(
    make: Make, project: Any, backend: Receiver, worker: Callable[[], subprocess.Popen[str]]
) -> None:
    decided(make, project, 6)
    db.session.rollback()
    first, *others = db.session.scalars(select(Delivery.id).order_by(Delivery.id)).all()
    running: list[subprocess.Popen[str]] = []

    def kill(heard: Heard) -> Answer:
        if heard.id == first:
            running[-1].kill()
        return 200, {}, b""

    backend.answer = kill
    for turn in range(3):
        assert delivery_due(), turn
        running.append(worker())
        assert running[-1].wait(30) != 0, turn
        leases_run_out()
    running.append(worker())
    assert running[-1].wait(30) == 0
    db.session.rollback()
    states = dict(db.session.execute(select(Delivery.id, Delivery.state)).all())
    assert states == {first: "dead"} | dict.fromkeys(others, "delivered")
    outcomes = select(Attempt.outcome).where(Attempt.delivery_id == first).order_by(Attempt.number)
    assert list(db.session.scalars(outcomes)) == ["killed", "killed", "poison"]


def leases_run_out() -> None:
    """As if the minute had passed for which a dead worker's attempts are nobody else's."""
    with transaction() as session:
        session.execute(update(Delivery).where(Delivery.state == "inflight").values(next_attempt_at=now()))
