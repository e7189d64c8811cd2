"""The clock jumps by an hour and by 400 days, forwards and back, while people decide (R20).

Nothing is decided twice, nothing is lost, no address is disabled early, and the ledger's time only grows.
FIRE_JUMPS says how many jumps; the order is by chance.
"""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from reviewqueue import seams
from reviewqueue.db import db, now, transaction
from reviewqueue.delivery import deliver
from reviewqueue.errors import Refusal
from reviewqueue.ids import new_id
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Decision, Delivery, Endpoint, Item, Leader, LedgerEntry, Queue
from reviewqueue.review import claim, set_back
from reviewqueue.review.assign import assign
from reviewqueue.review.decide import decide
from reviewqueue.review.jobs import upkeep
from reviewqueue.running.relay import DUTY, Relay
from tests.fire.halves import half_done
from tests.make import Make
from tests.receiver import Receiver, receiver

JUMPS = int(os.environ.get("FIRE_JUMPS", "8"))
HOUR, LONG = 3600.0, 400 * 86400.0


class Clock:
    """The clock of the processes that read this file."""

    def __init__(self, file: Path) -> None:
        self.file, self.wrong_by = file, 0.0

    def jump(self, seconds: float) -> None:
        self.wrong_by += seconds
        self.file.write_text(str(self.wrong_by))


@pytest.fixture
def clock(base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setattr(seams, "_clock_file", tmp_path / "clock")
    return Clock(tmp_path / "clock")


@pytest.fixture
def backend() -> Iterator[Receiver]:
    with receiver() as running:
        yield running


@pytest.fixture
def project(base: Any, make: Make, backend: Receiver) -> Any:
    project = make.project(undo_seconds=0)
    make.backend(project, callback=backend.url)
    return project


def again(do: Any) -> Any:
    """What `do` gives, or the refusal it met."""
    db.session.rollback()
    try:
        return do()
    except Refusal as refused:
        db.session.rollback()
        return refused


def test_nothing_is_lost_or_decided_twice_when_the_clock_jumps(
    clock: Clock, make: Make, project: Any, backend: Receiver
) -> None:
    people = [make.person("ada"), make.person("cleo"), make.person("eve", role="reviewer")]
    queue = db.session.scalars(select(Queue).where(Queue.name == "main")).one()
    dice = random.Random(20)
    tokens: list[tuple[Any, str]] = []
    answered: list[str] = []
    for number in range(JUMPS):
        for _ in range(2):
            db.session.rollback()
            make.item(project, output=f"Parcel {number} left.")
        for person in people:
            found = again(lambda person=person: claim.claim_next(person, queue))
            if isinstance(found, claim.Claim):
                tokens.append((person, found.token))
        clock.jump(dice.choice([HOUR, -HOUR, LONG, -LONG]))
        for person, token in dice.sample(tokens, min(4, len(tokens))):
            given = again(lambda p=person, t=token: decide(p, t, new_id("dec"), "approve"))
            if not isinstance(given, Refusal):
                answered.append(given.decision.id)
        upkeep()
        deliver.deliver_due()
    clock.jump(-clock.wrong_by)
    upkeep()
    finish(make, people, queue, clock)
    check(answered)
    told = Counter(heard.id for heard in backend.heard)
    assert set(told) == set(db.session.scalars(select(Delivery.id)))


def finish(make: Make, people: list[Any], queue: Queue, clock: Clock) -> None:
    """With a right clock everything that is left can be decided and told, once leases have run out."""
    for _ in range(2):
        clock.jump(2.5 * HOUR)  # two of these are longer than anybody may hold a review
        upkeep()
        for person in people:
            while isinstance(found := again(lambda p=person: claim.claim_next(p, queue)), claim.Claim):
                again(lambda p=person, t=found.token: decide(p, t, new_id("dec"), "approve"))
    deliver.deliver_due()


def check(answered: list[str]) -> None:
    db.session.rollback()
    decided = Counter(db.session.scalars(select(Decision.item_id)))
    assert set(decided) == set(db.session.scalars(select(Item.id)))
    assert set(decided.values()) == {1}
    assert set(answered) <= set(db.session.scalars(select(Decision.id)))
    assert db.session.scalars(select(Endpoint.state)).all() == ["active"]
    assert db.session.scalar(select(func.count()).where(Delivery.state != "delivered")) == 0
    times = db.session.scalars(select(LedgerEntry.time).order_by(LedgerEntry.seq)).all()
    assert times == sorted(times)
    assert half_done() == []
    assert verify().ok


def test_a_lease_of_a_wrong_clock_is_shortened(clock: Clock, make: Make, project: Any) -> None:
    item = make.item(project)
    clock.jump(LONG)
    make.claim(make.person("ada"), item)
    clock.jump(-LONG)
    assert isinstance(again(lambda: make.claim(make.person("cleo"), item)), Refusal)
    upkeep()
    clock.jump(11 * 60)
    assert make.claim(make.person("cleo"), item).person_id == make.person("cleo").id


def test_an_attempt_that_a_wrong_clock_put_far_off_is_made(
    clock: Clock, make: Make, project: Any, backend: Receiver
) -> None:
    clock.jump(LONG)
    make.decide(make.person("ada"), make.item(project))
    clock.jump(-LONG)
    assert deliver.deliver_due() == 0
    upkeep()
    assert deliver.deliver_due() == 1
    assert len(backend.heard) == 1


def test_an_address_that_fails_is_not_disabled_by_a_jump(
    clock: Clock, make: Make, project: Any, backend: Receiver
) -> None:
    backend.says(500)
    for number in range(12):
        db.session.rollback()
        make.decide(make.person("ada"), make.item(project))
        deliver.deliver_due()
        clock.jump([LONG, -LONG, HOUR, -HOUR][number % 4])
        upkeep()
    clock.jump(LONG)
    deliver.deliver_due()
    db.session.rollback()
    endpoint = db.session.scalars(select(Endpoint)).one()
    assert endpoint.failures >= 10, "it did not fail often enough to be disabled"
    assert endpoint.state == "active"


@pytest.mark.sqlite
def test_a_callback_is_signed_by_the_clock_of_the_product(
    clock: Clock, make: Make, project: Any, backend: Receiver
) -> None:
    clock.jump(HOUR)
    make.decide(make.person("ada"), make.item(project))
    deliver.deliver_due()
    said = int(backend.heard[-1].headers["webhook-timestamp"])
    assert abs(said - now().timestamp()) < 60
    assert abs(said - time.time()) > HOUR - 60


def test_a_relay_takes_over_from_one_whose_clock_was_wrong(
    base: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.jump(LONG)
    assert Relay(base).leads()
    clock.jump(-LONG)
    assert Relay(base).leads()
    assert not Relay(base).leads(), "and nobody from one whose clock is right"
    assert db.session.scalar(select(func.count()).select_from(Leader).where(Leader.duty == DUTY)) == 1


def test_what_is_far_off_by_right_stays_there(clock: Clock, make: Make, project: Any) -> None:
    assign(make.person("cleo"), make.item(project).id, make.person("ada").id)  # for hours
    make.decide(make.person("cleo"), make.item(project))
    with transaction() as session:
        session.scalars(select(Delivery)).one().next_attempt_at = now() + timedelta(hours=26)
    assert set_back.bring_near() == 0


# --- can it fail? ---------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_without_mending_the_jumps_are_noticed(
    clock: Clock, make: Make, project: Any, backend: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_back, "bring_near", lambda: 0)
    with pytest.raises(AssertionError):
        test_nothing_is_lost_or_decided_twice_when_the_clock_jumps(clock, make, project, backend)
