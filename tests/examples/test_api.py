"""The examples API as a backend uses it, and what it refuses."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from reviewqueue.examples.collect import retire
from reviewqueue.people.access import SYSTEM
from reviewqueue.people.backends import add_key
from tests.examples.conftest import Teach
from tests.make import Make

pytestmark = pytest.mark.usefixtures("app")

PARCEL = "Where is the parcel that I ordered last Monday?"
Call = Callable[..., Any]


@pytest.fixture
def call(client: Any, make: Make, project: Any) -> Call:
    """Asks as the project's backend: `call("get", path)` or `call("post", path, json=…)`."""

    def ask(method: str, path: str, key: str | None = None, **sent: Any) -> Any:
        key = key or make.backend(project).api_key
        headers = {"Authorization": f"Bearer {key}"} | sent.pop("headers", {})
        path = f"/api/v1/projects/{sent.pop('project', project.name)}/{path}"
        return getattr(client(), method)(path, headers=headers, **sent)

    return ask


def test_search_answers_as_the_contract_says(call: Call, active: Teach) -> None:
    example = active(PARCEL, "At the depot.", "Who knows.", reason="wrong fact")
    answer = call("post", "examples/search", json={"input": PARCEL})
    assert answer.status_code == 200
    told = answer.json
    assert (told["set"], told["arm"], told["set_id"][:4]) == (1, "examples", "set_")
    (found,) = told["examples"]
    assert found.pop("score") == pytest.approx(1.0)
    assert found.pop("decided_at").endswith("Z")
    assert found == {
        "id": example.id,
        "input": PARCEL,
        "output": "At the depot.",
        "rejected_output": "Who knows.",
        "reason": "wrong fact",
        "item": example.item_id,
    }
    assert told["messages"] == [
        {"role": "user", "content": PARCEL},
        {"role": "assistant", "content": "At the depot."},
    ]


def test_search_leaves_the_item_out_that_it_is_for(call: Call, active: Teach) -> None:
    example = active(PARCEL, "At the depot.")
    asked = {"input": PARCEL, "item": example.item_id}
    assert call("post", "examples/search", json=asked).json["examples"] == []


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/input"),
        ({"input": None}, "/input"),
        ({"input": "x", "k": 0}, "/k"),
        ({"input": "x", "k": 51}, "/k"),
        ({"input": "x", "k": "5"}, "/k"),
        ({"input": "x", "k": True}, "/k"),
        ({"input": "x", "max_tokens": 0}, "/max_tokens"),
        ({"input": "x", "limit": 5}, "/limit"),
        ([], ""),
        ("x", ""),
    ],
)
def test_search_refuses_a_body_with_a_pointer(call: Call, body: Any, pointer: str) -> None:
    answer = call("post", "examples/search", json=body)
    assert (answer.status_code, answer.mimetype) == (422, "application/problem+json")
    assert [fault["pointer"] for fault in answer.json["errors"]] == [pointer]


@pytest.mark.parametrize(
    "raw", ['{"input": "a", "input": "b"}', '{"input": NaN}', '{"input": "\\u0000"}', "{", ""]
)
def test_search_reads_strict_json(call: Call, raw: str) -> None:
    answer = call("post", "examples/search", data=raw, content_type="application/json")
    assert answer.status_code == 422
    assert answer.json["errors"]


def test_search_takes_json_alone(call: Call) -> None:
    assert call("post", "examples/search", data={"input": "x"}).status_code == 415


def test_examples_need_a_key_with_the_scope(call: Call, client: Any, make: Make, project: Any) -> None:
    path = f"/api/v1/projects/{project.name}/examples/search"
    assert client().post(path, json={"input": "x"}).status_code == 401
    assert client(make.person("cleo")).post(path, json={"input": "x"}).status_code == 401
    backend = make.backend(project).backend
    writer = add_key(SYSTEM, backend, ["items:write"]).text
    reader = add_key(SYSTEM, backend, ["examples:read"]).text
    assert call("post", "examples/search", writer, json={"input": "x"}).status_code == 403
    assert call("post", "examples/search", reader, json={"input": "x"}).status_code == 200
    assert call("get", "examples/export", reader).status_code == 403
    assert call("get", "example-sets/1", writer).status_code == 403


def test_examples_of_another_project_are_missing(call: Call, make: Make, active: Teach) -> None:
    other = make.project("other", undo_seconds=0)
    active(PARCEL, "At the depot.", project=other)
    for name in ("other", "nobody"):
        assert call("post", "examples/search", project=name, json={"input": PARCEL}).status_code == 404
        assert call("get", "example-sets/1", project=name).status_code == 404
        assert call("get", "examples/export", project=name).status_code == 404


def test_example_set_is_the_same_for_ever(call: Call, make: Make, active: Teach) -> None:
    one, two = active(PARCEL, "At the depot."), active("How do I return it?", "Use the label.")
    first = call("get", "example-sets/2")
    assert [example["id"] for example in first.json["examples"]] == [one.id, two.id]
    assert first.json["set"] == 2
    tag = first.headers["ETag"]
    assert first.json["set_id"] in tag
    assert "immutable" in first.headers["Cache-Control"]
    retire(make.person("cleo"), one.id)
    again = call("get", "example-sets/2")
    assert (again.data, again.headers["ETag"]) == (first.data, tag)
    unchanged = call("get", "example-sets/2", headers={"If-None-Match": tag})
    assert (unchanged.status_code, unchanged.data) == (304, b"")
    assert call("get", "example-sets/3").headers["ETag"] != tag
    for number in ("0", "4", "9" * 40):
        assert call("get", f"example-sets/{number}").status_code == 404


def test_export_streams_each_format(call: Call, active: Teach) -> None:
    active(PARCEL, "=SUM(A1)")
    full = call("get", "examples/export")
    assert full.mimetype == "application/x-ndjson"
    assert json.loads(full.text)["output"] == "=SUM(A1)"
    table = call("get", "examples/export?format=csv")
    assert table.mimetype == "text/csv"
    assert "attachment" in table.headers["Content-Disposition"]
    (row,) = csv.DictReader(io.StringIO(table.text, newline=""))
    assert row["output"] == "'=SUM(A1)"
    assert call("get", "examples/export?format=openai-chat").text.count("\n") == 1
    refused = call("get", "examples/export?format=xlsx")
    assert (refused.status_code, refused.json["errors"][0]["pointer"]) == (422, "format")
