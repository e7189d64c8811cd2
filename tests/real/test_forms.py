"""Real outputs through the review form as a browser sends it: line ends as CR LF, numbers as text.

What was not touched must come back as it was, types included; what the human corrected must be what stands.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.models import Decision
from reviewqueue.people.access import SYSTEM
from reviewqueue.routing.projects import apply
from tests.make import Make
from tests.real.load import SETS, RealSet, Row, require

pytestmark = pytest.mark.sqlite  # what a form says does not depend on the database
COUNT = 12


class Form(HTMLParser):
    """The fields of the decision form with their values, as a browser would send them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.fields: dict[str, str] = {}
        self.inside = False
        self.text: str | None = None  # the textarea or select that is open
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form":
            self.inside = given.get("id") == "decision-form"
        name = given.get("name")
        if not self.inside:
            return
        if tag == "input" and name and given.get("type") not in ("checkbox", "radio", "submit"):
            self.fields[name] = given.get("value") or ""
        elif tag in ("textarea", "select") and name:
            self.text, self.fields[name] = name, ""
        elif tag == "option" and "selected" in given and self.text:
            self.fields[self.text] = given.get("value") or ""

    def handle_data(self, data: str) -> None:
        if self.text and self.lasttag == "textarea":
            self.fields[self.text] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.inside = False
        if tag == "textarea" and self.text:
            # A browser drops the line end right after the tag, and sends the others as CR LF.
            shown = self.fields[self.text].removeprefix("\n")
            self.fields[self.text] = re.sub(r"\r\n|\r|\n", "\r\n", shown)
        if tag in ("textarea", "select"):
            self.text = None


@pytest.fixture(params=SETS)
def chosen(request: pytest.FixtureRequest) -> RealSet:
    require(SETS[request.param])
    return SETS[request.param]


def test_an_untouched_form_says_that_nothing_was_changed(
    chosen: RealSet, make: Make, client: Callable[..., Any], app: Flask
) -> None:
    project = apply(chosen.toml(), SYSTEM).project
    ada = client(make.person("ada"))
    token = ada.csrf("/account")
    for row in chosen.rows(COUNT):
        path, form = open_form(chosen, row, project, make, ada)
        # As an edit it is refused, because nothing differs; so it is approved as it was.
        untouched = ada.post(path, data=form | {"csrf_token": token, "verdict": "edit", "reason": "other"})
        assert untouched.status_code == 422, row["id"]
        assert "must change the output" in untouched.text, row["id"]
        approved = ada.post(path, data=form | {"csrf_token": token, "verdict": "approve"})
        assert approved.status_code == 303, (row["id"], approved.text[:300])
        assert decision_of(form).output == chosen.submission(row)["output"]


@pytest.mark.parametrize("chosen", ["mlqe_pe", "expertqa", "banking77", "tau_airline"], indirect=True)
def test_a_correction_typed_into_the_form_is_what_stands(
    chosen: RealSet, make: Make, client: Callable[..., Any], app: Flask
) -> None:
    corrected = [row for row in chosen.rows(400) if chosen.said(row).verdict == "edit"][:COUNT]
    assert corrected
    project = apply(chosen.toml(), SYSTEM).project
    ada = client(make.person("ada"))
    token = ada.csrf("/account")
    for row in corrected:
        said = chosen.said(row)
        path, form = open_form(chosen, row, project, make, ada)
        typed = said.output if isinstance(said.output, str) else json.dumps(said.output)
        typed = typed.replace("\r\n", "\n").replace("\n", "\r\n")
        form = {name: text for name, text in form.items() if not name.startswith("output")}
        sent = form | {"csrf_token": token, "verdict": "edit", "output": typed, "reason": said.reason}
        answer = ada.post(path, data=sent)
        assert answer.status_code == 303, (row["id"], answer.text[:300])
        decision = decision_of(form)
        assert decision.edited
        assert decision.output == said.output, row["id"]


def open_form(
    chosen: RealSet, row: Row, project: Any, make: Make, visitor: Any
) -> tuple[str, dict[str, str]]:
    """Submit the row and claim it; where its form goes, and what stands in it."""
    fields = chosen.submission(row) | {"confidence": 0.1}
    fields.pop("project")
    item = make.item(project, **fields)
    token = make.claim(make.person("ada"), item).token
    page = visitor.get(f"/claims/{token}")
    assert page.status_code == 200
    return f"/claims/{token}/decision", Form(page.text).fields


def decision_of(form: dict[str, str]) -> Decision:
    db.session.rollback()
    return db.session.scalars(select(Decision).where(Decision.id == form["decision_id"])).one()
