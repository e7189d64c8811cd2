"""Every query of a page, the API, a verb or a job finds its rows by an index: no big table is read through.

Everything is visited once on a filled database, every statement remembered and its plan asked for.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import event, select, text

from bench import fill
from reviewqueue import background
from reviewqueue.db import Base, db, transaction
from reviewqueue.finding import catalogue
from reviewqueue.ids import new_id
from reviewqueue.models import Backend, Decision, Delivery, Endpoint, Example, Item
from reviewqueue.models.finding import Card, Mark
from tests.desk.test_claim_pages import decided, form_of

RELEASE = 100_000
ROWS = int(os.environ.get("PLAN_ROWS") or 5_000)
YEARS = 2 * 365 * 86_400  # seconds over which the items are spread

BIG = (
    "item", "review", "claim", "decision", "delivery", "attempt", "ledger_entry", "ledger_part", "submission",
    "example", "skip", "search_document", "search_item",
)  # fmt: skip

# Addresses that may read a big table through, and why.
ALLOWED = {
    "/metrics": "counts everything, and remembers it for a hundred times as long as counting took",
    "/deliveries": "the newest of any state: it stops after a page",
}


class Recorder:
    """The statements of the application, each once, with what they were given."""

    def __init__(self) -> None:
        self.seen: dict[str, tuple[str, Any]] = {}
        self.where = ""

    def hear(self, _c: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool) -> None:
        if re.match(r"\s*(SELECT|UPDATE|DELETE|WITH|INSERT .* SELECT)", statement, re.I | re.S):
            shape = re.sub(r"\(\s*(\?|%\(\w+\)s|,|\s|::\w+)+\)", "(…)", statement)
            self.seen.setdefault(shape, (self.where, (statement, values[0] if many else values)))

    @contextmanager
    def listening(self) -> Iterator[None]:
        event.listen(db.engine, "before_cursor_execute", self.hear)
        try:
            yield
        finally:
            event.remove(db.engine, "before_cursor_execute", self.hear)


def plan(statement: str, values: Any) -> list[str]:
    """How the database would find the rows, a line for each table; SCAN reads all of it."""
    with db.engine.connect() as connection:
        cursor = connection.connection.cursor()
        if connection.dialect.name == "sqlite":
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", values)
            return [row[3] for row in cursor.fetchall()]
        if ROWS < RELEASE:
            cursor.execute("SET enable_seqscan = off")  # of few rows it would read all, and rightly
        cursor.execute(f"EXPLAIN (FORMAT JSON) {statement}", values)
        return list(_nodes(cursor.fetchone()[0][0]["Plan"]))


def _nodes(node: dict[str, Any]) -> Iterator[str]:
    """PostgreSQL's plan in SQLite's words."""
    if "Relation Name" in node and node["Node Type"] != "ModifyTable":
        found = node.get("Index Cond") or node.get("Recheck Cond") or node.get("TID Cond")
        index = f" USING INDEX {node['Index Name']}" if "Index Name" in node else ""
        yield f"{'SEARCH' if found else 'SCAN'} {node['Alias']}{index}"
    if node["Node Type"] == "Sort":
        yield "USE TEMP B-TREE FOR ORDER BY"
    for inner in node.get("Plans", ()):
        yield from _nodes(inner)


# What is in these is work that waits: they are as short as what is left to do.
PARTIAL = {
    index.name
    for table in Base.metadata.tables.values()
    for index in table.indexes
    if index.dialect_options["sqlite"]["where"] is not None
}


def read_through(statement: str, lines: list[str]) -> list[str]:
    """The lines of a plan that read all of a big table."""
    names = {name: name for name in BIG}
    for table, alias in re.findall(r'(?:FROM|JOIN|,)\s+"?(\w+)"?\s+AS\s+"?(\w+)"?', statement):
        names.setdefault(alias, table)
    bad = []
    for line in lines:
        found = re.match(r"SCAN (\w+)(?:.* INDEX (\w+))?(.*)", line)
        if found is None or (table := names.get(found[1])) not in BIG or found[2] in PARTIAL:
            continue
        # Without a condition, in the order of an index and up to a LIMIT, reading stops at once.
        first = re.search(rf"FROM {table}( AS \w+)?\s+ORDER BY [^()]*\bLIMIT\b", statement)
        virtual = re.search(r"VIRTUAL TABLE INDEX \d+:.", line)  # it says what it looks words up by
        if not virtual and not (first and "USE TEMP B-TREE FOR ORDER BY" not in lines):
            bad.append(line)
    return bad


@pytest.fixture
def filled(app: Flask, make: Any) -> fill.Place:
    """Items decided, released and waiting, with all that hangs on them."""
    project = make.project(undo_seconds=10)
    backend = make.backend(project).backend
    with transaction() as session:
        endpoint = {"url": "https://example.org/", "state": "active", "created_at": fill.now()}
        session.add(Endpoint(backend_id=backend.id, **endpoint))
    ada, cleo = make.person("ada"), make.person("cleo")
    where = fill.place(project.name, ada.id, cleo.id, step=YEARS // ROWS)
    done = ROWS // 2
    fill.items(where, 1, done, "decided")
    fill.decided(where, 1, done)
    fill.items(where, done + 1, ROWS * 3 // 4, "released", "release")
    fill.items(where, ROWS * 3 // 4 + 1, ROWS)
    fill.waiting(where, ROWS * 3 // 4 + 1, ROWS)
    fill.entries(where, 1, done)
    fill.examples(where, 1, done // 2)
    with transaction() as session:
        # The catalogue's job is near its end, too.
        session.add(Mark(name=catalogue.LEDGER, at=ROWS - 100))
        session.add(Card(number=ROWS, project=1, status=0, created=0))
    fill.analyse()
    return where


def _path(rule: Any, given: dict[str, Any]) -> str:
    values = {name: given.get(name, f"{name}-x") for name in rule.arguments}
    if rule.endpoint.startswith("delivery.") and "delivery_id" in values:
        values["delivery_id"] = given["delivery_id"]
    return str(rule.build(values, append_unknown=False)[1])


# Addresses with the filters a list offers; the route alone would show the unfiltered list only.
FILTERED = (
    "/examples?state=active", "/examples?reason=tone", "/examples?project=support-replies",
    "/audit?kind=delivery",
    "/audit?person={person}", "/audit?project=support-replies", "/audit?item={item_id}",
    "/audit?since=2025-06-01&until=2025-07-01", "/deliveries?state=dead", "/deliveries?state=delivered",
    "/deliveries?project=support-replies", "/items?project=support-replies",
    "/insight?project=support-replies",
    "/queues/support-replies/main?sort=newest", "/queues/support-replies/main?overdue=yes",
    "/queues/support-replies/main?priority=high",
)  # fmt: skip
API = (
    "/api/v1/items?project=support-replies", "/api/v1/items?status=pending",
    "/api/v1/items?external_id=req-7",
    "/api/v1/items?since=2026-01-01T00:00:00Z", "/api/v1/items/{item_id}",
    "/api/v1/projects/support-replies/example-sets/1", "/api/v1/projects/support-replies/examples/export",
)  # fmt: skip


def _visit_everything(app: Flask, make: Any, client: Any, recorder: Recorder) -> None:
    project = make.project()
    key = make.backend(project).api_key
    waiting = db.session.scalars(select(Item).where(Item.status == "pending").limit(1)).one()
    gone = db.session.scalars(select(Decision).limit(1)).one()
    delivery = db.session.scalars(select(Delivery).limit(1)).one()
    given = {
        "project": "support-replies", "queue": "main", "item_id": gone.item_id, "seq": 5, "number": 1,
        "name": db.session.scalars(select(Backend.name)).first(), "delivery_id": delivery.id,
        "example_id": db.session.scalars(select(Example.id)).first(), "person": make.person("ada").id,
        "person_id": make.person("ada").id, "backend": "support-replies-backend",
    }  # fmt: skip
    visitors = {name: client(make.person(name)) for name in ("ada", "cleo", "dora")}

    def asked(where: str, who: Any, method: str, path: str, **data: Any) -> Any:
        recorder.where = f"{where} {path}"
        answer = getattr(who, method)(path, **data)
        assert answer.status_code < 500, f"{path}: {answer.status_code}"
        return answer

    with recorder.listening():
        for rule in app.url_map.iter_rules():
            if "GET" in (rule.methods or ()) and rule.endpoint != "static":
                for name in ("ada", "dora"):
                    asked(name, visitors[name], "get", _path(rule, given))
        for address in FILTERED:
            asked("dora", visitors["dora"], "get", address.format(**given))
        headers = {"Authorization": f"Bearer {key}"}
        for address in API:
            asked("api", client(), "get", address.format(**given), headers=headers)
        body = {"project": "support-replies", "output": "x", "confidence": 0.3}
        for path, data in (
            ("/api/v1/items", body), ("/api/v1/items", {**body, "external_id": "req-5"}),
            ("/api/v1/items/batch", {"items": [body, {**body, "external_id": "req-6"}]}),
            (f"/api/v1/items/{waiting.id}/withdrawal", {}),
            ("/api/v1/projects/support-replies/examples/search",
             {"input": "where is parcel 17 that a friend sent to street 20", "k": 5}),
        ):  # fmt: skip
            asked(
                "api",
                client(),
                "post",
                path,
                headers={**headers, "Idempotency-Key": new_id("key")},
                json=data,
            )
        _review(recorder, visitors, given)
        _run_jobs(recorder)


def _review(recorder: Recorder, visitors: dict[str, Any], given: dict[str, Any]) -> None:
    """What a reviewer and a lead do on the pages."""
    ada, cleo = visitors["ada"], visitors["cleo"]
    queue = "/queues/support-replies/main"

    def claim() -> str:
        recorder.where = "claim"
        return str(ada.send(f"{queue}/claims").location)

    recorder.where = "decide"
    answer = decided(ada, claim(), "edit", output="Something else.", reason="tone")
    assert answer.status_code == 303, answer.text
    newest = db.session.scalars(
        select(Decision.id).where(Decision.decided_by == given["person"]).order_by(Decision.decided_at.desc())
    ).first()
    recorder.where = "undo"
    ada.send(f"/decisions/{newest}/undo")
    for verb, data in (("skip", {"reason": "later"}), ("release", {})):
        address = claim()
        recorder.where = verb
        ada.send(f"{address}/{verb}", data)
    address = claim()
    recorder.where = "draft"
    ada.put(address, data={**form_of(ada.get(address).text), "output": "A draft"})
    recorder.where = "override"
    cleo.send(f"/items/{given['item_id']}/overrides", {"verdict": "reject", "reason": "tone"})
    recorder.where = "replay"
    visitors["dora"].send(f"/deliveries/{given['delivery_id']}/replay")
    for verb in ("promotion", "retirement"):
        recorder.where = verb
        cleo.send(f"/examples/{given['example_id']}/{verb}")
    recorder.where = "search by hand"
    cleo.send(
        "/examples/projects/support-replies/search",
        {"input": "where is parcel 17", "k": "5", "max_tokens": "500"},
    )


def _run_jobs(recorder: Recorder) -> None:
    for name in background.JOBS:
        recorder.where = f"is {name} due"
        background.due(name)
        recorder.where = f"job {name}"
        if name != "deliver":  # which calls out
            background.run(name)
        db.session.rollback()


@pytest.fixture
def unprejudiced(request: pytest.FixtureRequest) -> Any:
    """Makes PostgreSQL forget that all rows are of one project, and that reading all of them is right."""

    def forget() -> None:
        if db.engine.dialect.name == "postgresql":
            request.getfixturevalue("postgres").admin(
                "DELETE FROM pg_statistic WHERE starelid > 16383", "test"
            )

    return forget


def test_no_query_reads_a_big_table_through(app, make, client, filled, unprejudiced):
    recorder = Recorder()
    _visit_everything(app, make, client, recorder)
    unprejudiced()
    assert len(recorder.seen) > 150
    bad = {}
    for where, (statement, values) in recorder.seen.values():
        lines = plan(statement, values)
        if (scans := read_through(statement, lines)) and where.split()[-1] not in ALLOWED:
            bad[statement] = f"{where}: {scans}\n    {' '.join(statement.split())[:1500]}"
    assert not bad, f"{len(bad)} statements\n" + "\n".join(sorted(bad.values()))


def test_a_query_without_an_index_is_noticed(app, make, client, filled, unprejudiced):
    """The same eye, on a query that nobody should write, and with an index taken away."""
    unprejudiced()
    recorder = Recorder()
    with recorder.listening():
        db.session.execute(text("SELECT * FROM item WHERE subject = :who"), {"who": "x"})
        db.session.execute(select(Item.id).where(Item.id == "itm_x")).all()
    found = [
        bool(read_through(statement, plan(statement, values)))
        for _, (statement, values) in recorder.seen.values()
    ]
    assert found == [True, False]
    with transaction() as session:
        session.execute(text("DROP INDEX ix_ledger_entry_item"))
    item = db.session.scalars(select(Item.id).limit(1)).one()
    recorder.where = "item page"
    with recorder.listening():
        client(make.person("dora")).get(f"/items/{item}")
    assert any(
        read_through(sql, plan(sql, values)) for where, (sql, values) in recorder.seen.values() if where
    )
