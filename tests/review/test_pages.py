"""The reviewer's pages over plain HTTP, as a browser without script sees them."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.models import Claim, Decision, Item, Review

OUTPUTS_EDITED: dict[str, dict[str, str]] = {
    "text": {"output": "Your parcel left our warehouse on Tuesday."},
    "markdown": {"output": "Your parcel left on **Tuesday**."},
    "json": {"output.total": "13.5"},
    "label": {"output": "delivery"},
    "chat": {"output": "It left on Tuesday."},
    "tool_call": {"output.arguments.amount": "25"},
}
CORRECTED: dict[str, Any] = {
    "text": "Your parcel left our warehouse on Tuesday.",
    "markdown": "Your parcel left on **Tuesday**.",
    "json": {"total": 13.5, "currency": "EUR"},
    "label": "delivery",
    "chat": [{"role": "assistant", "content": "It left on Tuesday."}],
    "tool_call": {"name": "refund", "arguments": {"order": "A-17", "amount": 25}},
}


def form_of(page: str, form_id: str = "decision-form") -> dict[str, str]:
    """The fields of a form as a browser would send them when nothing is touched."""
    body = re.search(rf'<form id="{form_id}".*?</form>', page, re.DOTALL)
    assert body, f"no form {form_id}"
    fields: dict[str, str] = {}
    for tag in re.findall(r"<input [^>]*>", body[0]):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name:
            fields[html.unescape(name[1])] = html.unescape(value[1]) if value else ""
    for name, text in re.findall(r'<textarea[^>]* name="([^"]*)"[^>]*>\n?(.*?)</textarea>', body[0], re.DOTALL):
        fields[html.unescape(name)] = html.unescape(text).replace("\n", "\r\n")
    for name, options in re.findall(r'<select[^>]* name="([^"]*)"[^>]*>(.*?)</select>', body[0], re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', options) or re.search(r'value="([^"]*)"', options)
        fields[html.unescape(name)] = html.unescape(chosen[1]) if chosen else ""
    return fields


def claimed(visitor: Any, queue: str = "/queues/support-replies/main") -> str:
    """Claim the next review of the queue and give its address."""
    answer = visitor.send(f"{queue}/claims")
    assert answer.status_code == 303, answer.text
    return str(answer.location)


def decided(visitor: Any, address: str, verdict: str, **fields: str) -> Any:
    """Send the form of the review page with a verdict, and with `fields` changed."""
    form = form_of(visitor.get(address).text)
    return visitor.post(f"{address}/decision", data={**form, "verdict": verdict, **fields})


@pytest.mark.parametrize("kind", list(OUTPUTS_EDITED))
def test_decide_edit_keeps_kind_and_types(kind: str, client: Any, make: Any) -> None:
    item = make.item(make.project(kind=kind))
    ada = client(make.person("ada"))
    address = claimed(ada)
    page = ada.get(address).text
    assert item.id in page
    answer = ada.post(
        f"{address}/decision",
        data={**form_of(page), **OUTPUTS_EDITED[kind], "verdict": "edit", "reason": "wrong fact"},
    )
    assert answer.status_code == 303, answer.text
    decision = db.session.scalars(select(Decision).where(Decision.item_id == item.id)).one()
    assert decision.verdict == "edit"
    assert decision.output == CORRECTED[kind]
    assert [type(part) for part in _leaves(decision.output)] == [type(part) for part in _leaves(CORRECTED[kind])]


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    return [leaf for inner in value for leaf in _leaves(inner)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("kind", list(OUTPUTS_EDITED))
def test_decide_approve_sends_the_shown_output_back_unchanged(kind: str, client: Any, make: Any) -> None:
    item = make.item(make.project(kind=kind))
    ada = client(make.person("ada"))
    answer = decided(ada, claimed(ada), "approve")
    assert answer.status_code == 303, answer.text
    decision = db.session.scalars(select(Decision).where(Decision.item_id == item.id)).one()
    assert (decision.verdict, decision.output, decision.edited) == ("approve", item.output, False)
