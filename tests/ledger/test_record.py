"""Appending: inside the caller's transaction, in order, or not at all."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError

from reviewqueue.config import current
from reviewqueue.db import db, now, stamp, transaction
from reviewqueue.errors import Busy
from reviewqueue.ledger.canonical import NotCanonical, commitment, genesis, key_id
from reviewqueue.ledger.record import record
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Decision, LedgerEntry, LedgerHead, LedgerPart


def _note(change: str = "test") -> int:
    with transaction():
        return record("config", {"change": change}).seq


def _bodies() -> list[dict]:
    db.session.rollback()
    return [json.loads(row.body) for row in db.session.scalars(select(LedgerEntry).order_by(LedgerEntry.seq))]


def test_record_begins_the_log_on_first_use(base):
    assert _note() == 1
    created, noted = _bodies()
    assert created["type"] == "ledger.created"
    assert created["log"] == "127.0.0.1/ledger"
    assert created["prev"] == genesis("127.0.0.1/ledger")
    assert created["key"] == key_id(current().key("ledger"))
    assert noted["seq"] == 1
    assert db.session.get_one(LedgerHead, 1).size == 2


def test_record_chains_entries_and_commits_to_parts(base):
    with transaction():
        first = record("config", {"change": "a", "target": None}, parts={"why": "because"})
        second = record("config", {"change": "b"}, actor="system")
    bodies = _bodies()
    assert bodies[2]["prev"] == first.leaf
    assert second.seq == first.seq + 1
    assert "target" not in bodies[1]
    assert bodies[2]["time"] == stamp(second.time)
    part = db.session.scalars(select(LedgerPart)).one()
    assert (part.seq, part.part, part.payload) == (first.seq, "why", b"because")
    assert bodies[1]["why"] == commitment(part.salt, "why", b"because")


def test_record_salts_equal_parts_differently(base):
    with transaction():
        record("config", {"change": "a"}, parts={"why": "same", "out": "same"})
        record("config", {"change": "a"}, parts={"why": "same"})
    first, second = _bodies()[1:]
    assert len({first["why"], first["out"], second["why"]}) == 3


def test_record_repeats_ids_in_body_and_columns(base):
    with transaction():
        record("config", {"change": "a"}, item_id="itm_1", project_id="prj_1", actor="usr_1")
    body = _bodies()[1]
    row = db.session.get_one(LedgerEntry, 1)
    assert (body["item"], body["project"], body["actor"]) == ("itm_1", "prj_1", "usr_1")
    assert (row.item_id, row.project_id, row.actor) == ("itm_1", "prj_1", "usr_1")
    with transaction(), pytest.raises(ValueError, match="two values for item"):
        record("config", {"item": "itm_2"}, item_id="itm_1")


def test_record_refuses_outside_a_transaction(base):
    with pytest.raises(RuntimeError):
        record("config", {"change": "a"})


@pytest.mark.parametrize(
    ("type_", "fields", "parts"),
    [
        ("gossip", {}, {}),
        ("config", {"colour": "red"}, {}),
        ("config", {"seq": 7}, {}),
        ("config", {"out": "0" * 64}, {}),
        ("config", {"change": "a"}, {"extra": "x"}),
    ],
)
def test_record_refuses_what_the_type_does_not_say(base, type_, fields, parts):
    with pytest.raises(ValueError, match="ledger"), transaction():
        record(type_, fields, parts=parts)
    assert _bodies() == []


@pytest.mark.parametrize("value", [0.5, "x" * 20_000, 2**53])
def test_record_refuses_what_has_no_canonical_form(base, value):
    with pytest.raises(NotCanonical), transaction():
        record("config", {"change": value})
    assert _bodies() == []


def test_record_leaves_nothing_when_the_transaction_fails(base):
    _note()
    with pytest.raises(ZeroDivisionError), transaction():
        record("config", {"change": "lost"}, parts={"why": "x"})
        1 / 0  # noqa: B018
    assert [body.get("change") for body in _bodies()] == [None, "test"]
    assert db.session.scalars(select(LedgerPart)).all() == []
    assert _note("next") == 2
    assert verify().ok


def test_record_never_goes_back_in_time(base):
    later = now() + timedelta(hours=1)
    _note()
    with transaction() as session:
        session.get_one(LedgerHead, 1).last_time = later
    with transaction():
        assert record("config", {"change": "a"}).time == later


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ledger_head SET size = size + 1",
        "UPDATE ledger_head SET size = size - 1",
        "UPDATE ledger_head SET last_leaf = '" + "0" * 64 + "'",
        "UPDATE ledger_head SET frontier = '[]'",
        "DELETE FROM ledger_head",
    ],
)
def test_record_stops_when_the_head_disagrees_and_repairs_nothing(base, damage):
    _note()
    with transaction() as session:
        session.execute(text(damage))
    for _ in range(2):
        with pytest.raises(Busy) as refusal:
            _note()
        assert refusal.value.code == "ledger_inconsistent"
    assert len(_bodies()) == 2
    assert not verify().ok


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE ledger_entry SET mac = 'x' WHERE seq = 1",
        "DELETE FROM ledger_entry WHERE seq = 1",
        "UPDATE ledger_part SET payload = NULL",
        "UPDATE ledger_part SET salt = NULL, payload = NULL",
        "UPDATE ledger_part SET salt = NULL, erased_by = 1",
        "UPDATE ledger_part SET salt = NULL, payload = NULL, erased_by = 1, part = 'in'",
        "DELETE FROM ledger_part",
    ],
)
def test_database_refuses_to_change_or_remove_entries_and_parts(base, change):
    with transaction():
        record("config", {"change": "a"}, parts={"why": "x"})
    with pytest.raises(DBAPIError, match="append-only"), transaction() as session:
        session.execute(text(change))
    assert verify().ok


@pytest.mark.postgresql
@pytest.mark.parametrize("tables", ["ledger_part", "ledger_entry, ledger_part"])
def test_database_refuses_to_truncate(base, tables):
    _note()
    with pytest.raises(DBAPIError, match="append-only"), transaction() as session:
        session.execute(text(f"TRUNCATE {tables}"))


@pytest.mark.sqlite
@pytest.mark.parametrize("table", ["ledger_entry", "ledger_part"])
def test_database_refuses_insert_or_replace(base, table):
    with transaction():
        record("config", {"change": "a"}, parts={"why": "x"})
    with pytest.raises(DBAPIError, match="append-only"), transaction() as session:
        session.execute(text(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table} WHERE seq = 1"))


def test_database_lets_a_part_be_erased_once(base):
    with transaction():
        record("config", {"change": "a"}, parts={"why": "x"})
    erase = text("UPDATE ledger_part SET salt = NULL, payload = NULL, erased_by = 1 WHERE seq = 1")
    with transaction() as session:
        session.execute(erase)
    with pytest.raises(DBAPIError, match="append-only"), transaction() as session:
        session.execute(erase)


def test_record_of_a_decision_twice_is_refused(story):
    decision = story.decide()
    with pytest.raises(Busy), transaction():
        record("decision", {"decision": decision.id, "item": decision.item_id})
    assert verify().ok


def test_decision_entry_and_parts_commit_together_or_not_at_all(story, stopping):
    """Whatever statement of a deciding transaction fails, no part of it stays."""
    item = story.item()
    before = len(_bodies())
    stops = 0
    for _ in stopping(lambda: story.decide(item)):
        stops += 1
        db.session.rollback()
        assert db.session.scalars(select(Decision)).all() == []
        assert len(_bodies()) == before
        assert db.session.scalars(select(LedgerPart.seq).where(LedgerPart.seq >= before)).all() == []
        assert db.session.get_one(LedgerHead, 1).size == before
    assert stops > 5
    assert len(_bodies()) == before + 1
    assert verify().ok


def test_insert_of_a_second_entry_with_the_same_prev_is_refused_by_the_database(base):
    _note()
    entry = db.session.get_one(LedgerEntry, 1)
    copy = {c.name: getattr(entry, c.name) for c in LedgerEntry.__table__.columns}
    copy |= {"seq": 2, "leaf": "f" * 64}
    with pytest.raises(DBAPIError), transaction() as session:
        session.execute(insert(LedgerEntry).values(**copy))
