"""Whatever is changed in the database, verify() names the first bad entry; and nothing unchanged."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from reviewqueue.config import current
from reviewqueue.db import db, transaction
from reviewqueue.ledger import verify as verify_file
from reviewqueue.ledger.canonical import encode, grow, leaf_hash, mac, root
from reviewqueue.ledger.record import record
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Decision, LedgerEntry
from tests.ledger.conftest import Forger, Story

Forge = Callable[["Case"], int]


class Case:
    """A story told, the forger at work on it, and the entries by name."""

    def __init__(self, story: Story, forger: Forger) -> None:
        self.story, self.forger = story, forger
        self.approved = story.decide()
        self.edited = story.decide(
            verdict="edit",
            edited=True,
            output="It left on Tuesday.",
            reason="wrong fact",
            note="see tracking",
        )
        self.rejected = story.decide(verdict="reject", released=False, output=None, reason="tone")
        self.timeout = story.decide(
            source="timeout", verdict=None, released=False, output=None, decided_by=None
        )
        self.amended = story.override(self.edited)
        self.undone = story.decide()
        self.undo_seq = story.undo(self.undone).seq
        overridden = story.decide()
        self.back = overridden
        story.undo(story.override(overridden))
        self.last = story.decide()
        self.run = forger.run
        decisions = {name: value for name, value in vars(self).items() if isinstance(value, Decision)}
        self.seq = {name: story.seq[decision.id] for name, decision in decisions.items()}
        self.ids = {name: getattr(self, name).id for name in self.seq}
        self.end = story.end()

    def row(self, name: str, change: str) -> int:
        """UPDATE a decision row; its own entry is the bad one."""
        self.run(f"UPDATE decision SET {change} WHERE id = :id", id=self.ids[name])
        return self.seq[name]

    def entry(self, seq: int, change: str, **values: Any) -> int:
        self.run(f"UPDATE ledger_entry SET {change} WHERE seq = :seq", seq=seq, **values)
        return seq


def _swap(case: Case, first: int, second: int) -> int:
    away = "prev, leaf, body, mac, mac_key_id, type, time, item_id, decision_id, project_id, actor"
    case.run(
        f"CREATE TABLE away AS SELECT seq, {away} FROM ledger_entry WHERE seq IN ({first}, {second})",
        f"DELETE FROM ledger_entry WHERE seq IN ({first}, {second})",
        f"INSERT INTO ledger_entry (seq, {away}) SELECT {first} + {second} - seq, {away} FROM away",
        "DROP TABLE away",
    )
    return first


def _rewrite(case: Case, seq: int, change: Callable[[dict], None]) -> int:
    """Change a body and chain everything after it anew, without the MAC key."""
    bodies = case.forger.rows("SELECT seq, body FROM ledger_entry ORDER BY seq")
    prev, leaf, frontier = "", b"", []
    for number, data in bodies:
        body = json.loads(bytes(data))
        if number == seq:
            change(body)
        if number > seq:
            body["prev"] = prev
        data = encode(body)
        leaf = leaf_hash(data)
        prev_column = body["prev"]
        frontier = grow(frontier, number, leaf)
        case.run(
            "UPDATE ledger_entry SET body = :body, leaf = :leaf, prev = :prev WHERE seq = :seq",
            body=data, leaf=leaf.hex(), prev=prev_column, seq=number,
        )  # fmt: skip
        prev = leaf.hex()
    case.run(
        "UPDATE ledger_head SET last_leaf = :leaf, frontier = :frontier",
        leaf=prev, frontier=json.dumps([node.hex() for node in frontier]),
    )  # fmt: skip
    return seq


def _insert_copy(case: Case, seq: int) -> int:
    """An entry of the forger's own behind the last one, head and all, sealed with a key of theirs."""
    body = json.loads(case.forger.body(case.end))
    body |= {
        "seq": case.end + 1,
        "prev": leaf_hash(case.forger.body(case.end)).hex(),
        "decision": "dec_forged",
    }
    data = encode(body)
    leaf = leaf_hash(data)
    case.run(
        "INSERT INTO ledger_entry (seq, prev, leaf, body, mac, mac_key_id, type, time, item_id, decision_id, "
        "project_id, actor) SELECT seq + 1, :prev, :leaf, :body, :mac, mac_key_id, type, time, item_id, "
        "'dec_forged', project_id, actor FROM ledger_entry WHERE seq = :seq",
        seq=seq, prev=body["prev"], leaf=leaf.hex(), body=data, mac=mac(b"k" * 32, leaf),
    )  # fmt: skip
    return case.end + 1


def _with_head(forge: Forge) -> Forge:
    """The same, with a head that agrees."""

    def both(case: Case) -> int:
        expected = forge(case)
        leaves = [row.leaf for row in case.forger.rows("SELECT leaf FROM ledger_entry ORDER BY seq")]
        frontier: list[bytes] = []
        for number, leaf in enumerate(leaves):
            frontier = grow(frontier, number, bytes.fromhex(leaf))
        case.run(
            "UPDATE ledger_head SET size = :size, last_leaf = :leaf, frontier = :frontier, "
            "last_time = (SELECT time FROM ledger_entry ORDER BY seq DESC LIMIT 1)",
            size=len(leaves), leaf=leaves[-1], frontier=json.dumps([node.hex() for node in frontier]),
        )  # fmt: skip
        return expected

    return both


def _cut(case: Case) -> int:
    case.run(
        "DELETE FROM ledger_part WHERE seq > :seq",
        "DELETE FROM ledger_entry WHERE seq > :seq",
        seq=case.end - 1,
    )
    return case.end


def _delete_entry(name: str) -> Forge:
    def forge(case: Case) -> int:
        for table in ("ledger_part", "ledger_entry"):
            case.run(f"DELETE FROM {table} WHERE seq = :seq", seq=case.seq[name])
        return case.seq[name]

    return forge


def _copy_row(case: Case, id_: str, **values: Any) -> None:
    names = [column.name for column in Decision.__table__.columns]
    chosen = ", ".join(f":{name}" if name in values else name for name in names)
    case.run(
        f"INSERT INTO decision ({', '.join(names)}) SELECT {chosen} FROM decision WHERE id = :source",
        source=id_, **values,
    )  # fmt: skip


def _stray(case: Case) -> int:
    _copy_row(case, case.ids["undone"], id="dec_stray", round=9)
    return case.end


def _erase(case: Case, change: str) -> int:
    case.run(f"UPDATE ledger_part SET {change} WHERE seq = :seq AND part = 'out'", seq=case.seq["edited"])
    return case.seq["edited"]


def _time(case: Case, name: str, column: str, by: str) -> int:
    if db.engine.dialect.name == "sqlite":
        value = f"strftime('%Y-%m-%d %H:%M:%f000', {column}, '{by}')"
    else:
        value = f"{column} + interval '{by}'"
    return case.row(name, f"{column} = {value}")


DECISIONS: dict[str, Forge] = {
    "verdict": lambda c: c.row("rejected", "verdict = 'approve'"),
    "verdict of a timeout": lambda c: c.row("timeout", "verdict = 'reject'"),
    "released": lambda c: c.row("rejected", "released = true"),
    "output": lambda c: c.row("edited", "output = '\"It left on Friday.\"'"),
    "output by its spelling": lambda c: c.row("edited", "output = '\"It left on Tuesday. \"'"),
    "output where there was none": lambda c: c.row("rejected", "output = '\"It left on Friday.\"'"),
    "output away": lambda c: c.row("approved", "output = NULL"),
    "edited": lambda c: c.row("edited", "edited = false"),
    "reason": lambda c: c.row("edited", "reason = 'tone'"),
    "cause": lambda c: c.row("edited", "cause = 'model'"),
    "note": lambda c: c.row("edited", "note = NULL"),
    "reason where there was none": lambda c: c.row("approved", "reason = 'other'"),
    "decided by": lambda c: c.row("approved", f"decided_by = '{c.story.cleo.id}'"),
    "decided by the system": lambda c: c.row("approved", "decided_by = NULL"),
    "decided by a person": lambda c: c.row("timeout", f"decided_by = '{c.story.cleo.id}'"),
    "decided at": lambda c: _time(c, "approved", "decided_at", "-1 hours"),
    "final at": lambda c: _time(c, "approved", "final_at", "1 hours"),
    "source": lambda c: c.row("timeout", "source = 'review'"),
    "round": lambda c: c.row("approved", "round = 7"),
    "sequence": lambda c: c.row("approved", "sequence = NULL"),
    "policy version": lambda c: c.row("approved", "policy_version = 2"),
    "supersedes": lambda c: c.row("last", f"supersedes = '{c.ids['approved']}'"),
    "item": lambda c: c.row("last", f"item_id = '{c.rejected.item_id}', round = 8, undone_at = decided_at"),
    "id": lambda c: c.row("approved", "id = 'dec_other'"),
    "undone": lambda c: c.row("approved", "undone_at = decided_at"),
    "undone no more": lambda c: c.row("undone", "undone_at = NULL"),
    "undone at": lambda c: _time(c, "undone", "undone_at", "1 hours"),
    "superseded": lambda c: c.row("approved", "superseded_at = decided_at"),
    "superseded no more": lambda c: (
        c.row("amended", "superseded_at = decided_at"),
        c.row("edited", "superseded_at = NULL"),
    )[1],
    "superseded at": lambda c: _time(c, "edited", "superseded_at", "1 hours"),
    "superseded by one that was undone": lambda c: c.row("back", "superseded_at = decided_at"),
    "deleted": lambda c: (
        c.run("DELETE FROM decision WHERE id = :id", id=c.ids["approved"]),
        c.seq["approved"],
    )[1],
    "inserted": _stray,
    "two changed, the first is named": lambda c: (
        c.row("last", "note = 'x'"),
        c.row("approved", "note = 'x'"),
    )[1],
}

LEDGER: dict[str, Forge] = {
    "body by one bit": lambda c: c.entry(
        c.seq["rejected"],
        "body = :body",
        body=c.forger.body(c.seq["rejected"]).replace(b'"rev":1', b'"rev":3'),
    ),
    "body into nonsense": lambda c: c.entry(c.seq["rejected"], "body = :body", body=b"\xff\x00"),
    "body with a space": lambda c: c.entry(
        c.seq["rejected"], "body = :body", body=c.forger.body(c.seq["rejected"]) + b" "
    ),
    "first entry": lambda c: c.entry(
        0, "body = :body", body=c.forger.body(0).replace(b"ledger.c", b"ledger.d")
    ),
    "leaf": lambda c: c.entry(c.seq["edited"], "leaf = :leaf", leaf="a" * 64),
    "prev": lambda c: c.entry(c.seq["edited"], "prev = :prev", prev="a" * 64),
    "mac": lambda c: c.entry(c.seq["edited"], "mac = :mac", mac="a" * 64),
    "mac key": lambda c: c.entry(c.seq["edited"], "mac_key_id = 'other'"),
    "type column": lambda c: c.entry(c.undo_seq, "type = 'config'"),
    "item column": lambda c: c.entry(c.undo_seq, "item_id = NULL"),
    "decision column": lambda c: c.entry(c.seq["edited"], "decision_id = 'dec_other'"),
    "project column": lambda c: c.entry(c.seq["edited"], "project_id = 'prj_other'"),
    "actor column": lambda c: c.entry(c.seq["edited"], "actor = 'usr_other'"),
    "time column": lambda c: c.entry(c.seq["edited"], "time = (SELECT time FROM ledger_entry WHERE seq = 0)"),
    "number": lambda c: (c.entry(c.seq["edited"], "seq = 1000"), c.seq["edited"])[1],
    "number below zero": lambda c: (c.entry(c.end, "seq = -5"), -5)[1],
    "deleted": _delete_entry("rejected"),
    "deleted first": lambda c: (c.run("DELETE FROM ledger_entry WHERE seq = 0"), 0)[1],
    "cut": _cut,
    # The chain is whole; the decision that lost its entry gives it away, at the end.
    "cut with the head": _with_head(lambda c: _cut(c) - 1),
    "all gone but the decisions": lambda c: (
        c.run("DELETE FROM ledger_part", "DELETE FROM ledger_entry", "DELETE FROM ledger_head"),
        0,
    )[1],
    "inserted at the end": lambda c: _insert_copy(c, c.end),
    "inserted at the end with the head": _with_head(lambda c: _insert_copy(c, c.end)),
    "swapped": lambda c: _swap(c, c.seq["approved"], c.seq["rejected"]),
    "swapped neighbours": lambda c: _swap(c, c.end - 1, c.end),
    "chained anew without the key": lambda c: _rewrite(
        c, c.seq["rejected"], lambda body: body.update(action="approve")
    ),
    "salt": lambda c: (
        c.run(
            "UPDATE ledger_part SET salt = :salt WHERE seq = :seq AND part = 'out'",
            salt=b"s" * 32,
            seq=c.seq["edited"],
        ),
        c.seq["edited"],
    )[1],
    "payload": lambda c: (
        c.run(
            "UPDATE ledger_part SET payload = :payload WHERE seq = :seq AND part = 'shown'",
            payload=b"x",
            seq=c.seq["edited"],
        ),
        c.seq["edited"],
    )[1],
    "part deleted": lambda c: (
        c.run("DELETE FROM ledger_part WHERE seq = :seq AND part = 'why'", seq=c.seq["edited"]),
        c.seq["edited"],
    )[1],
    "part added": lambda c: (
        c.run(
            "INSERT INTO ledger_part (seq, part, salt, payload) VALUES (:seq, 'why', :salt, :payload)",
            seq=c.seq["approved"],
            salt=b"s" * 32,
            payload=b"x",
        ),
        c.seq["approved"],
    )[1],
    "part moved": lambda c: (
        c.run("UPDATE ledger_part SET part = 'out2' WHERE seq = :seq AND part = 'out'", seq=c.seq["edited"]),
        c.seq["edited"],
    )[1],
    "erased without an entry": lambda c: _erase(c, f"salt = NULL, payload = NULL, erased_by = {c.end}"),
    "half erased": lambda c: _erase(c, f"payload = NULL, erased_by = {c.end}"),
    "emptied": lambda c: _erase(c, "salt = NULL, payload = NULL"),
    "head size": lambda c: (c.run("UPDATE ledger_head SET size = size + 1"), c.end + 1)[1],
    "head size down": lambda c: (c.run("UPDATE ledger_head SET size = size - 1"), c.end)[1],
    "head leaf": lambda c: (c.run("UPDATE ledger_head SET last_leaf = '00'"), c.end)[1],
    "head time": lambda c: (
        c.run("UPDATE ledger_head SET last_time = (SELECT time FROM ledger_entry WHERE seq = 0)"),
        c.end,
    )[1],
    "head frontier": lambda c: (c.run("UPDATE ledger_head SET frontier = '[]'"), c.end)[1],
    "head gone": lambda c: (c.run("DELETE FROM ledger_head"), 0)[1],
    "origin": lambda c: (c.run("UPDATE ledger_head SET origin = 'elsewhere/ledger'"), 0)[1],
}


@pytest.fixture
def case(story: Story, forger: Forger) -> Case:
    case = Case(story, forger)
    assert verify().ok
    return case


def _misjudged(case: Case, forgeries: dict[str, Forge], **expected: Any) -> dict[str, Any]:
    """What verify() said of each forgery, where it was not the expected; all is restored in between."""
    case.forger.drop_guards()
    case.forger.keep()
    wrong = {}
    for name, forge in forgeries.items():
        expected["first_bad"] = forge(case)
        report = verify()
        if report.ok or any(getattr(report, key) != value for key, value in expected.items()):
            wrong[name] = (expected["first_bad"], report)
        case.forger.restore()
    assert verify().ok
    return wrong


def test_verify_names_the_entry_of_a_decision_that_was_changed(case):
    assert _misjudged(case, DECISIONS, kind="decision") == {}


def test_verify_names_the_first_entry_that_was_changed(case):
    assert _misjudged(case, LEDGER) == {}


ITEMS: dict[str, Forge] = {
    "input": lambda c: _item(c, "edited", "input = '\"Where was it?\"'"),
    "input gone": lambda c: _item(c, "edited", "input = NULL"),
    "output": lambda c: _item(c, "timeout", "output = '\"It never left.\"'"),
    "sealed content": lambda c: (
        _item(c, "last", "content_sha256 = 'ff' || substr(content_sha256, 3)"),
        c.sealed,
    )[1],
    "sealed number": lambda c: (_item(c, "last", "number = number + 1000"), c.sealed)[1],
}


def _item(case: Case, name: str, change: str) -> int:
    """UPDATE the item of a decision; the entry of the decision is the first bad one."""
    item = next(value.item_id for key, value in vars(case).items() if key == name)
    case.run(f"UPDATE item SET {change} WHERE id = :id", id=item)
    return case.seq[name]


def test_verify_names_the_entry_of_an_item_that_was_changed(case):
    from reviewqueue.intake.seal import seal

    assert seal() > 5
    case.sealed = case.story.end()
    assert _misjudged(case, ITEMS, kind="item") == {}


def test_verify_names_a_part_of_no_entry(case):
    case.forger.drop_guards()
    case.run(
        "INSERT INTO ledger_part (seq, part, salt, payload) VALUES (:seq, 'why', :salt, :payload)",
        seq=case.end + 9, salt=b"s" * 32, payload=b"x",
    )  # fmt: skip
    report = verify()
    assert (report.first_bad, report.kind) == (case.end + 9, "part")


@pytest.mark.parametrize("name", ["body by one bit", "deleted", "payload"])
def test_verify_finds_the_same_in_small_batches(case, name, monkeypatch):
    monkeypatch.setattr(verify_file, "BATCH", 3)
    assert verify().ok
    case.forger.drop_guards()
    expected = LEDGER[name](case)
    assert verify().first_bad == expected
    case.row("approved", "note = 'x'")
    assert verify().first_bad == case.seq["approved"]


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("UPDATE ledger_entry SET time = 'yesterday' WHERE seq = :seq", "edited"),
        ("UPDATE ledger_entry SET body = 5 WHERE seq = :seq", "edited"),
        ("UPDATE decision SET output = '{' WHERE id = :id", "edited"),
        ("UPDATE decision SET decided_at = 'yesterday' WHERE id = :id", "rejected"),
    ],
)
def test_verify_names_what_cannot_even_be_read(case, statement, name):
    case.forger.drop_guards()
    values = {"seq": case.seq[name]} if ":seq" in statement else {"id": case.ids[name]}
    case.run(statement, **values)
    report = verify()
    assert (report.ok, report.first_bad) == (False, case.seq[name]), report.problem


@pytest.mark.parametrize("seed", range(2))
def test_verify_finds_any_flipped_bit(case, seed):
    """A bit of any column of any entry or part."""
    case.forger.drop_guards()
    dice = random.Random(seed)
    for _ in range(24):
        seq = dice.randint(0, case.end)
        column = dice.choice(["body", "prev", "leaf", "mac", "mac_key_id"])
        value = case.forger.rows(f"SELECT {column} FROM ledger_entry WHERE seq = :seq", seq=seq)[0][0]
        data = bytearray(value.encode() if isinstance(value, str) else bytes(value))
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(6)
        changed = bytes(data) if column == "body" else data.decode("latin-1").replace("\x00", "~")
        case.entry(seq, f"{column} = :value", value=changed)
        report = verify()
        assert (report.ok, report.first_bad) == (False, seq), (column, report.problem)
        case.entry(seq, f"{column} = :value", value=value)
        assert verify().ok


def test_verify_of_an_empty_database_is_fine(base):
    report = verify()
    assert (report.ok, report.entries, report.origin) == (True, 0, None)


def test_verify_tells_size_origin_and_root(case):
    report = verify()
    assert (report.entries, report.origin) == (case.end + 1, "127.0.0.1/ledger")
    leaves = db.session.scalars(select(LedgerEntry.leaf).order_by(LedgerEntry.seq)).all()
    frontier: list[bytes] = []
    for number, leaf in enumerate(leaves):
        frontier = grow(frontier, number, bytes.fromhex(leaf))
    assert report.root == root(frontier).hex()


def test_verify_reports_progress(case, monkeypatch):
    monkeypatch.setattr(verify_file, "BATCH", 4)
    heard: list[tuple[int, int]] = []
    verify(lambda done, total: heard.append((done, total)))
    assert [done for done, _ in heard] == sorted({done for done, _ in heard})
    assert heard[-1] == (case.end + 1, case.end + 1)


def test_verify_sees_one_moment_while_entries_are_appended(case, monkeypatch):
    """What is appended during the walk neither disturbs it nor is it missed by the next one."""
    monkeypatch.setattr(verify_file, "BATCH", 2)

    def append(done: int, total: int) -> None:
        with transaction():
            record("config", {"change": "meanwhile"})

    first = verify(append)
    assert first.ok, first.problem
    assert first.entries == case.end + 1
    assert verify().entries > first.entries


def test_verify_refuses_another_machines_ledger_key(case, monkeypatch):
    monkeypatch.setattr(type(current()), "key", lambda _self, name: b"another key of 32 bytes, made up")
    report = verify()
    assert (report.ok, report.first_bad, report.kind) == (False, 0, "mac")
