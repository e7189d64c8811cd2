"""Fills a database by bulk, in the database's own words, with rows as the product would have written them.

For measures and for tests of query plans. It must never be run on a database that matters: rows are put in
behind the product's back, and only `ledger()` writes entries that verify.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from sqlalchemy import insert, select, text
from sqlalchemy.orm import Session

from reviewqueue.config import current
from reviewqueue.db import db, dumps, now, stamp, transaction
from reviewqueue.ledger import canonical
from reviewqueue.ledger.entries import INDEXED, decision_facts, decision_parts
from reviewqueue.models import Backend, Decision, Item, LedgerEntry, LedgerHead, LedgerPart, Project, Queue
from reviewqueue.text import words

BATCH = 1000
JSON_COLUMNS = ("input", "output", "rejected_output", "usage", "route_reasons")

INPUT = "Order {i}: where is parcel {i} that {word} sent to street {j}, and may I return it in {k} days?"
SENDERS = ("a friend", "my shop", "an office", "you")
OUTPUT = "Your parcel {i} left our warehouse on Monday; it may be returned within {k} days to depot {j}."


@dataclass(frozen=True)
class Place:
    """Whose rows are filled in."""

    project: str
    backend: str
    queue: str
    person: str
    other: str
    step: int = 1  # seconds between items; the newest was submitted now


def place(project: str, person: str, other: str, step: int = 1) -> Place:
    """The ids of a project (by name) with one backend, and of two people."""
    row = db.session.execute(
        select(Project.id, Backend.id, Queue.id)
        .join(Backend, Backend.project_id == Project.id)
        .join(Queue, Queue.project_id == Project.id)
        .where(Project.name == project, Queue.name == "main")
    ).first()
    assert row is not None, f"{project} has no backend"
    return Place(row[0], row[1], row[2], person, other, step)


def _sqlite() -> bool:
    return db.engine.dialect.name == "sqlite"


def _id(prefix: str, number: str = "i") -> str:
    """SQL for an id that sorts by `number`."""
    zeros = "0" * 26
    if _sqlite():
        return f"'{prefix}_' || substr('{zeros}' || ({number}), -26)"
    return f"'{prefix}_' || right('{zeros}' || ({number}), 26)"


def _ago(seconds: str) -> str:
    """SQL for the moment so many seconds before :moment."""
    if _sqlite():
        return f"strftime('%Y-%m-%d %H:%M:%S.000000', :moment, '-' || ({seconds}) || ' seconds')"
    return f"(CAST(:moment AS timestamptz) - ({seconds}) * interval '1 second')"


def _text(pattern: str) -> str:
    """SQL for a JSON string of a pattern with {i}, {j}, {k} and {word}."""
    said = dumps(pattern).replace("'", "''").replace(":", "\\:")
    sender = " ".join(f"WHEN {number} THEN '{who}'" for number, who in enumerate(SENDERS))
    for name, sql in (
        ("i", "i"), ("j", "i % 997"), ("k", "i % 29 + 1"),
        ("word", f"CASE i % 4 {sender} END"),
    ):  # fmt: skip
        said = said.replace(f"{{{name}}}", f"' || ({sql}) || '")
    return f"'{said}'"


def _run(session: Session, table: str, columns: dict[str, str], first: int, last: int, **values: Any) -> None:
    """INSERT one row for each number i from `first` to `last`, its columns by SQL."""
    numbers = (
        "WITH RECURSIVE n (i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)"
        if _sqlite()
        else "WITH n AS (SELECT i FROM generate_series(CAST(:first AS int), CAST(:last AS int)) AS s (i))"
    )
    listed = ", ".join(
        f"CAST({sql} AS json)" if name in JSON_COLUMNS and not _sqlite() else sql
        for name, sql in columns.items()
    )
    moment = now().replace(microsecond=0)
    given = {
        "first": first,
        "last": last,
        "moment": moment.strftime("%Y-%m-%d %H:%M:%S+00")
        if not _sqlite()
        else moment.strftime("%Y-%m-%d %H:%M:%S"),
    }
    session.execute(
        text(f'INSERT INTO "{table}" ({", ".join(columns)}) {numbers} SELECT {listed} FROM n'), given | values
    )


def _patient(session: Session) -> None:
    if not _sqlite():
        session.execute(text("SET LOCAL statement_timeout = 0"))


def items(where: Place, first: int, last: int, status: str = "pending", route: str = "review") -> None:
    """Items number `first` to `last`, one second apart, the newest now, each with its key."""
    if last < first:
        return
    created = _ago(f"({last} - i) * {where.step}")
    columns = {
        "number": "i", "id": _id("itm"), "project_id": ":project", "backend_id": ":backend",
        "external_id": "'req-' || i", "content_sha256": _digest(), "created_at": created,
        "status": ":status", "sequence": "0" if status == "pending" else "1", "round": "1",
        "output": _text(OUTPUT), "input": _text(INPUT), "model": "'model-' || (i % 3)",
        "usage": _json({"input_tokens": 200, "output_tokens": 40, "cost_usd": 0.002, "latency_ms": 800}),
        "arm": "CASE i % 10 WHEN 0 THEN 'control' ELSE 'examples' END",
        "policy_version": "1", "route": ":route", "route_queue": "'main'",
        "route_reasons": _json([{"code": "confidence_below", "message": "confidence 0.3 is below 0.8"}]),
        "confidence": "0.3", "confidence_source": "'given'", "eligible": _true(), "passed": _false(),
        "confidence_below": "0.8", "review_probability": "1", "floor_probability": "0.1", "coin": "0.5",
        "sampled": _false(),
    }  # fmt: skip
    with transaction() as session:
        _patient(session)
        _run(session, "item", columns, first, last, project=where.project, backend=where.backend,
             status=status, route=route)  # fmt: skip
        key = {"backend_id": ":backend", "key": "'key-' || i", "fingerprint": _digest(),
               "item_id": _id("itm"), "created_at": created}  # fmt: skip
        _run(session, "submission", key, first, last, backend=where.backend)
        if not _sqlite():
            session.execute(text("SELECT setval('item_number_seq', :last)"), {"last": last})


def _json(value: Any) -> str:
    """SQL for a constant; text() would take its colons for parameters."""
    return f"'{dumps(value)}'".replace(":", "\\:")


def _digest(end: str = "i") -> str:
    zeros = "0" * 64
    return f"substr('{zeros}' || {end}, -64)" if _sqlite() else f"right('{zeros}' || {end}, 64)"


def _true() -> str:
    return "1" if _sqlite() else "true"


def _false() -> str:
    return "0" if _sqlite() else "false"


def waiting(where: Place, first: int, last: int) -> None:
    """A review wanted and prepared for each of these items."""
    if last < first:
        return
    columns = {
        "id": _id("rev"), "item_id": _id("itm"), "item_number": "i", "project_id": ":project",
        "queue_id": ":queue", "purpose": "'gate'", "round": "1", "seat": "1", "state": "'wanted'",
        "rank": "CASE i % 20 WHEN 0 THEN 1 ELSE 2 END",
        "due_at": _ago(f"({last} - i) * {where.step} - 14400"),
        "created_at": _ago(f"({last} - i) * {where.step}"), "prepared_at": _ago("0"), "fence": "0",
    }  # fmt: skip
    if _sqlite():
        columns["due_at"] = _ago(f"({last} - i) * {where.step}").replace(
            "' seconds'", "' seconds', '+14400 seconds'"
        )
    with transaction() as session:
        _patient(session)
        _run(session, "review", columns, first, last, project=where.project, queue=where.queue)


def decided(where: Place, first: int, last: int) -> None:
    """A review given, its claim, a decision, a delivered callback and its attempt for each of these items."""
    if last < first:
        return
    at = _ago(f"({last} - i) * {where.step}")
    ours = {"project": where.project, "queue": where.queue, "backend": where.backend, "person": where.person}
    verdict = "CASE i % 5 WHEN 0 THEN 'edit' WHEN 1 THEN 'reject' ELSE 'approve' END"
    final = "CASE i % 5 WHEN 1 THEN NULL WHEN 0 THEN {} ELSE {} END".format(
        _text("Sorry. " + OUTPUT), _text(OUTPUT)
    )
    said = "CASE i % 5 WHEN 0 THEN 'tone' WHEN 1 THEN 'wrong fact' END"
    review = {
        "id": _id("rev"), "item_id": _id("itm"), "item_number": "i", "project_id": ":project",
        "queue_id": ":queue", "purpose": "'gate'", "round": "1", "seat": "1", "state": "'given'", "rank": "2",
        "due_at": at, "created_at": at, "prepared_at": at, "fence": "1", "claimed_by": ":person",
        "claim_token": "'tok-' || i", "claimed_at": at, "lease_expires_at": at, "decision_id": _id("dec"),
        "verdict": verdict, "reason": said, "given_by": ":person", "given_at": at, "dwell_ms": "8421",
    }  # fmt: skip
    claim = {"token": "'tok-' || i", "review_id": _id("rev"), "person_id": ":person", "fence": "1",
             "claimed_at": at, "ended_at": at, "ended": "'decided'"}  # fmt: skip
    released = f"CASE WHEN i % 5 = 1 THEN {_false()} ELSE {_true()} END"
    decision = {
        "id": _id("dec"), "item_id": _id("itm"), "project_id": ":project", "round": "1", "source": "'review'",
        "verdict": verdict, "released": released, "output": final,
        "edited": f"CASE WHEN i % 5 = 0 THEN {_true()} ELSE {_false()} END", "reason": said,
        "decided_by": ":person", "decided_at": at, "final_at": at, "policy_version": "1", "sequence": "1",
        "learned_at": at,
    }  # fmt: skip
    delivery = {
        "id": _id("evt"), "backend_id": ":backend", "item_id": _id("itm"), "decision_id": _id("dec"),
        "type": "'item.decided'", "sequence": "1", "body": ":body", "state": "'delivered'", "created_at": at,
        "attempts": "1", "cycle": "1", "next_attempt_at": at, "lease": "1", "ended_at": at,
    }  # fmt: skip
    attempt = {"id": _id("att"), "delivery_id": _id("evt"), "number": "1", "started_at": at, "ended_at": at,
               "outcome": "'ok'", "status": "200"}  # fmt: skip
    skip = {"review_id": _id("rev"), "person_id": ":person", "until": at}
    body = dumps({"type": "item.decided", "data": {"output": OUTPUT, "ledger": {"seq": 1}}}).encode()
    with transaction() as session:
        _patient(session)
        for table, columns, more in (
            ("review", review, {}), ("claim", claim, {}), ("decision", decision, {}),
            ("delivery", delivery, {"body": body}), ("attempt", attempt, {}), ("skip", skip, {}),
        ):  # fmt: skip
            used = {
                name: value
                for name, value in ours.items()
                if any(f":{name}" in sql for sql in columns.values())
            }
            _run(session, table, columns, first, last, **used, **more)


def examples(where: Place, first: int, last: int) -> None:
    """An active, indexed example for each of these decided items."""
    if last < first:
        return
    at = _ago(f"({last} - i) * {where.step}")
    columns = {
        "id": _id("exa"), "project_id": ":project", "decision_id": _id("dec"), "item_id": _id("itm"),
        "state": "'active'", "input": _text(INPUT), "input_text": _text(INPUT)[:1] + _text(INPUT)[2:-2] + "'",
        "input_sha256": _digest(), "output": _text("Sorry. " + OUTPUT), "rejected_output": _text(OUTPUT),
        "reason": "'tone'", "author_id": ":person", "created_at": at, "promoted_by": ":other",
        "promoted_at": at, "first_set": "1",
    }  # fmt: skip
    with transaction() as session:
        _patient(session)
        _run(session, "example", columns, first, last, project=where.project, person=where.person,
             other=where.other)  # fmt: skip
        sets = {"id": _id("set"), "project_id": ":project", "number": "i", "size": "i", "created_at": at,
                "created_by": "'system'"}  # fmt: skip
        if first == 1:
            _run(session, "example_set", sets, 1, 1, project=where.project)
            session.execute(text("UPDATE project SET example_set = 1 WHERE id = :id"), {"id": where.project})
        _index(session, where, first, last)


def _index(session: Session, where: Place, first: int, last: int) -> None:
    """The full-text index over those examples, with its counts."""
    scope = f"example:{where.project}"
    word = "".join(c for c in scope if c.isalnum())
    counts: dict[str, int] = {"": last - first + 1}
    rows = []
    for i in range(first, last + 1):
        found = words(INPUT.format(i=i, j=i % 997, k=i % 29 + 1, word=SENDERS[i % 4]))
        for each in set(found):
            counts[each] = counts.get(each, 0) + 1
        rows.append({"owner": f"exa_{i:026d}", "body": " ".join([word, f"exa{i:026d}", *found])})
        if len(rows) == 10_000:
            session.execute(text("INSERT INTO search_document (owner, body) VALUES (:owner, :body)"), rows)
            rows = []
    if rows:
        session.execute(text("INSERT INTO search_document (owner, body) VALUES (:owner, :body)"), rows)
    session.execute(
        text(
            "INSERT INTO search_term (scope, term, documents) VALUES (:scope, :term, :count)"
            " ON CONFLICT (scope, term) DO UPDATE SET documents = search_term.documents + excluded.documents"
        ),
        [{"scope": scope, "term": term, "count": count} for term, count in counts.items()],
    )


def entries(where: Place, first: int, last: int) -> None:
    """Two ledger entries for each of these decisions, for plans: they do not verify, but can be added to."""
    if last < first:
        return
    at = _ago(f"({last} - i) * {where.step}")
    with transaction() as session:
        _patient(session)
        size = session.get_one(LedgerHead, 1).size
        for place_, kind in enumerate(("decision", "delivery")):
            columns = {
                "seq": f"{size} + 2 * (i - {first}) + {place_}", "prev": _digest(f"'p{place_}' || i"),
                "leaf": _digest(f"'{kind[2]}' || i"), "body": ":body", "mac": _digest(),
                "mac_key_id": "'none'", "type": f"'{kind}'", "time": at,
                "item_id": _id("itm"), "decision_id": _id("dec"), "project_id": ":project",
                "actor": ":person",
            }  # fmt: skip
            part = {"seq": columns["seq"], "part": "'out'", "salt": ":body", "payload": ":body"}
            ours = {"project": where.project, "person": where.person}
            _run(session, "ledger_entry", columns, first, last, **ours, body=b'{"type":"none"}')
            _run(session, "ledger_part", part, first, last, body=b"x" * 32)
        end = session.get_one(LedgerHead, 1)
        end.size = size + 2 * (last - first + 1) + 1
        end.last_leaf = "f" * 64
        end.frontier = ["0" * 64] * end.size.bit_count()
        sealed = {"seq": end.size - 1, "prev": "e" * 64, "leaf": end.last_leaf, "mac": "0" * 64,
                  "mac_key_id": "none", "body": dumps({"last": last}).encode(), "type": "submissions.sealed",
                  "time": now()}  # fmt: skip
        session.execute(insert(LedgerEntry).values(**sealed))


def ledger(where: Place, first: int, last: int) -> int:
    """Two entries for each of these decisions, as deciding and delivering write them; how many there are now.

    Much faster than record(), in the same form: the ledger verifies.
    """
    key = current().key("ledger")
    with transaction() as session:
        head = session.get_one(LedgerHead, 1)
        chain = _Chain(key, head.origin, head.size, head.last_leaf, [bytes.fromhex(n) for n in head.frontier])
    told = _decisions(first, last)
    while batch := list(islice(told, BATCH)):
        entries: list[dict[str, Any]] = []
        parts: list[dict[str, Any]] = []
        for item, decision in batch:
            given = decision_parts(decision) | {"shown": dumps(item.output), "in": dumps(item.input)}
            facts = {
                "backend": where.backend,
                "queue": "main",
                "token": 1,
                "dwell_ms": 8421,
                "role": "reviewer",
            }
            chain.add("decision", decision_facts(decision) | facts, given, entries, parts)
            sent = {"event": f"evt{decision.id[3:]}", "endpoint": where.backend, "outcome": "delivered",
                    "attempts": 1, "item": item.id, "decision": decision.id, "project": where.project,
                    "actor": "system"}  # fmt: skip
            chain.add("delivery", sent, {}, entries, parts)
        with transaction() as session:
            session.connection().execute(insert(LedgerEntry), entries)
            session.connection().execute(insert(LedgerPart), parts)
            session.get_one(LedgerHead, 1).size = chain.size
            end = session.get_one(LedgerHead, 1)
            end.last_leaf, end.last_time = chain.prev, entries[-1]["time"]
            end.frontier = [node.hex() for node in chain.frontier]
    return chain.size


def _decisions(first: int, last: int) -> Iterator[Any]:
    number = first - 1
    while number < last:
        query = select(Item, Decision).join(Decision, Decision.item_id == Item.id)
        query = query.where(Item.number > number, Item.number <= last).order_by(Item.number).limit(BATCH)
        rows = db.session.execute(query).all()
        if not rows:
            return
        number = rows[-1][0].number
        yield from rows
        db.session.rollback()


@dataclass
class _Chain:
    key: bytes
    origin: str
    size: int
    prev: str
    frontier: list[bytes]

    def add(
        self, kind: str, said: dict[str, Any], given: dict[str, str],
        entries: list[dict[str, Any]], parts: list[dict[str, Any]],
    ) -> None:  # fmt: skip
        """One entry more, and its parts."""
        time = now()
        body: dict[str, Any] = {}
        for part, data in given.items():
            salt = os.urandom(canonical.SALT_BYTES)
            body[part] = canonical.commitment(salt, part, data.encode())
            parts.append({"seq": self.size, "part": part, "salt": salt, "payload": data.encode()})
        body |= {name: value for name, value in said.items() if value is not None}
        body |= {
            "v": 1,
            "log": self.origin,
            "seq": self.size,
            "prev": self.prev,
            "time": stamp(time),
            "type": kind,
        }
        data = json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()
        leaf = canonical.leaf_hash(data)
        columns = {column: body.get(name) for name, column in INDEXED.items()}
        entries.append(
            {"seq": self.size, "prev": self.prev, "leaf": leaf.hex(), "body": data, "type": kind,
             "time": time, "mac": canonical.mac(self.key, leaf),
             "mac_key_id": canonical.key_id(self.key),
             **columns}
        )  # fmt: skip
        self.frontier = canonical.grow(self.frontier, self.size, leaf)
        self.prev, self.size = leaf.hex(), self.size + 1


def analyse() -> None:
    """Let PostgreSQL count its rows, as its own upkeep would sooner or later; nobody does so on SQLite."""
    if _sqlite():
        return
    with db.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("SET statement_timeout = 0")
        try:
            connection.exec_driver_sql("ANALYZE")
        finally:
            connection.exec_driver_sql("RESET statement_timeout")  # the pool gives the connection to others


def ago(**units: float) -> datetime:
    """A moment in the past."""
    return now() - timedelta(**units)
