"""Many items decided at once, in the browser: preview, group, result, undo; all without script."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from reviewqueue.db import db
from reviewqueue.finding import batch, catalogue
from reviewqueue.models import Decision, Item
from tests.desk.test_claim_pages import claimed
from tests.desk.test_claim_pages import decided as sent

pytestmark = pytest.mark.sqlite  # what depends on the database is tested in tests/finding

QUEUE = "/queues/support-replies/main"


@pytest.fixture(autouse=True)
def _nobody_by_lot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch, "ONE_IN", 10**9)


def marked(page: str) -> list[str]:
    return re.findall(r'<input type="checkbox" name="item" value="(itm_\w+)" checked', page)


def decided() -> int:
    return (
        db.session.scalar(select(func.count()).select_from(Decision).where(Decision.undone_at.is_(None))) or 0
    )


def test_all_that_match_are_previewed_decided_and_taken_back(make: Any, client: Callable[..., Any]) -> None:
    project = make.project(undo_seconds=600, reasons=["tone"], confidence_below=0.8, risk_above=0.6)
    hostile = make.item(project, output="<b>spam</b> one", risk=0.1)
    make.item(project, output="spam two")
    make.item(project, output="fine")
    make.item(project, output="spam three", risk=0.9)
    catalogue.index_due()
    ada = client(make.person("ada"))
    assert 'name="all"' in ada.get(f"{QUEUE}?text=spam").text
    page = ada.get(f"{QUEUE}/triage?text=spam&all=yes").text
    assert len(marked(page)) == 2
    assert "&lt;b&gt;spam" in page
    assert batch.RISKY in page
    assert decided() == 0
    sent = {"item": [*marked(page), "itm_x"], "verdict": "reject"}
    refused = ada.send(f"{QUEUE}/batches", sent)
    assert refused.status_code == 422
    assert "Choose a reason" in refused.text
    assert marked(refused.text) == marked(page), "what was marked stays marked"
    answer = ada.send(f"{QUEUE}/batches", sent | {"reason": "tone"})
    assert answer.status_code == 303
    result = ada.get(answer.location).text
    assert "2 decided" in result
    assert decided() == 2
    assert db.session.scalar(select(Decision.reason).where(Decision.item_id == hostile.id)) == "tone"
    ada.send(f"{answer.location}/undo")
    assert decided() == 0
    assert ada.get(answer.location).text.count("Taken back") >= 2


def test_a_group_follows_its_sample_or_stays(make: Any, client: Callable[..., Any]) -> None:
    project = make.project(undo_seconds=600, reasons=["tone"])
    items = [make.item(project, output="Your parcel has left our house.") for _ in range(8)]
    catalogue.index_due()
    ada = client(make.person("ada"))
    assert "7 more like this" in ada.get(QUEUE).text
    address = f"{QUEUE}/alike/{items[0].id}"
    sample = re.findall(r'name="sample" value="(itm_\w+)"', ada.get(address).text)
    assert len(sample) == 5
    assert sample[0] == items[0].id
    said = {f"verdict.{id_}": "approve" for id_ in sample}
    for short in ({}, {**said, f"verdict.{sample[1]}": ""}):
        assert ada.send(address, {"sample": sample} | short).status_code == 422
    assert decided() == 0
    otherwise = said | {f"verdict.{sample[3]}": "reject", "reason": "tone", "sample": sample}
    result = ada.get(ada.send(address, otherwise).location).text
    assert decided() == 5
    assert result.count("You did not say the same of all.") == 3
    [rejected] = db.session.scalars(select(Decision.item_id).where(Decision.verdict == "reject"))
    assert rejected == sample[3]
    rest = list(db.session.scalars(select(Item.id).where(Item.status == "pending")))
    ada.send(f"{QUEUE}/alike/{rest[0]}", {"sample": rest[0], f"verdict.{rest[0]}": "approve"})
    assert decided() == 8, "the others follow a sample that agrees"


def test_the_others_are_offered_after_one_was_decided(make: Any, client: Callable[..., Any]) -> None:
    project = make.project(undo_seconds=600, reasons=["tone"])
    items = [make.item(project, output="Your parcel has left our house.") for _ in range(8)]
    make.item(project, output="Something else altogether.")
    catalogue.index_due()
    ada = client(make.person("ada"))
    address = claimed(ada, QUEUE)
    assert "more like" not in ada.get(address).text, "before a decision nothing is offered"
    answer = sent(ada, address, "reject", reason="tone")
    page = ada.get(answer.location).text
    link = f"{QUEUE}/alike/{items[0].id}"
    assert re.search(rf'<a href="{link}">7 more like the one you rejected</a>', page)
    assert f'<a href="{link}">' in ada.get(QUEUE).text
    assert "more like the one" not in client(make.person("cleo")).get(QUEUE).text, "it is one's own decision"
    preview = ada.get(link).text
    assert "You rejected one of them." in preview
    sample = re.findall(r'name="sample" value="(itm_\w+)"', preview)
    assert len(re.findall(r'value="reject" required checked', preview)) == len(sample) == 5
    assert '<option value="tone" selected>' in preview
    approved = {f"verdict.{id_}": "approve" for id_ in sample}
    result = ada.get(ada.send(link, {"sample": sample} | approved).location).text
    assert decided() == 6
    assert "You did not say the same of all." in result, "the first one was rejected"
    ada.send(re.search(r"/batches/bat_\w+/undo", result)[0])
    rejected = {f"verdict.{id_}": "reject" for id_ in sample}
    ada.send(link, {"sample": sample, "reason": "tone"} | rejected)
    assert decided() == 8
    assert "more like the one" not in ada.get(QUEUE).text, "none is left"


def test_the_same_correction_is_offered_after_an_edit(make: Any, client: Callable[..., Any]) -> None:
    project = make.project(undo_seconds=600, reasons=["tone"])
    items = [make.item(project, output="Your parcel has left our house <b>.") for _ in range(3)]
    catalogue.index_due()
    ada = client(make.person("ada"))
    answer = sent(ada, claimed(ada, QUEUE), "edit", output="It left on <i>.", reason="tone")
    link = f"{QUEUE}/alike/{items[0].id}"
    assert "2 more like the one you edited" in ada.get(answer.location).text
    page = ada.get(link).text
    sample = re.findall(r'name="sample" value="(itm_\w+)"', page)
    assert len(re.findall(r'value="edit" required checked', page)) == len(sample) == 2
    assert "Your correction" in page
    assert "<i>." not in page
    same = {f"verdict.{id_}": "edit" for id_ in sample}
    assert ada.send(link, {"sample": sample} | same).status_code == 422, "an edit needs its reason"
    ada.send(link, {"sample": sample, "reason": "tone"} | same)
    assert list(db.session.scalars(select(Decision.output))) == ["It left on <i>."] * 3
    assert "Same correction" not in client(make.person("cleo")).get(link).text


def test_a_list_offers_marks_only_to_who_may_decide(make: Any, client: Callable[..., Any]) -> None:
    make.item(make.project())
    assert 'name="item"' in client(make.person("ada")).get(QUEUE).text
    assert 'name="item"' not in client(make.person("aud")).get(QUEUE).text
    page = client(make.person("ada")).get(f"{QUEUE}/triage").text
    assert "Nothing is marked" in page
