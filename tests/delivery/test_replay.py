"""Sending again: one or a range, dry first; the same id and bytes even after months; all in the ledger."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import select

from reviewqueue.config import Settings
from reviewqueue.db import db, now
from reviewqueue.delivery import replay as replays
from reviewqueue.delivery.deliver import deliver_due
from reviewqueue.delivery.endpoints import prove
from reviewqueue.delivery.replay import Which, count, replay_all
from reviewqueue.errors import Forbidden
from reviewqueue.ids import first_id, new_id
from reviewqueue.models import Delivery, Endpoint, LedgerEntry
from reviewqueue.running.replaying import deliveries_commands
from tests.delivery.conftest import Clock
from tests.make import Make
from tests.receiver import Receiver, echo

pytestmark = pytest.mark.usefixtures("base")


def delivered(make: Make, project: Any, number: int) -> list[str]:
    """So many decisions that were called back; the ids of their events."""
    before = set(db.session.scalars(select(Delivery.id)))
    for _ in range(number):
        make.decide(make.person("ada"), make.item(project))
    assert deliver_due() == number
    db.session.rollback()
    return sorted(set(db.session.scalars(select(Delivery.id))) - before)


def replayed_in_ledger() -> list[tuple[str, str]]:
    db.session.rollback()
    entries = db.session.scalars(
        select(LedgerEntry).where(LedgerEntry.type == "delivery").order_by(LedgerEntry.seq)
    )
    bodies = [json.loads(entry.body) for entry in entries]
    return [(body["event"], body["actor"]) for body in bodies if body["outcome"] == "replayed"]


def test_replay_all_sends_a_range_again_after_ninety_days_as_it_was(
    make: Make, project: Any, backend: Receiver, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replays, "BATCH", 2)
    early = delivered(make, project, 1)
    clock.move(hours=2)
    begun = now()
    wanted = delivered(make, project, 5)
    ended = now()
    clock.move(hours=2)
    late = delivered(make, project, 1)
    first = {heard.id: heard.body for heard in backend.heard}
    clock.move(days=90)
    backend.heard.clear()

    lead, which = make.person("cleo"), Which(since=begun, until=ended)
    assert count(lead, which) == 5
    assert deliver_due() == 0  # counting sent nothing
    assert list(replay_all(lead, which)) == [2, 2, 1]
    assert deliver_due() == 5
    assert {heard.id: heard.body for heard in backend.heard} == {id: first[id] for id in wanted}
    assert replayed_in_ledger() == [(id, lead.id) for id in wanted]
    db.session.rollback()
    assert set(db.session.scalars(select(Delivery.state))) == {"delivered"}
    assert not {heard.id for heard in backend.heard} & {*early, *late}


def test_replay_all_is_narrowed_by_backend_and_state_and_leaves_what_is_on_its_way(
    make: Make, project: Any, backend: Receiver
) -> None:
    other = make.project("other", undo_seconds=0)
    make.backend(other, "other-backend", callback=backend.url)
    mine, theirs = delivered(make, project, 2), delivered(make, other, 1)
    make.decide(make.person("ada"), make.item(project))
    lead = make.person("cleo")
    its = make.backend(other, "other-backend").backend.id
    assert count(lead, Which()) == 3
    assert count(lead, Which(states=("dead",))) == 0
    assert sum(replay_all(lead, Which(backend_ids=[its]))) == 1
    assert [event for event, _ in replayed_in_ledger()] == theirs
    assert sum(replay_all(lead, Which())) == 2
    assert [event for event, _ in replayed_in_ledger()] == theirs + mine


def test_replay_of_a_disabled_address_waits_until_it_is_active_and_then_goes_in_order(
    make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    events = delivered(make, project, 2)
    backend.says(410)
    make.decide(make.person("ada"), make.item(project))
    deliver_due()
    assert sum(replay_all(make.person("cleo"), Which())) == 2
    assert deliver_due() == 0
    db.session.rollback()
    assert set(db.session.scalars(select(Delivery.state))) == {"parked"}
    backend.answer = echo
    backend_id = db.session.scalars(select(Endpoint.backend_id)).one()
    assert prove(make.person("dora"), backend_id).ok
    backend.heard.clear()
    assert deliver_due() == 3
    assert set(events) < {heard.id for heard in backend.heard}


def test_replay_all_is_for_leads(make: Make) -> None:
    for name in ("ada", "aud"):
        with pytest.raises(Forbidden):
            count(make.person(name), Which())
        with pytest.raises(Forbidden):
            next(replay_all(make.person(name), Which()))


def test_first_id_lies_before_all_ids_of_its_moment_and_after_those_before() -> None:
    made, later = new_id("evt"), now() + timedelta(milliseconds=2)
    assert first_id("evt", now() - timedelta(seconds=1)) < made < first_id("evt", later)


# --- from a shell ---------------------------------------------------------------------------------


@pytest.fixture
def shell(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("REVIEWQUEUE_ENV", "test")
    monkeypatch.setenv("REVIEWQUEUE_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("REVIEWQUEUE_KEYS_DIR", str(settings.keys_dir))
    monkeypatch.setenv("REVIEWQUEUE_CALLBACK_ALLOW", "127.0.0.0/8")
    monkeypatch.setenv("REDIS_URL", settings.redis_url)
    monkeypatch.setenv("DATABASE_URL", settings.database_url.replace("+psycopg", ""))

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(deliveries_commands, ["replay", *arguments, "--json"])

    return run


def test_the_command_counts_first_and_then_sends(
    make: Make, project: Any, backend: Receiver, shell: Any
) -> None:
    events = delivered(make, project, 3)
    today = now().date().isoformat()
    tried = shell("--from", today, "--backend", make.backend(project).backend.name, "--dry-run")
    assert json.loads(tried.stdout) == {"found": 3, "replayed": 0, "dry_run": True}
    assert replayed_in_ledger() == []
    assert json.loads(shell("--from", today).stdout) == {"found": 3, "replayed": 3, "dry_run": False}
    assert replayed_in_ledger() == [(event, "system") for event in events]
    assert deliver_due() == 3
    assert json.loads(shell(events[0]).stdout)["replayed"] == 1
    assert json.loads(shell("--to", today).stdout)["found"] == 0


@pytest.mark.sqlite
def test_the_command_wants_either_events_or_a_range(make: Make, project: Any, shell: Any) -> None:
    assert shell().exit_code == 2
    assert shell("evt_" + "0" * 26, "--state", "dead").exit_code == 2
    assert shell("--from", "yesterday").exit_code == 2
    assert shell("--backend", "nobody").exit_code == 1
    assert shell("evt_" + "0" * 26).exit_code == 1
