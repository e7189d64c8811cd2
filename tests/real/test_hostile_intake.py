"""Every hostile input of the data at the door, byte for byte: stored as it is, or refused with a place.

What a row of the JSON test suite must do stands in the data: `accept` may still be refused for one of the
reasons that are ours (a key twice, NUL, half a surrogate pair, a number no double holds).
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import func, select

from reviewqueue.db import db
from reviewqueue.models import Item
from tests.make import Make
from tests.real.load import DATA, require_folder

LIMIT = 1 << 20  # bytes
OURS = ("twice", "NUL", "surrogate", "number", "beyond", "deep")

Post = Callable[[bytes], Any]


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    require_folder("hostile")
    lines = (DATA / "hostile" / "strings.jsonl").read_text("utf-8").split("\n")
    found = [json.loads(line) for line in lines if line]
    assert len(found) > 1800
    return found


@pytest.fixture
def environ() -> dict[str, str]:
    return {"REVIEWQUEUE_INTAKE_RATE": "0"}


@pytest.fixture
def post(client: Callable[..., Any], make: Make) -> Post:
    """Submit an item whose `input` is written exactly so."""
    key = make.backend(make.project()).api_key
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    visitor = client()

    def post(written: bytes) -> Any:
        body = b'{"project": "support-replies", "output": "x", "input": ' + written + b"}"
        return visitor.post("/api/v1/items", data=body, headers=headers)

    return post


def written(row: dict[str, Any]) -> bytes:
    """The bytes of a row, built by its recipe where there is one."""
    if recipe := row.get("recipe"):
        unit, times = recipe["unit"], recipe["times"]
        text = recipe.get("prefix", "") + unit * times + recipe["suffix"] + recipe.get("close", "") * times
        return (f"{{{text.rstrip(',')}}}" if recipe.get("wrap") == "object" else text).encode()
    return base64.b64decode(row["bytes_b64"]) if row["text"] is None else row["text"].encode()


def stored() -> int:
    db.session.rollback()
    return db.session.scalar(select(func.count()).select_from(Item)) or 0


def refusal(answer: Any) -> str:
    """Why something was refused, once it is clear that the answer says where and repeats nothing."""
    problem = answer.json
    assert answer.mimetype == "application/problem+json"
    assert problem["errors"], problem
    assert all(set(error) == {"pointer", "message"} for error in problem["errors"])
    return " ".join(error["message"] for error in problem["errors"])


def test_json_is_read_as_strictly_as_its_test_suite_asks(rows: list[dict[str, Any]], post: Post) -> None:
    statuses: dict[str, set[int]] = {"accept": set(), "reject": set(), "either": set()}
    count = 0
    for row in rows:
        if row["category"] != "json":
            continue
        answer = post(written(row))
        count += answer.status_code == 201
        statuses[row["expect"]].add(answer.status_code)
        if row["expect"] == "reject":
            assert answer.status_code == 422, row["json_name"]
        elif answer.status_code != 201:
            assert answer.status_code == 422, row["json_name"]
            ours = any(word in refusal(answer) for word in OURS)
            assert ours or row["expect"] == "either", (row["json_name"], refusal(answer))
    assert statuses["reject"] == {422}
    assert 201 in statuses["accept"]
    assert stored() == count


def test_bytes_that_are_no_utf8_are_refused(rows: list[dict[str, Any]], post: Post) -> None:
    broken = [row for row in rows if row["text"] is None]
    assert len(broken) > 50
    for row in broken:
        if row["category"] == "utf8":
            answer = post(b'"' + base64.b64decode(row["bytes_b64"]) + b'"')
            assert answer.status_code == 422, row["id"]
            assert "UTF-8" in refusal(answer)
    assert stored() == 0


def test_texts_with_nul_are_refused(rows: list[dict[str, Any]], post: Post) -> None:
    texts = [row["text"] for row in rows if "\0" in (row["text"] or "")]
    assert texts
    for text in texts:
        assert "NUL" in refusal(post(json.dumps(text).encode()))
    assert stored() == 0


def test_every_text_is_kept_letter_by_letter(
    rows: list[dict[str, Any]], client: Callable[..., Any], make: Make
) -> None:
    key = {"Authorization": f"Bearer {make.backend(make.project()).api_key}"}
    texts = [row["text"] for row in rows if "\0" not in (row["text"] or "\0") and not row.get("recipe")]
    visitor = client()
    for start in range(0, len(texts), 200):
        some = texts[start : start + 200]
        items = [{"project": "support-replies", "output": text, "input": {text: text}} for text in some]
        results = visitor.post("/api/v1/items/batch", json={"items": items}, headers=key).json["results"]
        assert {result["status"] for result in results} == {201}
    db.session.rollback()
    found = db.session.scalars(select(Item).order_by(Item.number)).all()
    assert [(item.output, item.input) for item in found] == [(text, {text: text}) for text in texts]


def test_inputs_that_are_too_much_are_answered_quickly_and_without_an_error(
    rows: list[dict[str, Any]], post: Post
) -> None:
    seen = set()
    for row in rows:
        if not row.get("recipe"):
            continue
        raw = written(row)
        for body in (raw, json.dumps(raw.decode()).encode()):  # as JSON itself, and as a text
            answer = post(body)
            seen.add(answer.status_code)
            assert answer.status_code in ((413,) if len(body) > LIMIT else (201, 422)), row["id"]
    assert seen == {201, 413, 422}
