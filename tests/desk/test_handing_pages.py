"""Handing over, comments, saved replies, folded harm, the palette, a form that grows; without script."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.models import Claim, Project, Review, Skip
from tests.desk.test_claim_pages import claimed, form_of
from tests.make import Make

pytestmark = pytest.mark.sqlite

LINE = {"type": "object", "properties": {"n": {"type": "integer"}}}
INVOICE = {"type": "object", "properties": {"lines": {"type": "array", "items": LINE}}}


def lapse() -> None:
    with transaction() as session:
        session.execute(update(Review).values(lease_expires_at=now() - timedelta(seconds=1)))


def test_entries_come_and_go_without_script(client: Callable[..., Any], make: Make) -> None:
    item = make.item(make.project(kind="json", schema=INVOICE), output={"lines": [{"n": 1}]})
    ada = client(make.person("ada"))
    claim = claimed(ada)
    form = form_of(ada.get(claim).text)
    page = ada.post(f"{claim}/shape", data=form | {"do": "add output.lines", "note": "kept"}).text
    form = form_of(page)
    assert (form["output.lines.1.n"], form["note"]) == ("", "kept")
    answer = ada.put(claim, data=form | {"output.lines.1.n": "2"})
    assert answer.status_code == 200
    form = form_of(ada.get(claim).text)
    assert form["output.lines.1.n"] == "2", "a draft keeps the shape"
    answer = ada.post(f"{claim}/decision", data=form | {"verdict": "edit", "reason": "format"})
    assert answer.status_code == 303, answer.text
    given = db.session.scalars(select(Review).where(Review.item_id == item.id)).one()
    assert given.output == {"lines": [{"n": 1}, {"n": 2}]}


def test_a_changed_shape_cannot_be_approved(client: Callable[..., Any], make: Make) -> None:
    make.item(make.project(kind="json", schema=INVOICE), output={"lines": [{"n": 1}]})
    ada = client(make.person("ada"))
    claim = claimed(ada)
    form = form_of(ada.get(claim).text)
    form = form_of(ada.post(f"{claim}/shape", data=form | {"do": "remove output.lines.0"}).text)
    answer = ada.post(f"{claim}/decision", data=form | {"verdict": "approve"})
    assert (answer.status_code, "You have changed the output" in answer.text) == (422, True)
    answer = ada.post(f"{claim}/shape", data=form | {"do": "remove output.nothing"})
    assert (answer.status_code, "no such place" in answer.text) == (200, True)
    answer = ada.post(f"{claim}/shape", data=form | {"shape": "{broken"})
    assert answer.status_code == 200


def test_a_lost_claim_shows_both_texts_and_takes_a_comment(client: Callable[..., Any], make: Make) -> None:
    item = make.item(make.project())
    visitor = client(make.person("ada"))
    claim = claimed(visitor)
    token = visitor.csrf("/")
    lapse()
    make.decide(make.person("cleo"), item, "edit", "It left on Friday.", "tone")
    answer = visitor.put(
        claim, data={"csrf_token": token, "output": "It left on Sunday.", "note": "I asked."}
    )
    assert answer.status_code == 409
    assert "It left on Sunday." in answer.text
    assert "It left on Friday." in answer.text
    assert "<del>Friday</del><ins>Sunday</ins>" in answer.text
    assert "Hand in as a comment" in answer.text
    assert "Take it over" not in answer.text, "it is decided"
    done = visitor.post(
        f"{claim}/comment", data={"csrf_token": token, "text": "It left on Sunday.\n\nI asked."}
    )
    assert done.location == f"/items/{item.id}"
    assert "I asked." in visitor.get(done.location).text


def test_comments_and_other_texts_stay_blind_while_a_review_is_open(
    client: Callable[..., Any], make: Make
) -> None:
    item = make.item(make.project(reviews=2))
    visitor = client(make.person("ada"))
    claim = claimed(visitor)
    token = visitor.csrf("/")
    lapse()
    mine = db.session.scalars(select(Review.id).join(Claim, Claim.review_id == Review.id)).one()
    with transaction() as session:  # Cleo gets the very seat that Ada had
        session.execute(
            update(Review).where(Review.id != mine).values(lease_expires_at=now() + timedelta(hours=1))
        )
    make.decide(make.person("cleo"), item, "edit", "SECRET VERSION", "tone")
    answer = visitor.put(claim, data={"csrf_token": token, "output": "It left on Sunday."})
    assert answer.status_code == 409
    assert "SECRET VERSION" not in answer.text
    visitor.post(f"{claim}/comment", data={"csrf_token": token, "text": "BLIND COMMENT"})
    assert "BLIND COMMENT" not in client(make.person("ben", every_queue=True)).get(f"/items/{item.id}").text
    assert "BLIND COMMENT" not in visitor.get(f"/items/{item.id}").text


def test_a_lead_assigns_and_takes_over(client: Callable[..., Any], make: Make) -> None:
    item = make.item(make.project())
    ada, cleo = make.person("ada"), make.person("cleo")
    make.claim(ada, item)
    lead = client(cleo)
    token = lead.csrf("/")
    answer = lead.post(f"/items/{item.id}/assignment", data={"csrf_token": token, "person": "me"})
    assert answer.location.startswith("/claims/")
    page = lead.get(answer.location).text
    assert f'<option value="{ada.id}">Ada</option>' in page
    answer = lead.post(f"/items/{item.id}/assignment", data={"csrf_token": token, "person": ada.id})
    assert answer.location == "/"
    assert "Given to Ada." in lead.get("/").text
    assert "assign-person" not in client(ada).get(client(ada).send(f"/items/{item.id}/claims").location).text


def test_saved_replies_are_filled_in_and_escaped(client: Callable[..., Any], make: Make) -> None:
    project = make.project()
    with transaction() as session:
        found = session.get_one(Project, project.id)
        found.replies = [{"name": "Sorry", "text": "Sorry, {subject}. Yours, {reviewer} {nothing} <b>"}]
    make.item(project, subject="<i>Mo</i>")
    visitor = client(make.person("ada"))
    page = visitor.get(claimed(visitor)).text
    assert "Sorry, &lt;i&gt;Mo&lt;/i&gt;. Yours, Ada {nothing} &lt;b&gt;" in page


def test_what_may_hurt_is_folded_behind_its_category(client: Callable[..., Any], make: Make) -> None:
    project = make.project()
    make.item(project, risk_flags=["self_harm"])
    make.item(project, output="Another one.", risk_flags=["long"])
    visitor = client(make.person("ada"))
    page = visitor.get(claimed(visitor)).text
    assert re.search(
        r'<details class="care">\s*<summary[^>]*>.*?Folded: self-harm\. Open the output', page, re.S
    )
    assert "output" in form_of(page), "the form works all the same"
    visitor.send("/account/care", {"protection": "flagged", "leave_out": "self-harm"})
    visitor.send(re.findall(r'action="(/claims/[^"]+/release)"', page)[0])
    claim = claimed(visitor)
    page = visitor.get(claim).text
    assert "Another one." in page
    assert 'class="care"' not in page
    visitor.send("/account/care", {"protection": "all"})
    assert "Folded: your own wish" in visitor.get(claim).text


def test_a_budget_and_a_break_are_told_and_nothing_is_stopped(client: Callable[..., Any], make: Make) -> None:
    project = make.project()
    ada = make.person("ada")
    for n in range(3):
        make.decide(ada, make.item(project, output=f"Answer {n}."))
    reviews = db.session.scalars(select(Review)).all()
    with transaction() as session:
        for at, review in enumerate(reviews):
            moment = now() - timedelta(minutes=5 + 24 * at)
            session.execute(update(Review).where(Review.id == review.id).values(given_at=moment))
    make.item(project, output="The next.")
    visitor = client(ada)
    claim = claimed(visitor)
    assert "You have been reviewing" not in visitor.get(claim).text, "there were breaks"
    with transaction() as session:
        for at, review in enumerate(reviews):
            moment = now() - timedelta(minutes=5 + 7 * at)
            session.execute(update(Review).where(Review.id == review.id).values(given_at=moment))
    visitor.send("/account/care", {"protection": "flagged", "daily": "3"})
    page = visitor.get(claim).text
    assert "your own budget of 3 reviews" in page
    assert visitor.post(f"{claim}/decision", data=form_of(page) | {"verdict": "approve"}).status_code == 303


def test_snooze_until_a_time_of_the_readers_day(client: Callable[..., Any], make: Make) -> None:
    make.item(make.project())
    visitor = client(make.person("ada"))
    claim = claimed(visitor)
    there = now() + timedelta(hours=5) - timedelta(minutes=330)  # a clock five and a half hours ahead of UTC
    at = (there + timedelta(minutes=330 + 330)).strftime("%Y-%m-%dT%H:%M")
    answer = visitor.send(
        f"{claim}/skip", {"until": "+1d", "until_at": at, "zone": "-330", "reason": "later"}
    )
    assert answer.status_code == 303
    until = db.session.scalars(select(Skip.until)).one()
    assert abs(until - (now() + timedelta(hours=5))) < timedelta(minutes=2)


def test_the_palette_finds_what_the_asker_may_open(client: Callable[..., Any], make: Make) -> None:
    item = make.item(make.project(), external_id="req-17")
    visitor = client(make.person("ada"))
    assert f'href="/items/{item.id}"' in visitor.get("/go?q=req-1").text
    assert f'href="/items/{item.id}"' in visitor.get(f"/go?q={item.id}").text
    assert 'href="/queues/support-replies/main"' in visitor.get("/go?q=supp+main").text
    assert 'href="/people"' not in visitor.get("/go").text
    part = visitor.get("/go?q=acc", headers={"HX-Request": "true"}).text
    assert part.lstrip().startswith('<div id="goals"')
    stranger = client(make.person("mallory"))
    for q in ("req-1", item.id, "support"):
        found = stranger.get(f"/go?q={q}").text
        assert item.id not in found.replace(f'value="{item.id}"', "")
        assert "/queues/" not in found


def test_the_lease_is_looked_at_without_being_renewed(client: Callable[..., Any], make: Make) -> None:
    item = make.item(make.project())
    visitor = client(make.person("ada"))
    claim = claimed(visitor)
    before = db.session.scalars(select(Review.lease_expires_at)).one()
    assert visitor.get(f"{claim}/lease").status_code == 204
    assert db.session.scalars(select(Review.lease_expires_at)).one() == before
    lapse()
    make.claim(make.person("cleo"), item)
    answer = visitor.get(f"{claim}/lease", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["HX-Retarget"]) == (409, "#lost-place")
    assert "Cleo" in answer.text


def test_what_was_fetched_ahead_comes_next_and_is_opened_once(client: Callable[..., Any], make: Make) -> None:
    project = make.project()
    _, second, third = (make.item(project, output=f"Answer {n}.") for n in range(3))
    visitor = client(make.person("ada"))
    claim = claimed(visitor)
    ahead = visitor.send(f"{claim}/ahead").headers["X-Next-Claim"]
    assert visitor.send(f"{claim}/skip", {"reason": "later"}).location == ahead
    assert second.id in visitor.get(ahead).text
    # The page that fetched it goes away only now: what is open stays.
    assert visitor.send(f"{ahead}/release", {"unopened": "yes"}).status_code == 204
    assert visitor.get(f"{ahead}/lease").status_code == 204
    # Nor can another tab open it a second time.
    form = form_of(visitor.get(ahead).text) | {"verdict": "approve", "ahead": ahead.rpartition("/")[2]}
    onward = visitor.post(f"{ahead}/decision", data=form)
    assert onward.status_code == 303
    assert third.id in visitor.get(onward.location).text
