"""Deliveries against real receivers: when, how often, in which order, and what survives a killed worker."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select
from standardwebhooks import Webhook

from reviewqueue.db import db, now, transaction
from reviewqueue.delivery import breaker, deliver
from reviewqueue.delivery.deliver import deliver_due
from reviewqueue.delivery.endpoints import prove
from reviewqueue.delivery.replay import replay
from reviewqueue.delivery.turns import DELAYS
from reviewqueue.errors import Conflict, Forbidden, Missing
from reviewqueue.intake.store import Answer as Answered
from reviewqueue.intake.submit import submit_batch
from reviewqueue.models import Attempt, Delivery, Endpoint, LedgerEntry, Project
from reviewqueue.people.backends import rotate_secret
from reviewqueue.review.decide import undo
from reviewqueue.review.settle import override
from tests.delivery.conftest import Clock
from tests.make import Make
from tests.receiver import Answer, Heard, Receiver, echo

ORDER = int(os.environ.get("FIRE_ORDER", "100"))  # items with three events each; the release gate: 5000

pytestmark = pytest.mark.usefixtures("base")


def deliveries(**having: Any) -> list[Delivery]:
    db.session.rollback()
    return list(db.session.scalars(select(Delivery).filter_by(**having).order_by(Delivery.id)))


def the_delivery() -> Delivery:
    (found,) = deliveries()
    return found


def attempts(of: Delivery) -> list[Attempt]:
    return list(
        db.session.scalars(select(Attempt).where(Attempt.delivery_id == of.id).order_by(Attempt.number))
    )


def states() -> Counter[str]:
    return Counter(delivery.state for delivery in deliveries())


def outcomes_in_ledger(delivery_id: str) -> list[str]:
    entries = db.session.scalars(
        select(LedgerEntry).where(LedgerEntry.type == "delivery").order_by(LedgerEntry.seq)
    )
    bodies = [json.loads(entry.body) for entry in entries]
    return [body["outcome"] for body in bodies if body["event"] == delivery_id]


def three_events(make: Make, project: Any) -> str:
    """An item that was decided, overridden, and overridden again; gives its id."""
    item = make.item(project)
    make.decide(make.person("ada"), item)
    lead = make.person("cleo")
    for text in ("Better.", "Better still."):
        override(lead, item.id, "edit", text, "tone")
    return str(item.id)


def until_nothing_is_open(clock: Clock, rounds: int = 100) -> None:
    """Let time pass from one attempt to the next, and while addresses rest."""
    for _ in range(rounds):
        deliver_due()
        waiting = [delivery.next_attempt_at for delivery in deliveries(state="due")]
        if not waiting:
            assert set(states()) <= {"delivered", "dead"}
            return
        resting = [each for each in db.session.scalars(select(Endpoint.rest_until)) if each and each > now()]
        clock.move(seconds=(min(resting, default=max(waiting)) - now()).total_seconds())
    raise AssertionError("some delivery never ended")


# --- once, when it is due -------------------------------------------------------------------------


def test_schedule_makes_a_delivery_due_when_the_decision_is_final(
    make: Make, backend: Receiver, clock: Clock
) -> None:
    project = make.project(undo_seconds=10)
    secret = make.backend(project, callback=backend.url).callback_secret
    item = make.item(project, external_id="req-17", metadata={"a": 1})
    make.decide(make.person("ada"), item, "edit", "Your parcel left on Tuesday.", "wrong fact", "retrieval")
    assert deliver_due() == 0
    clock.move(seconds=9)
    assert deliver_due() == 0
    assert backend.heard == []
    clock.move(seconds=2)
    assert deliver_due() == 1

    (heard,) = backend.heard
    event = Webhook(secret).verify(heard.body, heard.headers)
    delivery = the_delivery()
    assert heard.id == delivery.id
    assert heard.body == delivery.body
    assert event["type"] == "item.decided"
    told = event["data"]
    assert (told["id"], told["external_id"], told["sequence"]) == (item.id, "req-17", 1)
    assert (told["verdict"], told["output"]) == ("edit", "Your parcel left on Tuesday.")
    assert (told["reason"], told["cause"], told["metadata"]) == ("wrong fact", "retrieval", {"a": 1})
    entry = db.session.get_one(LedgerEntry, told["ledger"]["seq"])
    assert (entry.leaf, entry.type) == (told["ledger"]["leaf"], "decision")
    assert delivery.state == "delivered"
    assert outcomes_in_ledger(delivery.id) == ["delivered"]
    assert deliver_due() == 0


def test_schedule_adds_nothing_for_a_backend_without_address(make: Make) -> None:
    project = make.project(undo_seconds=0)
    make.decide(make.person("ada"), make.item(project))
    assert deliveries() == []


def test_schedule_is_taken_back_with_the_decision(make: Make, backend: Receiver, clock: Clock) -> None:
    project = make.project(undo_seconds=10)
    make.backend(project, callback=backend.url)
    ada, item = make.person("ada"), make.item(project)
    given = make.decide(ada, item)
    undo(ada, given.decision.id)
    clock.move(seconds=20)
    assert deliver_due() == 0
    assert states() == {"cancelled": 1}
    make.decide(ada, item, "reject", None, "tone")
    clock.move(seconds=20)
    assert deliver_due() == 1
    assert [(heard.sequence, heard.event["data"]["verdict"]) for heard in backend.heard] == [(1, "reject")]


def test_deliver_holds_no_transaction_while_it_calls(
    make: Make, project: Any, backend: Receiver, base: Flask
) -> None:
    took: list[float] = []

    def write_meanwhile(heard: Heard) -> Answer:
        started = time.monotonic()
        with base.app_context(), transaction() as session:
            row = session.get_one(Delivery, heard.id, with_for_update=True)
            assert row.state == "inflight"
            session.get_one(Project, project.id).title = "Written meanwhile"
        took.append(time.monotonic() - started)
        return 200, {}, b""

    backend.answer = write_meanwhile
    make.decide(make.person("ada"), make.item(project))
    assert deliver_due() == 1
    assert the_delivery().state == "delivered"
    assert took[0] < 1.0


# --- again and again ------------------------------------------------------------------------------


def test_deliver_backs_off_as_the_schedule_says_and_ends_dead(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    backend.says(500, b"oh no")
    make.decide(make.person("ada"), make.item(project))
    for number, delay in enumerate([*DELAYS[1:], None], 1):
        assert deliver_due() == 1
        delivery = the_delivery()
        assert (delivery.attempts, attempts(delivery)[-1].outcome) == (number, "http_5xx")
        if delay is None:
            break
        wait = (delivery.next_attempt_at - now()).total_seconds()
        assert 0.8 * delay - 2 <= wait <= 1.2 * delay
        clock.move(seconds=wait - 1)
        assert deliver_due() == 0
        clock.move(seconds=1)

    dead = the_delivery()
    assert dead.state == "dead"
    assert outcomes_in_ledger(dead.id) == ["dead"]
    clock.move(days=30)
    assert deliver_due() == 0
    assert {heard.body for heard in backend.heard} == {dead.body}
    assert {heard.id for heard in backend.heard} == {dead.id}
    assert [heard.headers["webhook-attempt"] for heard in backend.heard] == [str(n) for n in range(1, 11)]
    assert len({heard.headers["webhook-timestamp"] for heard in backend.heard}) == len(DELAYS)
    assert [attempt.answer for attempt in attempts(dead)] == ["oh no"] * len(DELAYS)


@pytest.mark.parametrize(("asked", "least", "most"), [("3600", 3590, 3600), ("99999999", 86_390, 86_400)])
def test_deliver_waits_as_long_as_the_receiver_asks_up_to_a_day(
    make: Make, project: Any, backend: Receiver, asked: str, least: float, most: float
) -> None:
    backend.says(503, retry_after=asked)
    make.decide(make.person("ada"), make.item(project))
    deliver_due()
    wait = (the_delivery().next_attempt_at - now()).total_seconds()
    assert least <= wait <= most


def test_deliver_ends_before_its_job_does_and_leaves_the_rest_due(
    make: Make, project: Any, backend: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.answer = lambda heard: (time.sleep(0.2), (200, {}, b""))[1]  # type: ignore[func-returns-value]
    ada = make.person("ada")
    for _ in range(12):
        make.decide(ada, make.item(project))
    monkeypatch.setattr(deliver, "TAKING", 0.3)
    assert 1 <= deliver_due() < 12
    assert set(states()) == {"delivered", "due"}
    monkeypatch.setattr(deliver, "TAKING", 30.0)
    deliver_due()
    assert states() == {"delivered": 12}


def test_replay_sends_the_same_bytes_under_the_same_id(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    backend.says(404)
    make.decide(make.person("ada"), make.item(project))
    until_nothing_is_open(clock)
    dead = the_delivery()
    assert dead.state == "dead"
    with pytest.raises(Forbidden):
        replay(make.person("ada"), dead.id)
    backend.says(200)
    replay(make.person("cleo"), dead.id)
    with pytest.raises(Conflict):
        replay(make.person("cleo"), dead.id)
    assert deliver_due() == 1
    sent = backend.heard[-1]
    assert (sent.id, sent.body) == (dead.id, backend.heard[0].body)
    assert sent.headers["webhook-attempt"] == str(len(DELAYS) + 1)
    assert the_delivery().state == "delivered"
    assert outcomes_in_ledger(dead.id) == ["dead", "replayed", "delivered"]


def test_replay_refuses_what_is_not_there(make: Make) -> None:
    with pytest.raises(Missing):
        replay(make.person("cleo"), "evt_" + "0" * 26)


def test_replay_gives_a_new_round_of_attempts(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    ada = make.person("ada")
    backend.says(500)
    make.decide(ada, make.item(project))
    until_nothing_is_open(clock)
    dead = the_delivery()
    backend.says(200)
    clock.move(minutes=15)
    make.decide(ada, make.item(project))  # a success, else the address would be disabled meanwhile
    deliver_due()
    backend.says(500)
    replay(make.person("cleo"), dead.id)
    until_nothing_is_open(clock)
    (again,) = deliveries(id=dead.id)
    assert (again.state, again.attempts) == ("dead", 2 * len(DELAYS))


# --- in order -------------------------------------------------------------------------------------


def test_deliver_lets_a_later_event_wait_for_the_end_of_an_earlier_one(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    backend.answer = lambda heard: (500 if heard.sequence == 1 else 200, {}, b"")
    three_events(make, project)
    assert deliver_due() == 1
    clock.move(minutes=1)
    assert deliver_due() == 1
    assert {heard.sequence for heard in backend.heard} == {1}
    until_nothing_is_open(clock)
    assert [heard.sequence for heard in backend.heard] == [1] * len(DELAYS) + [2, 3]
    assert [delivery.state for delivery in deliveries()] == ["dead", "delivered", "delivered"]


def test_deliver_keeps_the_order_of_each_item_while_a_third_of_all_answers_are_failures(
    make: Make, backend: Receiver, clock: Clock
) -> None:
    chance = random.Random(12)

    def moody(heard: Heard) -> Answer:
        with backend.lock:
            return (500 if chance.random() < 0.3 else 200), {}, b""

    backend.answer = moody
    # Released at once and overridden three times: three events each, and no review to wait for.
    sure = make.project("sure", confidence_below=0.5, undo_seconds=0)
    make.backend(sure, callback=backend.url)
    sent = [
        {"project": sure.name, "output": f"Answer {number}", "confidence": 0.9} for number in range(ORDER)
    ]
    parts = [sent[first : first + 1000] for first in range(0, ORDER, 1000)]
    answers = [answer for part in parts for answer in submit_batch(part, make.backend_actor(sure))[0]]
    items = [answer.id for answer in answers if isinstance(answer, Answered)]
    assert len(items) == ORDER
    lead = make.person("cleo")
    for text in ("Better.", "Better still.", "Best."):
        for item in items:
            override(lead, item, "edit", text, "tone")
    until_nothing_is_open(clock, rounds=100 + ORDER)

    assert states() == {"delivered": 3 * ORDER}
    last: dict[str, int] = {}
    inversions = 0
    for heard in backend.heard:
        item = heard.event["data"]["id"]
        inversions += heard.sequence < last.get(item, 0)
        last[item] = max(heard.sequence, last.get(item, 0))
    assert inversions == 0
    assert set(last) == set(items)
    # A receiver that remembers webhook-ids acts on each event once, and all attempts were the same bytes.
    bodies: dict[str, set[bytes]] = {}
    for heard in backend.heard:
        bodies.setdefault(heard.id, set()).add(heard.body)
    assert len(bodies) == 3 * ORDER
    assert all(len(said) == 1 for said in bodies.values())
    accepted = Counter(heard.id for heard in backend.heard if heard.status == 200)
    assert set(accepted.values()) == {1}
    assert len(backend.heard) > 3.3 * ORDER


# --- an address that is gone, and comes back --------------------------------------------------------


def test_deliver_disables_an_address_that_is_gone_and_parks_what_is_meant_for_it(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    ada = make.person("ada")
    backend.says(410)
    item_id = three_events(make, project)
    assert deliver_due() == 1
    make.decide(ada, make.item(project))
    endpoint = db.session.scalars(select(Endpoint)).one()
    assert (endpoint.state, "410" in (endpoint.why or "")) == ("disabled", True)
    assert states() == {"parked": 4}
    clock.move(days=10)
    assert deliver_due() == 0
    assert len(backend.heard) == 1

    backend.answer = echo
    assert prove(make.person("dora"), endpoint.backend_id).ok
    backend.heard.clear()
    assert deliver_due() == 4
    assert states() == {"delivered": 4}
    told = [heard for heard in backend.heard if heard.event["data"]["id"] == item_id]
    assert [heard.sequence for heard in told] == [1, 2, 3]


def test_deliver_disables_an_address_after_five_days_and_ten_attempts_without_success(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    backend.says(500)
    ada = make.person("ada")
    for _ in range(4):
        make.decide(ada, make.item(project))
    endpoint = db.session.scalars(select(Endpoint)).one()
    for hours in range(0, 120, 12):
        deliver_due()
        db.session.refresh(endpoint)
        assert endpoint.state == "active", hours
        clock.move(hours=12)
    assert endpoint.failures >= breaker.DISABLE_ATTEMPTS
    deliver_due()
    db.session.refresh(endpoint)
    assert endpoint.state == "disabled"
    assert set(states()) == {"parked"}


def test_deliver_disables_no_address_for_a_clock_that_jumps_or_a_time_without_attempts(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    backend.says(500)
    ada = make.person("ada")
    for _ in range(4):
        make.decide(ada, make.item(project))
    for days in (0, 0.1, 0.1, 400, 0.1, 0.1, -399, 0.1, 0.1):
        clock.move(days=days)
        deliver_due()
    endpoint = db.session.scalars(select(Endpoint)).one()
    assert endpoint.failures >= breaker.DISABLE_ATTEMPTS
    assert endpoint.state == "active"


def test_deliver_counts_a_success_as_a_new_start(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    ada = make.person("ada")
    for status in (500, 200, 500):
        backend.says(status)
        make.decide(ada, make.item(project))
        for _ in range(6):
            deliver_due()
            clock.move(hours=12)
    endpoint = db.session.scalars(select(Endpoint)).one()
    assert endpoint.state == "active"
    assert endpoint.failures < 10


# --- several workers, and workers that die ------------------------------------------------------------


def test_deliver_tries_again_after_its_worker_was_killed_in_the_middle(
    make: Make,
    project: Any,
    backend: Receiver,
    clock: Clock,
    worker: Callable[[], subprocess.Popen[str]],
) -> None:
    heard, go_on = threading.Event(), threading.Event()

    def hang(request: Heard) -> Answer:
        heard.set()
        go_on.wait(20)
        return 200, {}, b""

    backend.answer = hang
    make.decide(make.person("ada"), make.item(project))
    running = worker()
    assert heard.wait(20)
    running.send_signal(signal.SIGKILL)
    running.wait()
    go_on.set()

    backend.says(200)
    assert the_delivery().state == "inflight"
    assert deliver_due() == 0
    clock.move(seconds=61)
    assert deliver_due() == 1
    delivery = the_delivery()
    assert delivery.state == "delivered"
    assert [attempt.outcome for attempt in attempts(delivery)] == ["killed", "ok"]
    assert len({request.body for request in backend.heard}) == 1
    assert {request.id for request in backend.heard} == {delivery.id}


def test_deliver_drops_an_outcome_that_comes_after_its_lease(
    make: Make, project: Any, backend: Receiver, clock: Clock, base: Flask
) -> None:
    first, go_on = threading.Event(), threading.Event()

    def slow_at_first(request: Heard) -> Answer:
        if not first.is_set():
            first.set()
            go_on.wait(20)
            return 500, {}, b"too late"
        return 200, {}, b""

    backend.answer = slow_at_first
    make.decide(make.person("ada"), make.item(project))

    def late() -> None:
        with base.app_context():
            deliver_due()

    sleeper = threading.Thread(target=late)
    sleeper.start()
    assert first.wait(10)
    clock.move(seconds=61)
    assert deliver_due() == 1
    go_on.set()
    sleeper.join(20)
    delivery = the_delivery()
    assert delivery.state == "delivered"
    assert [attempt.outcome for attempt in attempts(delivery)] == ["fenced", "ok"]
    assert outcomes_in_ledger(delivery.id) == ["delivered"]


def test_deliver_by_two_workers_at_once_sends_nothing_twice_and_no_more_than_four_at_a_time(
    make: Make, project: Any, backend: Receiver, worker: Callable[[], subprocess.Popen[str]]
) -> None:
    under_way: Counter[str] = Counter()
    most: list[int] = []

    def count(heard: Heard) -> Answer:
        project_name = heard.event["data"]["project"]
        with backend.lock:
            under_way[project_name] += 1
            most.append(under_way[project_name])
        time.sleep(0.1)
        with backend.lock:
            under_way[project_name] -= 1
        return 200, {}, b""

    backend.answer = count
    other = make.project("other", undo_seconds=0)
    make.backend(other, callback=backend.url)
    ada = make.person("ada")
    for _ in range(20):
        for each in (project, other):
            make.decide(ada, make.item(each))
    workers = [worker(), worker()]
    made = [int(process.communicate(timeout=60)[0]) for process in workers]
    assert sum(made) == 40
    assert max(most) == breaker.IN_FLIGHT
    assert states() == {"delivered": 40}
    assert len(backend.heard) == len({heard.id for heard in backend.heard}) == 40
    assert db.session.scalar(select(func.count()).select_from(Attempt)) == 40


# --- secrets ------------------------------------------------------------------------------------------


def test_deliver_signs_with_both_secrets_while_one_is_being_rotated(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    new = make.backend(project)
    old_secret = new.callback_secret
    backend.says(500)
    make.decide(make.person("ada"), make.item(project))
    deliver_due()
    new_secret = rotate_secret(make.person("dora"), new.backend, "callback")
    backend.says(200)
    clock.move(minutes=1)
    deliver_due()
    before, during = backend.heard
    assert len(before.headers["webhook-signature"].split()) == 1
    assert len(during.headers["webhook-signature"].split()) == 2
    for secret in (old_secret, new_secret):
        assert Webhook(secret).verify(during.body, during.headers)["type"] == "item.decided"

    clock.move(hours=25)
    make.decide(make.person("ada"), make.item(project))
    deliver_due()
    after = backend.heard[-1]
    assert Webhook(new_secret).verify(after.body, after.headers)
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(old_secret).verify(after.body, after.headers)


def test_delays_last_three_days_at_least() -> None:
    assert DELAYS[0] == 0
    assert sum(DELAYS) >= timedelta(hours=72).total_seconds()
