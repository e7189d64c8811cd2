"""One line of JSON for each event, that says where something failed and never what was sent."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, request
from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from reviewqueue.db import db
from reviewqueue.delivery.deliver import deliver_due
from reviewqueue.logs import Lines
from reviewqueue.models import Item
from tests.listener import listener
from tests.make import Make

CANARY = "Zaphod-Beeblebrox"


def line(message: str, *args: Any, name: str = "reviewqueue.x", **more: Any) -> dict[str, Any]:
    """What a record is written as."""
    record = logging.getLogger(name).makeRecord(
        name, logging.ERROR, "f", 1, message, args, **{"exc_info": None} | more
    )
    written = Lines().format(record)
    assert "\n" not in written
    told: dict[str, Any] = json.loads(written)
    return told


def test_lines_tell_the_kind_and_place_of_an_exception_and_not_its_message() -> None:
    try:
        raise OperationalError(f"INSERT … {CANARY}", {"output": CANARY}, Exception(CANARY))
    except OperationalError as error:
        told = line(
            "the relay could not do %s", "deliver", exc_info=(type(error), error, error.__traceback__)
        )
    assert told["event"] == "the relay could not do deliver"
    assert told["error"] == "OperationalError"
    assert told["where"][-1].startswith("tests/test_logs.py:")
    assert CANARY not in str(told)


def test_lines_of_libraries_that_quote_end_where_the_quotation_begins() -> None:
    assert line(f"Invalid request from ip=::1: {CANARY}", name="gunicorn.error")["event"].startswith(
        "Invalid request"
    )
    for name, message, args in (
        ("gunicorn.error", "Error handling request %s %s", ("GET", f"/login/link/{CANARY}")),
        ("gunicorn.error", f"Invalid request from ip: {CANARY}", ()),
        ("rq.worker", "exception raised while executing (%s)", (CANARY,)),
        ("rq.worker", f"failed\n{CANARY}", ()),
    ):
        assert CANARY not in str(line(message, *args, name=name)), message
    assert "12" in line("Worker (pid:%s) exited", 12, name="gunicorn.error")["event"]


def test_a_line_can_neither_be_broken_nor_forged() -> None:
    told = line("odd %s", 'a\nb"}\x1b[31m', extra={"said": {"ids": ["itm_1"]}})
    assert told["ids"] == ["itm_1"]


@pytest.mark.sqlite
@pytest.mark.own_app
def test_a_request_is_followed_by_its_id_from_the_edge_to_the_callback(
    app: Flask, client: Callable[..., Any], make: Make, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    caplog.set_level(logging.INFO, "reviewqueue")
    project = make.project(undo_seconds=0)
    ada = client(make.person("ada"))
    with listener() as called:
        new = make.backend(project, callback=called.url)
        called.secret = new.callback_secret
        bearer = {"Authorization": f"Bearer {new.api_key}", "X-Request-Id": "from-the-backend-1"}
        body = {"project": project.name, "output": CANARY, "confidence": 0.1}
        item = client().post("/api/v1/items", json=body, headers=bearer).json["id"]
        token = make.claim(make.person("ada"), db_item(item)).token
        form = {"decision_id": "dec_" + "0" * 26, "verdict": "approve", "output": CANARY}
        answer = ada.send(f"/claims/{token}/decision", form, headers={"X-Request-Id": "from-the-browser-2"})
        assert answer.status_code == 303, answer.text
        assert deliver_due() == 1
        assert len(called.once()) == 1
    lines = [json.loads(text) for text in capfd.readouterr().err.splitlines() if text.startswith("{")]
    submitted = next(one for one in lines if one["request_id"] == "from-the-backend-1")
    assert submitted["ids"] == [item]
    decided = next(one for one in lines if one["request_id"] == "from-the-browser-2")
    assert decided["actor"] == make.person("ada").id
    (attempt,) = (record.said for record in caplog.records if record.message == "attempt")  # type: ignore[attr-defined]
    assert (attempt["request_id"], attempt["outcome"]) == ("from-the-browser-2", "ok")
    assert CANARY not in str(lines) + caplog.text


def db_item(id: str) -> Item:
    return db.session.scalars(select(Item).where(Item.id == id)).one()


@pytest.mark.sqlite
@pytest.mark.own_app
def test_a_failure_answers_with_the_request_id_alone(
    app: Flask, client: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> str:
        raise RuntimeError(request.get_data(as_text=True) + request.headers["Authorization"])

    fail.right = None  # type: ignore[attr-defined]
    app.add_url_rule("/api/v1/fail", "intake_api.fail", fail, methods=["POST"])
    answer = client().post("/api/v1/fail", data=CANARY, headers={"Authorization": CANARY})
    assert (answer.status_code, answer.json["code"]) == (500, "internal_error")
    logged = capfd.readouterr().err
    assert answer.json["request_id"] in logged
    assert "test_logs.py" in logged
    assert CANARY not in logged + answer.text
