"""The decision form: what it holds, what was typed, which output that makes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from reviewqueue.desk import form as forms
from reviewqueue.errors import Invalid
from reviewqueue.models import Item, Project
from tests.make import OUTPUTS, SCHEMAS


def pair(kind: str, output: Any = None, **fields: Any) -> tuple[Project, Item]:
    project = Project(kind=kind, schema=SCHEMAS.get(kind), reasons=["tone"], causes=["prompt"])
    return project, Item(output=OUTPUTS[kind] if output is None else output, **fields)


@pytest.mark.parametrize("kind", list(OUTPUTS))
def test_fill_then_send_back_changes_nothing(kind: str) -> None:
    project, item = pair(kind)
    form = forms.fill(project, item)
    sent = {field.name: field.value.replace("\n", "\r\n") for field in form.fields}
    if form.raw is not None:
        sent["output"] = form.raw.replace("\n", "\r\n")
    assert forms.outcome(project, item, "approve", sent) is None
    assert forms.output_of(project, item, sent) == item.output
    assert forms.says_nothing(project, item, {**sent, "note": ""})


def test_fill_shows_a_draft_and_its_faults_by_the_field() -> None:
    project, item = pair("json")
    typed = {"output.total": "many", "reason": "tone", "note": "why?"}
    faults = [
        {"pointer": "output.total", "message": "Must be a number."},
        {"pointer": "output.lines", "message": "is required"},
    ]
    form = forms.fill(project, item, typed, faults)  # type: ignore[arg-type]
    assert {field.name: field.value for field in form.fields}["output.total"] == "many"
    assert (form.reason, form.note) == ("tone", "why?")
    assert form.faults == {"output.total": "Must be a number."}
    assert list(form.elsewhere) == ["lines: is required"]


def test_fill_puts_a_whole_correction_into_its_fields() -> None:
    project, item = pair("tool_call")
    kept = '{"name": "refund", "arguments": {"order": "A-17", "amount": 25}}'
    form = forms.fill(project, item, {"output": kept})
    assert {field.name: field.value for field in form.fields}["output.arguments.amount"] == "25"
    assert not form.raw_changed
    project, item = pair(
        "chat", [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    )
    kept = '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Good day"}]'
    assert forms.fill(project, item, {"output": kept}).fields[0].value == "Good day"


def test_fill_keeps_raw_json_that_no_field_can_show() -> None:
    project, item = pair("json")
    form = forms.fill(project, item, {"output": "{not json"})
    assert form.raw == "{not json"
    assert form.raw_changed


def test_fill_gives_a_correction_of_another_shape_its_own_fields() -> None:
    project, item = pair("json")
    corrected = {"total": 1, "extra": [1, 2]}
    form = forms.fill(project, item, {"output": json.dumps(corrected), "note": "n"})
    fields = {field.name: field.value for field in form.fields}
    assert fields == {"output.total": "1", "output.extra.0": "1", "output.extra.1": "2"}
    assert (form.raw_changed, form.note) == (False, "n")
    assert forms.output_of(project, item, fields | {"shape": form.shape or ""}) == corrected


def test_fill_puts_the_models_own_labels_first() -> None:
    project, item = pair("label", samples=["other", "refund", "no such label"])
    form = forms.fill(project, item)
    assert list(form.top) == ["refund", "other"]


def test_outcome_refuses_to_approve_a_changed_output() -> None:
    project, item = pair("text")
    with pytest.raises(Invalid) as refused:
        forms.outcome(project, item, "approve", {"output": "Something else."})
    assert refused.value.errors[0]["pointer"] == "output"
    assert forms.outcome(project, item, "approve", {"output": ""}) is None
    assert forms.outcome(project, item, "approve", {}) is None
    assert forms.outcome(project, item, "reject", {"output": "Something else."}) is None
    assert forms.outcome(project, item, "edit", {"output": "Something else."}) == "Something else."


def test_draft_of_takes_the_forms_own_fields_only() -> None:
    sent = {
        "csrf_token": "t",
        "decision_id": "d",
        "verdict": "edit",
        "output": "x",
        "output.a": "1",
        "note": "n",
    }
    assert forms.draft_of(sent) == {"output": "x", "output.a": "1", "note": "n"}
    assert forms.draft_of({"csrf_token": "t"}) is None
