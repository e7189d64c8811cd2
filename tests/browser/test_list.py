"""Lists in a real browser: marking by key and range, a batch that goes on by itself, narrow screens."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import expect
from sqlalchemy import func, select

from reviewqueue.db import db
from reviewqueue.finding import batch, catalogue
from reviewqueue.models import Decision
from tests.make import Make

pytestmark = pytest.mark.sqlite

QUEUE = "/queues/support-replies/main"
TARGETS = "button, .button, select, textarea, input, .chip, .view a, main summary"
SMALL = f"""() => [...document.querySelectorAll("{TARGETS}")]
    .filter((e) => e.checkVisibility() && !e.matches("[type=checkbox], [type=radio], [type=hidden]"))
    .filter((e) => e.getBoundingClientRect().height < 43.9).map((e) => e.outerHTML.slice(0, 90))"""


def test_items_are_marked_by_key_and_decided_at_once(
    page: Any, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "ONE_IN", 10**9)
    monkeypatch.setattr("reviewqueue.finding.batch.carry_on.__defaults__", (0.05,))
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    project = make.project(undo_seconds=600)
    for number in range(12):
        make.item(project, output=f"Parcel {number}", risk_flags=["late"])
    catalogue.index_due()
    page.goto(make.sign_in_path(make.person("cleo")))
    page.goto(f"{QUEUE}?text=parcel")
    for key in ("j", "x", "j", "j", "Shift+X", "j", "j", "x", "x"):
        page.keyboard.press(key)
    expect(page.locator("td.mark input:checked")).to_have_count(3)
    page.keyboard.press("t")
    page.wait_for_url(re.compile("/triage"))
    expect(page.locator("h1")).to_have_text("Decide 3 items at once")
    page.goto(f"{QUEUE}/triage?text=parcel&all=yes")
    page.locator("td.mark input").first.uncheck()
    page.keyboard.press("1")
    page.wait_for_url(re.compile("/batches/"))
    # A request works on a batch for a moment only; the page asks for the rest by itself.
    expect(page.locator(".counts")).to_contain_text("11decided", timeout=20_000)
    db.session.rollback()
    assert db.session.scalar(select(func.count()).select_from(Decision)) == 11
    result = page.url
    page.set_viewport_size({"width": 360, "height": 800})
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for path in (
            f"{QUEUE}?text=parcel&flag=late", "/items?status=decided&text=parcel&risk_to=0.9", result,
            f"{QUEUE}/triage?all=yes", "/insight/now?project=support-replies", "/",
        ):  # fmt: skip
            page.goto(path)
            for summary in page.locator("main summary").all():
                summary.click()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
            assert page.evaluate(SMALL) == [], path
    assert said == []
