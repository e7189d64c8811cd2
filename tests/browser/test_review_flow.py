"""The review page at work: reasons by number, labels by letters, lists that grow, folds, own keys."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.models import Project, Review, Skip
from reviewqueue.people.wishes import choose_care, choose_keys
from tests.browser.test_review import claim, decision_of, ready, seen, sign_in
from tests.make import Make

pytestmark = pytest.mark.sqlite
__all__ = ["seen"]

QUEUE = "/queues/support-replies/main"
LINE = {
    "type": "object",
    "required": ["what"],
    "properties": {"what": {"type": "string"}, "n": {"type": "integer", "minimum": 1}},
}
INVOICE = {
    "type": "object",
    "required": ["currency"],
    "properties": {"currency": {"enum": ["EUR", "GBP"]}, "lines": {"type": "array", "items": LINE}},
}
LEFT = "Your parcel left our warehouse on Friday."
PASSAGE = {
    "title": "Shipping",
    "text": "Parcels leave on Tuesday. " * 9 + LEFT,
    "url": "https://example.org/shipping",
}


def next_item(page: Any, item: Any) -> None:
    page.locator(f"#decision-form[data-item={item.id}][data-ready]").wait_for()


def test_reject_in_three_keys_and_edit_asks_why(page: Any, make: Make, seen: list[str]) -> None:
    project = make.project(guidelines="Look.\n\n## Tone\n\nCurt or gushing.\n" + "\nMore.\n" * 99)
    first, second, third = (make.item(project, output=f"Answer {n}.") for n in range(3))
    sign_in(page, make, make.person("ada"))
    claim(page)
    for key in ("3", "2", "0"):  # reject, the second reason, cause not known
        page.keyboard.press(key)
    next_item(page, second)
    rejected = decision_of(first)
    assert rejected is not None
    assert (rejected.verdict, rejected.reason, rejected.cause) == ("reject", "tone", None)
    expect(page.locator("#said")).to_contain_text("Next item")
    page.keyboard.press("3")
    expect(page.locator("#why")).to_be_visible()
    expect(page.locator("#why-guide")).to_be_empty()
    page.keyboard.press("Tab")
    expect(page.locator("#why-guide")).to_contain_text("Curt or gushing.")
    page.keyboard.press("Escape")
    expect(page.locator("#why")).to_be_hidden()
    assert decision_of(second) is None
    page.select_option("select[name=reason]", "tone")
    expect(page.get_by_role("status").filter(has_text="Curt or gushing.")).to_be_visible()
    page.locator(".guidelines summary").click()
    page.locator("#guide a").click()
    expect(page.locator("#guideline-2")).to_be_focused()
    expect(page.locator("#guideline-2")).to_be_in_viewport()
    page.select_option("select[name=reason]", "")
    expect(page.locator("#guide")).to_be_empty()
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    page.keyboard.type("Better: ")
    page.keyboard.press("Control+Enter")
    page.keyboard.press("1")
    expect(page.locator("#why-title")).to_contain_text("wrong fact")
    page.keyboard.press("2")  # the second cause sends it
    next_item(page, third)
    edited = decision_of(second)
    assert edited is not None
    assert (edited.verdict, edited.reason, edited.cause) == ("edit", "wrong fact", "retrieval")
    page.keyboard.press("?")
    expect(page.locator("#keys-help")).to_contain_text("Pass on")
    assert seen == []


def test_json_entries_grow_and_faults_stand_by_their_field(page: Any, make: Make, seen: list[str]) -> None:
    output = {"currency": "EUR", "lines": [{"what": "ink", "n": 1}]}
    item = make.item(make.project(kind="json", schema=INVOICE), output=output)
    sign_in(page, make, make.person("ada"))
    claim(page)
    page.get_by_role("button", name="Add an entry to lines").click()
    field = page.locator("[name='output.lines.1.what']")
    expect(field).to_be_focused()
    field.fill("paper")
    number = page.locator("[name='output.lines.1.n']")
    number.fill("0")
    expect(page.locator(".field.has-error")).to_contain_text("Must be at least 1")
    number.fill("many")
    expect(page.locator(".field.has-error")).to_contain_text("whole number")
    number.fill("2")
    expect(page.locator(".field.has-error")).to_have_count(0)
    expect(page.locator("#changes")).to_contain_text("lines › 1")
    page.get_by_label("Add a key to 2").click()
    page.fill("[name='new.output.lines.1']", "what")
    page.keyboard.press("Enter")
    expect(page.locator(".field.has-error")).to_contain_text("of this name already")
    expect(page.locator("[name='new.output.lines.1']")).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("a.b")
    page.keyboard.press("Tab")
    page.keyboard.type("number")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("[name='output.lines.1.a%2Eb']")).to_be_focused()
    page.get_by_label("Rename a.b").first.click()
    page.fill("[name='name.output.lines.1.a%2Eb']", "c")
    page.keyboard.press("Enter")
    expect(page.locator("[name='output.lines.1.c']")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # and away with it
    expect(page.locator("[name='output.lines.1.c']")).to_have_count(0)
    page.select_option("[name='output.currency']", "GBP")
    page.get_by_role("button", name="Remove 1", exact=True).click()
    expect(page.locator("[name='output.lines.1.what']")).to_have_count(0)
    page.locator("summary", has_text="raw JSON").click()
    raw = page.locator("textarea[name=output]")
    raw.fill('{"currency": "GBP",\n "lines": [}')
    expect(page.locator(".field.has-error")).to_contain_text("line 2, column 12")
    page.get_by_role("button", name="Go there").click()
    assert raw.evaluate("field => field.selectionStart") == 31
    raw.fill(json.dumps({"currency": "GBP", "lines": [{"what": "paper", "n": 2}]}))
    page.select_option("select[name=reason]", "format")
    page.keyboard.press("Control+Enter")
    page.wait_for_url(f"**{QUEUE}")
    edited = decision_of(item)
    assert edited is not None
    assert edited.output == {"currency": "GBP", "lines": [{"what": "paper", "n": 2}]}
    assert [line for line in seen if "422" not in line] == []


def test_labels_by_letters_and_by_number(page: Any, make: Make, seen: list[str]) -> None:
    labels = [f"label_{n:03d}" for n in range(300)] + ["parcel_lost", "parcel_late", "refund"]
    project = make.project(kind="label", schema={"enum": labels})
    first = make.item(project, samples=["parcel_late", "refund", "parcel_late"])
    second = make.item(project, output="label_007")
    sign_in(page, make, make.person("ada"))
    claim(page)
    page.keyboard.press("4")  # the model's first alternative
    expect(page.locator("select[name=output]")).to_have_value("parcel_late")
    page.keyboard.press("2")
    page.keyboard.type("nothing like it")
    page.keyboard.press("Control+Enter")  # decides nothing: a label was being looked for
    expect(page.locator("#next-step")).to_have_text("No label says that.")
    page.keyboard.press("Control+a")
    page.keyboard.type("lost")
    expect(page.locator("#found-labels [role=option]")).to_have_text(["parcel_lost"])
    page.keyboard.press("Enter")
    expect(page.locator("select[name=output]")).to_have_value("parcel_lost")
    for key in ("Control+Enter", "1", "0"):
        page.keyboard.press(key)
    next_item(page, second)
    edited = decision_of(first)
    assert edited is not None
    assert (edited.output, seen) == ("parcel_lost", [])


def test_a_tool_call_is_typed_by_its_tool_and_shows_what_led_here(page: Any, make: Make) -> None:
    tools = {"refund": {"amount": {"type": "integer"}}, "close": {"erase": {"type": "boolean"}}}
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["refund", "close"]}, "arguments": {"type": "object"}},
        "allOf": [
            {"if": {"properties": {"name": {"const": name}}},
             "then": {"properties": {"arguments": {"properties": known}}}}
            for name, known in tools.items()
        ],
    }  # fmt: skip
    asked = {"shop": "A", "messages": [{"role": "user", "content": "Close <b>my</b> account."},
             {"role": "assistant", "content": None, "tool_calls": [{"name": "find"}]}]}  # fmt: skip
    make.item(
        make.project(kind="tool_call", schema=schema), input=asked,
        output={"name": "refund", "arguments": {"amount": 3}},
    )  # fmt: skip
    sign_in(page, make, make.person("ada"))
    claim(page)
    expect(page.locator(".review-asked .turn-role")).to_have_text(["user", "assistant"])
    expect(page.locator(".review-asked .turn").first).to_contain_text("Close <b>my</b> account.")
    expect(page.locator(".sentence")).to_have_text("It would call refund with amount 3.")
    page.fill("[name='output.arguments.amount']", "3.5")
    expect(page.locator(".field.has-error")).to_contain_text("whole number")
    page.fill("[name='output.arguments.amount']", "4")
    page.select_option("[name='output.name']", "close")
    expect(page.locator("[name='output.arguments.erase']")).to_be_visible()


def test_harm_is_opened_on_a_key_before_it_is_approved(page: Any, make: Make) -> None:
    item = make.item(make.project(), risk_flags=["self_harm"], context=[PASSAGE])
    sign_in(page, make, make.person("ada"))
    claim(page)
    expect(page.locator(".review-output .content").first).to_be_hidden()
    page.keyboard.press("1")
    expect(page.locator("#next-step")).to_contain_text("Open the output")
    assert decision_of(item) is None
    page.keyboard.press("o")
    expect(page.locator(".review-output .content").first).to_be_visible()
    expect(page.locator("#decision-form textarea[name=output]")).to_be_visible()
    page.keyboard.press("1")
    page.wait_for_url(f"**{QUEUE}")
    assert decision_of(item) is not None


def test_a_hint_leads_to_its_place_and_a_long_text_has_a_map(page: Any, make: Make, seen: list[str]) -> None:
    long = "\n".join(f"Line {n} of a long answer, which nobody changed at all." for n in range(50))
    output = f"{long}\nYour parcel left our warehouse on Friday."
    with_trace = {"url": "https://trace.example.org/1"}
    make.item(make.project(), output=output, context=[PASSAGE] * 5, trace=with_trace)
    page.set_viewport_size({"width": 1280, "height": 700})
    sign_in(page, make, make.person("ada"))
    claim(page)
    expect(page.locator(".review-head a.outside")).to_have_attribute(
        "href", "/leave?to=https%3A%2F%2Ftrace.example.org%2F1"
    )
    page.locator(".support").evaluate("details => { details.open = true; }")
    expect(page.locator(".support")).to_contain_text("Words are compared, not meaning")
    page.locator(".leaning a").last.click()
    expect(page.locator(".passage mark:target")).to_be_in_viewport()
    editor = page.locator("textarea[name=output]")
    editor.fill(output.replace("Line 30", "Row 30").replace("Friday", "Sunday"))
    expect(page.locator(".change-map a")).to_have_count(2)
    expect(page.locator("#changes details summary").first).to_contain_text("characters as they were")
    page.locator(".change-map a").last.click()
    expect(page.locator("#change-2")).to_be_in_viewport()
    assert seen == []


def test_keys_of_ones_own_the_palette_and_the_desk(page: Any, make: Make, seen: list[str]) -> None:
    project = make.project()
    first, second = make.item(project, external_id="req-17"), make.item(project, output="Another.")
    ada = make.person("ada")
    choose_keys(ada, {"approve": "y", "next": "x"})
    sign_in(page, make, ada)
    page.goto("/")
    page.keyboard.press("x")  # from the desk to the first item
    ready(page)
    page.keyboard.press("1")
    page.wait_for_timeout(150)
    assert decision_of(first) is None
    page.keyboard.press("y")
    next_item(page, second)
    assert decision_of(first) is not None
    page.keyboard.press("Control+k")
    page.keyboard.type("req-17")
    expect(page.locator("#goals [role=option]").first).to_contain_text("req-17")
    expect(page.locator("#palette-q")).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/items/{first.id}")
    page.keyboard.press("Control+k")
    page.keyboard.type("suppor")
    expect(page.locator("#goals [aria-selected=true]")).to_contain_text("main")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/queues/**")
    assert seen == []


# A key that is held, and one pressed again at once: all before anything else can be painted.
HELD = """for (const repeat of [false, true, true, true, false]) {
    const how = { key: "1", repeat, bubbles: true, cancelable: true };
    document.body.dispatchEvent(new KeyboardEvent("keydown", how));
}"""


def test_what_was_fetched_ahead_is_never_decided_unseen(page: Any, make: Make, seen: list[str]) -> None:
    project = make.project(undo_seconds=60)
    items = [make.item(project, output=f"Answer {n}.") for n in range(4)]
    ada, cleo = make.person("ada"), make.person("cleo")
    sign_in(page, make, ada)
    with page.expect_response("**/ahead"):
        claim(page)
    page.wait_for_timeout(100)
    page.evaluate(HELD)
    next_item(page, items[1])
    assert [decision_of(item) is not None for item in items] == [True, False, False, False]
    expect(page.locator("[data-undo-left]")).to_be_visible()
    expect(page.locator("#lease")).to_contain_text("9 min")
    page.wait_for_timeout(400)
    # What was fetched ahead was taken meanwhile: the page after it comes instead.
    with transaction() as session:
        session.execute(update(Review).where(Review.item_id == items[2].id).values(lease_expires_at=now()))
    make.claim(cleo, items[2])
    page.keyboard.press("1")
    next_item(page, items[3])
    assert seen == []
    page.goto("/")
    page.wait_for_timeout(200)
    expect(page.locator("#notices")).to_be_empty()
    db.session.rollback()
    held = db.session.scalars(
        select(Review.item_id).where(Review.claimed_by == ada.id, Review.state == "wanted")
    )
    assert held.all() == [items[3].id]


def test_saved_replies_and_snoozing_until_a_time_here(page: Any, make: Make) -> None:
    project = make.project()
    with transaction() as session:
        replies = [{"name": "Sorry", "text": "Sorry, {subject}."}]
        session.execute(update(Project).where(Project.id == project.id).values(replies=replies))
    make.item(project, subject="Mo")
    sign_in(page, make, make.person("ada"))
    claim(page)
    page.locator("textarea[name=note]").first.fill("Hm: ")
    page.locator(".replies summary").click()
    page.get_by_role("button", name="Put in").click()
    assert page.locator("textarea[name=note]").first.input_value() == "Hm: Sorry, Mo."
    page.locator("#main").evaluate("main => main.focus()")
    page.keyboard.press("h")
    at = page.evaluate(
        "new Date(Date.now() + 5 * 3600e3 - new Date().getTimezoneOffset() * 6e4).toISOString().slice(0, 16)"
    )
    page.fill("#snooze-at", at)
    page.locator("#snooze-until").focus()
    page.keyboard.press("Control+Enter")
    page.wait_for_url(f"**{QUEUE}")
    until = db.session.scalars(select(Skip.until)).one()
    assert abs(until - (now() + timedelta(hours=5))) < timedelta(minutes=2)


RULES = {
    "runOnly": {
        "type": "tag",
        "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    }
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(scheme: str, page: Any, make: Make) -> None:
    spoken = "Ihr Paket, حزمتك غادرت, 荷物は出荷されました。 " * 9
    make.item(make.project(undo_seconds=60), output=spoken, risk_flags=["violence"], context=[PASSAGE])
    make.item(
        make.project("forms", kind="json", schema=INVOICE),
        output={"currency": "EUR", "lines": [{"what": "i"}]},
    )
    make.item(make.project("labels", kind="label"), samples=["other"])
    make.item(make.project("talks", kind="chat"))
    ada = make.person("cleo")
    choose_care(ada, "flagged", [], "1")
    make.decide(ada, make.item(make.project("done"), output="Done."))
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    sign_in(page, make, ada)
    found = {}
    axe = Axe()
    for name in ("support-replies", "forms", "labels", "talks"):
        claim(page, f"/queues/{name}/main")
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        found[name] = axe.run(page, options=RULES).response["violations"]
    page.locator("#main").evaluate("main => main.focus()")
    page.keyboard.press("3")
    expect(page.locator("#why")).to_be_visible()
    found["why"] = axe.run(page, options=RULES).response["violations"]
    page.keyboard.press("Control+k")
    expect(page.locator("#goals [role=option]").first).to_be_visible()
    found["palette"] = axe.run(page, options=RULES).response["violations"]
    for path in ("/", "/account/work", "/go"):
        page.goto(path)
        found[path] = axe.run(page, options=RULES).response["violations"]
    told = {
        where: [(one["id"], [node["html"][:160] for node in one["nodes"][:3]]) for one in violations]
        for where, violations in found.items() if violations
    }  # fmt: skip
    assert told == {}
