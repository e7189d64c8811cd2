"""Finding items by words and facts, on both databases."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Forbidden, Invalid
from reviewqueue.finding import catalogue
from reviewqueue.finding.asked import known, question
from reviewqueue.finding.find import count, find
from reviewqueue.models import Item


def ids(actor: Any, **given: str) -> list[str]:
    return [hit.item.id for hit in find(actor, question(given)).hits]


@pytest.fixture
def shop(make: Any) -> dict[str, Any]:
    """A few items, one of each fate, in two projects; the catalogue knows them all."""
    project = make.project(
        reasons=["tone", "wrong fact"],
        causes=["prompt", "model"],
        undo_seconds=600,
        confidence_below=0.8,
    )
    other = make.project("elsewhere", kind="label")
    ada, cleo = make.person("ada"), make.person("cleo")
    items = {
        "sure": make.item(project, output="Your bicycle is on its way.", confidence=0.95, model="m-1"),
        "edited": make.item(project, output="It left on Monday.", input="Where is Zoë?", model="m-1"),
        "rejected": make.item(project, output="Buy tulips!", model="m-2", external_id="req-77"),
        "waiting": make.item(
            project, output="Say '100%' \"now\" AND NEAR( never OR * :* & | !", confidence=0.4, risk=0.7,
            risk_flags=["toxic", "spam"], prompt={"name": "reply", "version": "v3"},
        ),
        "label": make.item(other, confidence=0.1),
    }  # fmt: skip
    make.decide(ada, items["edited"], "edit", "It left on Tuesday, by camel.", "tone", "prompt")
    make.decide(cleo, items["rejected"], "reject", None, "wrong fact", "model", "no flowers")
    catalogue.index_due()
    assert not catalogue.behind()
    return {name: item.id for name, item in items.items()} | {"ada": ada.id, "cleo": cleo}


def test_find_by_every_filter(make: Any, shop: dict[str, Any]) -> None:
    cases: list[tuple[dict[str, str], set[str]]] = [
        ({}, {"sure", "edited", "rejected", "waiting", "label"}),
        ({"text": "zoe"}, {"edited"}),
        ({"text": "BICYCLE way"}, {"sure"}),
        ({"text": "bicycle tulips"}, set()),
        ({"text": "camel"}, {"edited"}),  # in the correction alone
        ({"text": "flowers"}, {"rejected"}),  # in the note alone
        ({"text": "req-77"}, {"rejected"}),
        ({"text": shop["label"]}, {"label"}),
        ({"text": "'100%' \"now\" AND NEAR( never OR * :* & | !"}, {"waiting"}),
        ({"text": "bicyc* way"}, {"sure"}),
        ({"text": "flow*"}, {"rejected"}),  # in the note
        ({"text": "bicycles*"}, set()),
        ({"text": '"is on its way"'}, {"sure"}),
        ({"text": '"way on its"'}, set()),
        ({"text": "“Tuesday, by camel” mon*"}, {"edited"}),  # in the correction
        ({"text": '"monday where"'}, set()),  # one ends the output, one begins the input
        ({"text": '"near never" "or"', "flag": "spam"}, {"waiting"}),
        ({"text": '"near never', "status": "decided"}, set()),
        ({"project": "elsewhere"}, {"label"}),
        ({"project": "nowhere"}, set()),
        ({"queue": "support-replies/main"}, {"edited", "rejected", "waiting"}),
        ({"status": "released"}, {"sure"}),
        ({"status": "decided"}, {"edited", "rejected"}),
        ({"verdict": "reject"}, {"rejected"}),
        ({"reason": "tone"}, {"edited"}),
        ({"cause": "model"}, {"rejected"}),
        ({"person": shop["ada"]}, {"edited"}),
        ({"model": "m-1"}, {"sure", "edited"}),
        ({"model": "m-1", "status": "decided", "text": "monday"}, {"edited"}),
        ({"model": "m-2", "text": "monday"}, set()),
        ({"prompt": "reply@v3"}, {"waiting"}),
        ({"flag": "spam"}, {"waiting"}),
        ({"flag": "spam", "text": "never"}, {"waiting"}),
        ({"flag": "none"}, set()),
        ({"confidence_from": "0.9"}, {"sure"}),
        ({"confidence_to": "0.2"}, {"label"}),
        ({"risk_from": "0.5", "risk_to": "0.8", "text": "now"}, {"waiting"}),
        ({"within": "1"}, {"sure", "edited", "rejected", "waiting", "label"}),
        ({"age": "1"}, set()),
        ({"overdue": "yes"}, set()),
    ]
    for given, expected in cases:
        assert set(ids(shop["cleo"], **given)) == {shop[name] for name in expected}, given
        assert count(shop["cleo"], question(given)) == len(expected), given


HOSTILE = (
    '"a b" OR cde*', 'abc*" ""', "abc** *abc", "{words} : abc*", "^abc* -def", "NEAR(abc*, 2)", "'abc':*",
    "abc* & !def", "\\'abc*", '"a\x00b c"', "__status_123* _abc*", "(abc*", '"\'abc\' def*"', "abc*:B",
)  # fmt: skip


def test_no_sign_reaches_the_index(make: Any, shop: dict[str, Any]) -> None:
    for text in HOSTILE:
        assert ids(shop["cleo"], text=text) == [], text


def test_find_goes_through_all_pages_newest_first(make: Any, shop: dict[str, Any]) -> None:
    whole = list(db.session.scalars(select(Item.id).order_by(Item.number.desc())))
    for given in ({}, {"within": "1"}):
        seen: list[str] = []
        after = None
        while True:
            found = find(shop["cleo"], question(given), after=after, limit=2)
            seen += [hit.item.id for hit in found.hits]
            if (after := found.after) is None:
                break
        assert seen == whole


@pytest.mark.parametrize(
    ("given", "pointer"),
    [
        ({"text": "%"}, "text"), ({"text": '* "" :*'}, "text"), ({"text": "ab*"}, "text"),
        ({"status": "lost"}, "status"), ({"verdict": "maybe"}, "verdict"),
        ({"confidence_from": "2"}, "confidence_from"), ({"risk_to": "nan"}, "risk_to"),
        ({"age": "soon"}, "age"), ({"within": "-1"}, "within"),
    ],
)  # fmt: skip
def test_question_refuses_what_makes_no_sense(make: Any, given: dict[str, str], pointer: str) -> None:
    with pytest.raises(Invalid) as refused:
        question(given)
    assert refused.value.errors[0]["pointer"] == pointer


def test_find_is_for_overseers(make: Any) -> None:
    ada = make.person("ada")
    for verb in (find, count):
        with pytest.raises(Forbidden):
            verb(ada, question({}))


def test_find_keeps_what_a_reviewer_said_while_another_review_is_open(make: Any) -> None:
    project = make.project(reviews=2)
    item, cleo = make.item(project), make.person("cleo")
    make.decide(make.person("ada"), item, "reject", reason="tone", note="a secret remark")
    catalogue.index_due()
    assert ids(cleo, text="remark") == []
    make.decide(make.person("dora"), item, "reject", reason="tone")
    catalogue.index_due()
    assert ids(cleo, text="remark") == [item.id]


def test_the_catalogue_follows_undo_and_escalation(make: Any) -> None:
    from reviewqueue.review.decide import escalate, undo

    rules = [{"name": "r", "when": [{"field": "risk", "op": "gt", "value": 0.9}], "queue": "seniors"}]
    project = make.project(undo_seconds=600, rules=[rule | {"route": "review"} for rule in rules])
    item, ada, cleo = make.item(project), make.person("ada"), make.person("cleo")
    given = make.decide(ada, item, "edit", "By camel.", "tone")
    catalogue.index_due()
    assert ids(cleo, text="camel", verdict="edit") == [item.id]
    claim = undo(ada, given.decision.id)
    catalogue.index_due()
    assert ids(cleo, text="camel") == [] == ids(cleo, verdict="edit")
    assert ids(cleo, status="pending", queue="support-replies/main") == [item.id]
    escalate(ada, claim.token, "seniors")
    assert catalogue.behind()
    catalogue.index_due()
    assert ids(cleo, queue="support-replies/main") == []
    assert ids(cleo, queue="support-replies/seniors") == [item.id]


def test_an_item_that_committed_late_is_found(make: Any) -> None:
    """On PostgreSQL a number can be taken first and appear last."""
    project, cleo = make.project(), make.person("cleo")
    early, late = make.item(project, output="early bird"), make.item(project, output="late bird")
    catalogue.index_due()
    with transaction() as session:
        session.execute(catalogue.Card.__table__.delete().where(catalogue.Card.number == early.number))
    make.decide(make.person("ada"), late, "approve")
    assert catalogue.behind()
    catalogue.index_due()
    assert set(ids(cleo, status="pending")) == {early.id}


def test_a_slow_job_never_writes_what_was_true_before(make: Any) -> None:
    """Two jobs at once: the one that read earlier writes later, and is refused."""
    project, ada, cleo = make.project(), make.person("ada"), make.person("cleo")
    item = make.item(project)
    catalogue.index_due()
    make.decide(ada, make.item(project), "approve")
    slow = catalogue._changed()
    assert slow is not None
    make.decide(ada, item, "approve")
    catalogue.index_due()
    db.session.rollback()
    assert catalogue._write(slow) == 0
    assert item.id in ids(cleo, status="decided")
    assert not catalogue.behind()


def test_overdue_is_found_by_the_time_it_is_now(make: Any) -> None:
    from reviewqueue.models import Review

    project, cleo = make.project(), make.person("cleo")
    item = make.item(project)
    with transaction() as session:
        session.execute(update(Review).values(due_at=now() - timedelta(minutes=1)))
    catalogue.index_due()
    assert ids(cleo, overdue="yes") == [item.id]
    assert known("project") == [project.id]


def test_alike_is_the_same_for_the_same_words(make: Any) -> None:
    project, labels = make.project(), make.project("labels", kind="label")
    said = [
        make.item(project, output=output, input=asked)
        for output, asked in (
            ("Your parcel has left our house, on Monday.", "a"),
            ("your  parcel has left OUR house on monday", "b"),
            ("Your parcel has left our house on Tuesday.", "a"),
        )
    ]
    one, two, three = (catalogue.alike(item) for item in said)
    assert one == two != three
    short = [catalogue.alike(make.item(labels, input=asked)) for asked in ("Money back", "money back!", "Hi")]
    assert short[0] == short[1] != short[2]
