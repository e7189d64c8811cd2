"""The review page in a real browser: keys, drafts, live changes, losing a lease, every kind of output."""

from __future__ import annotations

import json
import re
import shlex
import urllib.request
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.finding import catalogue
from reviewqueue.models import Claim, Decision, Item, Review, Skip
from tests.make import Make

pytestmark = pytest.mark.sqlite

QUEUE = "/queues/support-replies/main"


@pytest.fixture
def seen(page: Any) -> list[str]:
    """What the browser complained about; a test that expects nothing ends with it empty.

    A request that we break off ourselves, since a verdict is on its way, is no complaint.
    """
    said: list[str] = []
    ours = ("htmx:sendAbort", "htmx:afterRequest")

    def complained(message: Any) -> None:
        if message.type in ("error", "warning") and not message.text.startswith(ours):
            said.append(message.text)

    page.on("console", complained)
    page.on("pageerror", lambda error: said.append(str(error)))
    return said


def sign_in(page: Any, make: Make, actor: Any) -> None:
    page.goto(make.sign_in_path(actor))
    if "/login/link/" in page.url:
        page.locator("main form button").click()
        page.wait_for_url(re.compile(r"/$"))


def claim(page: Any, queue: str = QUEUE) -> str:
    """Claim the next review of a queue by its button; gives its path."""
    page.goto(queue)
    page.get_by_role("button", name="Review the next").click()
    return ready(page)


def ready(page: Any) -> str:
    """Wait until keys act on the review that is on the screen."""
    page.locator("#decision-form[data-ready]").wait_for()
    return "/" + page.url.split("/", 3)[3]


def decision_of(item: Any) -> Decision | None:
    db.session.rollback()
    return db.session.scalars(
        select(Decision).where(Decision.item_id == item.id, Decision.undone_at.is_(None))
    ).one_or_none()


def test_approve_by_key_goes_to_the_next_item(page: Any, make: Make, seen: list[str]) -> None:
    project = make.project()
    first, second = make.item(project), make.item(project, output="Another one.")
    sign_in(page, make, make.person("ada"))
    claim(page)
    expect(page.locator(f"#decision-form[data-item={first.id}]")).to_be_visible()
    page.keyboard.press("1")
    page.locator(f"#decision-form[data-item={second.id}][data-ready]").wait_for()
    approved = decision_of(first)
    assert approved is not None
    assert approved.verdict == "approve"
    assert decision_of(second) is None
    assert seen == []


def test_a_text_area_drawn_larger_breaks_no_rule_of_the_next_page(
    page: Any, make: Make, seen: list[str]
) -> None:
    project = make.project()
    make.item(project)
    second = make.item(project, output="Another one.")
    sign_in(page, make, make.person("ada"))
    claim(page)
    page.evaluate("document.querySelector('textarea[name=output]').style.height = '300px'")
    page.keyboard.press("1")
    page.locator(f"#decision-form[data-item={second.id}][data-ready]").wait_for()
    assert seen == []


def test_held_key_decides_one_item_only(page: Any, make: Make) -> None:
    project = make.project()
    items = [make.item(project, output=f"Answer {n}.") for n in range(4)]
    sign_in(page, make, make.person("ada"))
    claim(page)
    for _ in range(12):
        page.keyboard.down("1")
        page.wait_for_timeout(60)
    page.keyboard.up("1")
    page.locator(f"#decision-form[data-item={items[1].id}][data-ready]").wait_for()
    assert [decision_of(item) is not None for item in items] == [True, False, False, False]


def test_edit_shows_the_changes_while_typing(page: Any, make: Make, seen: list[str]) -> None:
    item = make.item(make.project())
    sign_in(page, make, make.person("ada"))
    claim(page)
    page.keyboard.press("2")
    editor = page.locator("textarea[name=output]")
    expect(editor).to_be_focused()
    editor.fill("Your parcel left our warehouse on Friday.")
    expect(page.locator("#changes del")).to_have_text("Monday")
    expect(page.locator("#changes ins")).to_have_text("Friday")
    page.keyboard.press("Control+Enter")  # no reason yet
    expect(page.locator("#why")).to_be_visible()
    page.select_option("select[name=reason]", "wrong fact")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(f"**{QUEUE}")
    edited = decision_of(item)
    assert edited is not None
    assert (edited.verdict, edited.output) == ("edit", "Your parcel left our warehouse on Friday.")
    assert (edited.reason, seen) == ("wrong fact", [])


def test_reject_asks_for_the_reason_first(page: Any, make: Make) -> None:
    item = make.item(make.project())
    sign_in(page, make, make.person("ada"))
    claim(page)
    page.keyboard.press("3")
    expect(page.locator("#why")).to_be_visible()
    assert decision_of(item) is None
    page.select_option("select[name=reason]", "tone")
    page.fill("textarea[name=note] >> nth=0", "Too curt.")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(f"**{QUEUE}")
    rejected = decision_of(item)
    assert rejected is not None
    assert (rejected.verdict, rejected.reason, rejected.note) == ("reject", "tone", "Too curt.")


def test_keys_do_nothing_while_typing(page: Any, make: Make) -> None:
    item = make.item(make.project())
    sign_in(page, make, make.person("ada"))
    claim(page)
    page.keyboard.press("2")
    page.keyboard.press("End")
    page.keyboard.type(" 123 shreku")
    assert "123 shreku" in page.input_value("textarea[name=output]")
    assert decision_of(item) is None
    expect(page.locator("details.aside[open]")).to_have_count(0)


def test_approve_with_changed_text_is_held_back(page: Any, make: Make) -> None:
    item = make.item(make.project())
    sign_in(page, make, make.person("ada"))
    claim(page)
    page.fill("textarea[name=output]", "Something else.")
    page.get_by_role("button", name="Approve").click()
    expect(page.locator("#next-step")).to_contain_text("press Edit")
    assert decision_of(item) is None


def test_undo_brings_item_and_text_back(page: Any, make: Make, seen: list[str]) -> None:
    item = make.item(make.project(undo_seconds=60))
    sign_in(page, make, make.person("ada"))
    claim(page)
    page.fill("textarea[name=output]", "It left on Friday.")
    page.select_option("select[name=reason]", "tone")
    page.get_by_role("button", name="Edit").click()
    page.wait_for_url(f"**{QUEUE}")
    expect(page.locator("[data-undo-left]")).to_have_text(re.compile(r"5\d s"))
    assert decision_of(item) is not None
    page.keyboard.press("u")
    ready(page)
    assert decision_of(item) is None
    assert page.input_value("textarea[name=output]") == "It left on Friday."
    assert page.input_value("select[name=reason]") == "tone"
    assert seen == []


def test_undo_notice_goes_when_it_is_too_late(page: Any, make: Make) -> None:
    make.item(make.project(undo_seconds=2))
    sign_in(page, make, make.person("ada"))
    claim(page)
    page.keyboard.press("1")
    page.wait_for_url(f"**{QUEUE}")
    page.locator(".undo").wait_for(state="detached", timeout=5000)


def test_skip_snooze_and_escalate_by_key(page: Any, make: Make) -> None:
    rule = {"name": "seniors", "when": [{"field": "risk", "op": "gt", "value": 0.9}], "route": "review"}
    project = make.project(rules=[rule | {"queue": "seniors"}])
    first, second, third = (make.item(project, output=f"Answer {n}.") for n in range(3))
    ada = make.person("ada")
    sign_in(page, make, ada)
    claim(page)
    page.keyboard.press("s")
    expect(page.locator("#skip-reason")).to_be_focused()
    page.keyboard.type("Not my language")
    page.keyboard.press("Control+Enter")
    page.locator(f"#decision-form[data-item={second.id}][data-ready]").wait_for()
    page.keyboard.press("h")
    page.select_option("#snooze-until", "+1d")
    page.keyboard.press("Control+Enter")
    page.locator(f"#decision-form[data-item={third.id}][data-ready]").wait_for()
    page.keyboard.press("e")
    page.select_option("#escalate-queue", "seniors")
    page.fill("#escalate-note", "Is this still our price?")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(f"**{QUEUE}")
    db.session.rollback()
    skipped = select(Review.item_id, Skip.until).join(Review, Review.id == Skip.review_id)
    until = dict(db.session.execute(skipped).all())
    assert until[first.id] < now() + timedelta(hours=5)
    assert now() + timedelta(hours=23) < until[second.id] < now() + timedelta(hours=25)
    assert [decision_of(item) for item in (first, second, third)] == [None] * 3
    sign_in(page, make, make.person("cleo"))
    claim(page, "/queues/support-replies/seniors")
    expect(page.locator("main")).to_contain_text("Is this still our price?")


def test_draft_comes_back_after_closing_the_tab(page: Any, make: Make) -> None:
    make.item(make.project())
    sign_in(page, make, make.person("ada"))
    address = claim(page)
    page.fill("textarea[name=output]", "A long thought")
    page.fill("textarea[name=note] >> nth=0", "still at it")
    expect(page.locator("#lease")).to_contain_text("Draft saved", timeout=5000)
    other = page.context.new_page()
    page.close(run_before_unload=True)
    other.goto(address)
    assert other.input_value("textarea[name=output]") == "A long thought"
    assert other.input_value("textarea[name=note] >> nth=0") == "still at it"
    expect(other.locator("main")).to_contain_text("Your draft")
    expect(other.locator("#changes ins").first).to_be_visible()


def test_leaving_at_once_keeps_the_draft(page: Any, make: Make) -> None:
    make.item(make.project())
    sign_in(page, make, make.person("ada"))
    address = claim(page)
    page.fill("textarea[name=output]", "Typed just now")
    page.goto("/")
    page.wait_for_timeout(300)
    page.goto(address)
    assert page.input_value("textarea[name=output]") == "Typed just now"


def test_lost_lease_keeps_the_text_and_says_who_has_it(page: Any, make: Make) -> None:
    item = make.item(make.project())
    ada, cleo = make.person("ada"), make.person("cleo")
    sign_in(page, make, ada)
    claim(page)
    with transaction() as session:
        session.execute(update(Review).values(lease_expires_at=now() - timedelta(seconds=1)))
    make.claim(cleo, item)
    page.fill("textarea[name=output]", "My better answer")
    expect(page.locator("#lost")).to_contain_text("Cleo", timeout=5000)
    expect(page.locator("#kept")).to_have_value("My better answer")
    assert page.input_value("textarea[name=output]") == "My better answer"
    expect(page.get_by_role("button", name="Approve")).to_be_disabled()
    db.session.rollback()
    drafts = db.session.scalars(select(Claim.draft).where(Claim.person_id == ada.id)).all()
    assert [draft["output"] for draft in drafts if draft] == ["My better answer"]


def test_deciding_after_the_lease_was_lost_shows_the_text(page: Any, make: Make) -> None:
    item = make.item(make.project())
    ada, cleo = make.person("ada"), make.person("cleo")
    sign_in(page, make, ada)
    claim(page)
    with transaction() as session:
        session.execute(update(Review).values(lease_expires_at=now() - timedelta(seconds=1)))
    make.decide(cleo, item)
    page.fill("textarea[name=output]", "My better answer")
    page.select_option("select[name=reason]", "tone")
    page.get_by_role("button", name="Edit").click()
    expect(page.locator("main")).to_contain_text("not yours any more")
    expect(page.locator("main")).to_contain_text("Cleo")
    expect(page.locator("#kept")).to_have_value("My better answer")


EDITS: dict[str, dict[str, str]] = {
    "text": {"textarea[name=output]": "Edited."},
    "markdown": {"textarea[name=output]": "**Edited.**"},
    "json": {"[name='output.total']": "13"},
    "label": {"select[name=output]": "delivery"},
    "chat": {"textarea[name=output]": "Edited."},
    "tool_call": {"[name='output.arguments.amount']": "25"},
}
EDITED: dict[str, Any] = {
    "text": "Edited.",
    "markdown": "**Edited.**",
    "json": {"total": 13.0, "currency": "EUR"},
    "label": "delivery",
    "chat": [{"role": "assistant", "content": "Edited."}],
    "tool_call": {"name": "refund", "arguments": {"order": "A-17", "amount": 25}},
}


@pytest.mark.parametrize("kind", list(EDITS))
def test_edit_each_kind(kind: str, page: Any, make: Make, seen: list[str]) -> None:
    item = make.item(make.project(kind=kind))
    sign_in(page, make, make.person("ada"))
    claim(page)
    for selector, text in EDITS[kind].items():
        if kind == "label":
            page.select_option(selector, text)
        else:
            page.fill(selector, text)
    expect(page.locator("#changes ins").first).to_be_visible()
    page.select_option("select[name=reason]", "format")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(f"**{QUEUE}")
    edited = decision_of(item)
    assert edited is not None
    assert edited.output == EDITED[kind]
    assert seen == []


def test_wrong_type_is_told_by_the_field(page: Any, make: Make) -> None:
    make.item(make.project(kind="json"))
    sign_in(page, make, make.person("ada"))
    claim(page)
    page.fill("[name='output.total']", "a lot")
    expect(page.locator("#changes")).to_contain_text("number")
    page.select_option("select[name=reason]", "format")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".field.has-error")).to_contain_text("Must be a number")
    assert page.input_value("[name='output.total']") == "a lot"
    assert page.input_value("select[name=reason]") == "format"


def test_raw_text_is_one_key_away(page: Any, make: Make) -> None:
    make.item(make.project(kind="markdown"), output="It left on **Monday**.")
    sign_in(page, make, make.person("ada"))
    claim(page)
    expect(page.locator(".content-rich strong")).to_have_text("Monday")
    expect(page.locator("details.raw .content")).to_be_hidden()
    page.keyboard.press("r")
    expect(page.locator("details.raw .content")).to_contain_text("**Monday**")


@pytest.mark.parametrize("width", [360, 720, 1440, 2560])  # 720: 1440 at 200 % zoom
def test_nothing_overflows(width: int, page: Any, make: Make) -> None:
    long = "Donaudampfschifffahrtsgesellschaftskapitän" * 30 + " שלום " * 40 + "漢字" * 200
    passage = {"title": long[:150], "text": long, "url": "https://example.org/" + "a" * 300}
    make.item(make.project(), output=long, input={long[:80]: long}, context=[passage])
    page.set_viewport_size({"width": width, "height": 800})
    sign_in(page, make, make.person("cleo"))
    address = claim(page)
    item = page.locator("#decision-form").get_attribute("data-item")
    for path in (address, "/", QUEUE, f"/items/{item}"):
        page.goto(path)
        wider = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wider <= 0, path


def test_list_is_walked_by_key_and_searched(page: Any, make: Make) -> None:
    project = make.project()
    items = [make.item(project, output=f"Answer number {n}.") for n in range(3)]
    sign_in(page, make, make.person("ada"))
    page.goto(QUEUE)
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(page.locator("[data-row]").nth(1)).to_be_focused()
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/items/{items[0].id}")
    catalogue.index_due()
    page.goto(QUEUE)
    page.keyboard.press("/")
    page.keyboard.type("number 2")
    page.keyboard.press("Enter")
    expect(page.locator("[data-row]")).to_have_count(1)
    assert "text=number+2" in page.url


def test_empty_desk_gives_a_line_that_works(page: Any, make: Make, live: str) -> None:
    sign_in(page, make, make.person("dora"))
    page.goto("/")
    page.get_by_role("button", name="Put a key").click()
    words = shlex.split(page.locator("#curl").inner_text().replace("\\\n", " "))
    headers = dict(w.split(": ", 1) for flag, w in pairwise(words) if flag == "-H")
    body = words[words.index("-d") + 1].encode()
    request = urllib.request.Request(f"{live}/api/v1/items", body, headers)
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201
        item = db.session.scalars(select(Item)).one()
        assert json.load(answer)["id"] == item.id
    page.goto("/")
    expect(page.locator("main")).to_contain_text("main")
    page.keyboard.press("n")
    ready(page)
