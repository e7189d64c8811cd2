"""What waits where: the desk, the lists, who holds what."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Forbidden, Invalid, Missing
from reviewqueue.models import Item, Queue, Review
from reviewqueue.people.access import Actor
from reviewqueue.review import claim as claims
from reviewqueue.review.decide import escalate
from reviewqueue.review.queues import Filters, Row, history, holding, matching, overview, page, reasons_told

RULES = [
    {
        "name": "refund", "when": [{"field": "risk", "op": "gt", "value": 0.9}], "route": "review",
        "queue": "seniors", "priority": "high",
    },
    {
        "name": "hot", "when": [{"field": "risk", "op": "gt", "value": 0.8}], "route": "review",
        "queue": "main", "priority": "urgent",
    },
]  # fmt: skip


def queue_of(project: Any, name: str) -> Queue:
    return db.session.scalars(select(Queue).where(Queue.project_id == project.id, Queue.name == name)).one()


def ids(rows: list[Row]) -> list[str]:
    return [row.item.id for row in rows]


def shift(item: Any, **columns: Any) -> None:
    with transaction() as session:
        session.execute(update(Review).where(Review.item_id == item.id).values(**columns))


def test_overview_counts_what_waits_in_my_queues(make: Any) -> None:
    project = make.project(rules=RULES, confidence_below=0.8)
    items = [make.item(project) for _ in range(4)]
    make.item(project, risk=0.95)
    shift(items[0], due_at=now() - timedelta(minutes=1), created_at=now() - timedelta(hours=3))
    ada, cleo = make.person("ada"), make.person("cleo")
    claims.claim_item(ada, items[1].id)
    claims.claim_item(cleo, items[2].id)
    main, *others = overview(ada)
    assert (main.queue.name, [line.queue.name for line in others]) == ("main", ["seniors"])
    assert (main.waiting, main.held, main.mine, main.overdue, main.more) == (2, 2, 1, 1, False)
    assert main.oldest is not None
    assert now() - main.oldest > timedelta(hours=2)
    assert (others[0].waiting, others[0].oldest is not None) == (1, True)
    assert {line.queue.name for line in overview(cleo)} == {"main", "seniors", "adjudication"}
    ben = make.person("ben", queues=[queue_of(project, "seniors")])
    assert [line.queue.name for line in overview(ben)] == ["seniors"]
    assert overview(make.person("mallory")) == []


def test_overview_is_for_people(make: Any) -> None:
    with pytest.raises(Forbidden):
        overview(Actor("bck_1", "backend"))


def test_overview_stops_counting(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    project = make.project()
    for _ in range(4):
        make.item(project)
    monkeypatch.setattr("reviewqueue.review.queues.COUNTED", 3)
    [line] = overview(make.person("ada"))
    assert (line.waiting, line.more) == (3, True)


def test_page_is_in_the_order_in_which_claims_are_given(make: Any) -> None:
    project = make.project(rules=RULES, confidence_below=0.8)
    first, second = make.item(project), make.item(project)
    hot = make.item(project, risk=0.85)
    ada = make.person("ada")
    rows = page(ada, project.name, "main").rows
    assert ids(rows) == [hot.id, first.id, second.id]
    assert (rows[0].priority, rows[1].priority, rows[0].overdue) == ("urgent", "normal", False)
    claim = claims.claim_next(ada, queue_of(project, "main"))
    assert claim is not None
    assert db.session.get_one(Review, claim.review_id).item_id == rows[0].item.id
    assert ids(page(ada, project.name, "main", sort="newest").rows) == [hot.id, second.id, first.id]


@pytest.mark.parametrize("sort", ["queue", "newest"])
def test_page_by_page_shows_every_row_once(make: Any, sort: str) -> None:
    project = make.project(rules=RULES, confidence_below=0.8)
    items = [make.item(project, risk=0.85 if n % 3 == 0 else 0.1) for n in range(11)]
    shift(items[4], due_at=now() + timedelta(minutes=1))
    ada = make.person("ada")
    whole = ids(page(ada, project.name, "main", sort=sort).rows)
    seen: list[str] = []
    cursor = None
    while True:
        part = page(ada, project.name, "main", sort=sort, cursor=cursor, limit=3)
        seen += ids(part.rows)
        cursor = part.next_cursor
        if cursor is None:
            break
        assert len(part.rows) == 3
    assert seen == whole
    assert set(seen) == {item.id for item in items}


@pytest.mark.parametrize("cursor", ["x", "bnVsbA", "WyJuZXdlc3QiLDEsImEiXQ", "é", "W10", "WyJxdWV1ZSIsMV0"])
def test_page_refuses_a_cursor_it_did_not_give(make: Any, cursor: str) -> None:
    project = make.project()
    make.item(project)
    with pytest.raises(Invalid):
        page(make.person("ada"), project.name, "main", cursor=cursor)


def test_page_is_narrowed_by_each_filter(make: Any) -> None:
    project = make.project(rules=RULES, confidence_below=0.8)
    old, hot, late = (make.item(project, risk=risk) for risk in (0.1, 0.85, 0.1))
    shift(old, created_at=now() - timedelta(hours=5))
    shift(late, due_at=now() - timedelta(minutes=1))
    ada = make.person("ada")
    claims.claim_item(make.person("cleo"), late.id)
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({}, {old.id, hot.id, late.id}),
        ({"priority": "urgent"}, {hot.id}),
        ({"age": 4}, {old.id}),
        ({"overdue": True}, {late.id}),
        ({"only": [Review.item_id == hot.id]}, {hot.id}),
        ({"claimed": True}, {late.id}),
        ({"claimed": False}, {old.id, hot.id}),
        ({"claimed": True, "overdue": True, "priority": "urgent"}, set()),
    ]
    for fields, expected in cases:
        assert set(ids(page(ada, project.name, "main", Filters(**fields)).rows)) == expected, fields
        assert matching(ada, project.name, "main", Filters(**fields), 2) == min(len(expected), 2), fields


@pytest.mark.parametrize(
    ("fields", "pointer"),
    [
        ({"priority": "soon"}, "priority"), ({"age": -1}, "age"),
    ],
)  # fmt: skip
def test_page_refuses_a_filter_it_does_not_have(make: Any, fields: dict[str, Any], pointer: str) -> None:
    project = make.project()
    with pytest.raises(Invalid) as refused:
        page(make.person("ada"), project.name, "main", Filters(**fields))
    assert refused.value.errors[0]["pointer"] == pointer


def test_page_of_a_queue_that_is_not_mine_is_missing(make: Any) -> None:
    project = make.project()
    make.item(project)
    for name in ("ben", "mallory"):
        with pytest.raises(Missing):
            page(make.person(name), project.name, "main")
    with pytest.raises(Missing):
        page(make.person("ada"), project.name, "adjudication")
    assert len(page(make.person("aud"), project.name, "main").rows) == 1


def test_a_row_never_tells_a_control_review_from_any_other(make: Any) -> None:
    project = make.project(confidence_below=0.5, control_rate=1.0)
    gate, control = make.item(project, confidence=0.3), make.item(project, confidence=0.9)
    statuses = {item.id: item.status for item in db.session.scalars(select(Item))}
    assert statuses == {gate.id: "pending", control.id: "released"}
    one, other = page(make.person("ada"), project.name, "main").rows
    assert one.reasons == other.reasons == [{"code": "policy", "message": "chosen by the project's policy"}]
    told = {field.name for field in dataclasses.fields(Row)}
    assert not told & {"purpose", "status", "confidence", "round", "source"}


def test_reasons_told_name_rules(make: Any) -> None:
    project = make.project(rules=RULES, confidence_below=0.8)
    hot = make.item(project, risk=0.85, confidence=0.2)
    assert [reason["code"] for reason in reasons_told(hot)] == ["rule:hot"]


def test_holding_is_what_i_hold_now(make: Any) -> None:
    project = make.project()
    one, two, other = (make.item(project) for _ in range(3))
    ada = make.person("ada")
    tokens = [claims.claim_item(ada, item.id).token for item in (two, one)]
    claims.claim_item(make.person("cleo"), other.id)
    rows = holding(ada)
    assert ids(rows) == [two.id, one.id]
    assert [row.token for row in rows] == tokens
    assert all(row.token is None for row in page(make.person("cleo"), project.name, "main").rows[:2])
    shift(one, lease_expires_at=now() - timedelta(seconds=1))
    assert ids(holding(ada)) == [two.id]


def test_page_says_who_holds_a_row(make: Any) -> None:
    project = make.project()
    item = make.item(project)
    claims.claim_item(make.person("cleo"), item.id)
    [row] = page(make.person("ada"), project.name, "main").rows
    assert (row.holder, row.mine, row.token) == ("Cleo", False, None)


def test_history_keeps_remarks(make: Any) -> None:
    project = make.project(rules=RULES)
    item = make.item(project)
    ada, cleo = make.person("ada"), make.person("cleo")
    review_id = claims.claim_item(ada, item.id).review_id
    claims.skip(ada, holding(ada)[0].token or "", "not mine")
    escalate(cleo, claims.claim_item(cleo, item.id).token, "seniors", "legal?")
    assert [(turn.person, turn.ended, turn.remark) for turn in history(review_id)] == [
        ("Ada", "skipped", "not mine"), ("Cleo", "escalated", "legal?"),
    ]  # fmt: skip


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("ask", "index"),
    [("claim", "ix_review_waiting"), ("queue", "ix_review_waiting"), ("newest", "ix_review_newest")],
)
def test_lists_and_claims_read_an_index_in_its_own_order(make: Any, ask: str, index: str) -> None:
    project = make.project()
    make.item(project)
    ada, queue = make.person("ada"), queue_of(project, "main")
    plans: list[str] = []

    def explain(connection: Any, cursor: Any, statement: str, values: Any, *_: Any) -> None:
        if "ORDER BY" in statement and "review" in statement and not statement.startswith("EXPLAIN"):
            cursor.execute(f"EXPLAIN QUERY PLAN {statement}", values)
            plans.append("\n".join(row[-1] for row in cursor.fetchall()))

    event.listen(db.engine, "before_cursor_execute", explain)
    try:
        if ask == "claim":
            claims.claim_next(ada, queue)
        else:
            page(ada, project.name, "main", sort=ask, limit=1)
    finally:
        event.remove(db.engine, "before_cursor_execute", explain)
    [plan] = [plan for plan in plans if index in plan]
    assert "TEMP B-TREE" not in plan
