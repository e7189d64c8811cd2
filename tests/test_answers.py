"""Headers on every answer, refusals as pages, notices or problems, one line of log a request."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from reviewqueue import metrics, web
from reviewqueue.answers import CSP, HEADERS
from reviewqueue.errors import Busy, Conflict, Forbidden, Invalid, Missing
from tests.make import Make
from tests.routes import path_of

pytestmark = [pytest.mark.sqlite, pytest.mark.own_app]  # nothing here depends on the database


def test_every_answer_carries_the_headers(app: Flask, client: Callable[..., Any], make: Make) -> None:
    app.add_url_rule("/broken", "broken", web.right(None)(_break))
    dora = client(make.person("dora"))
    paths = {path_of(rule): 0 for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())}
    paths |= {
        "/nothing": 404,
        "/static/app.css": 200,
        "/static/nothing": 404,
        "/api/v1/nothing": 404,
        "/broken": 500,
    }
    statuses = set()
    for path, expected in paths.items():
        answer = dora.get(path)
        statuses.add(answer.status_code)
        assert expected in (0, answer.status_code), path
        assert_headers(answer)
    for path in ("/login", "/api/v1/items"):
        big = dora.post(path, data=b"x" * ((1 << 20) + 1), content_type="application/json")
        assert big.status_code == 413
        assert_headers(big)
    assert_headers(dora.post("/account"))
    assert {200, 404, 500} <= statuses


def _break() -> str:
    raise RuntimeError("the customer's name is Zaphod")


def assert_headers(answer: Any) -> None:
    for name, value in HEADERS.items():
        assert answer.headers.getlist(name) == [value]
    assert answer.headers["X-Request-Id"]
    assert "Set-Cookie" not in answer.headers or "HttpOnly" in answer.headers["Set-Cookie"]
    lasting = answer.request.path.startswith("/static/") and answer.status_code == 200
    assert (answer.headers["Cache-Control"] == "no-store") is not lasting


def test_the_policy_is_the_agreed_one() -> None:
    assert CSP == (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'; "
        "require-trusted-types-for 'script'; trusted-types rq-htmx; report-uri /csp"
    )


def test_a_request_id_is_kept_when_it_is_sane(client: Callable[..., Any]) -> None:
    assert (
        client().get("/login", headers={"X-Request-Id": "abc-12345"}).headers["X-Request-Id"] == "abc-12345"
    )
    for odd in ("short", "has space and more", "a" * 65, '"><script>alert(1)'):
        assert client().get("/login", headers={"X-Request-Id": odd}).headers["X-Request-Id"] != odd


REFUSALS = [
    (Invalid("no good", field="/output"), 422, "invalid", None),
    (Missing("not here"), 404, "not_found", None),
    (Forbidden("not you"), 403, "forbidden", None),
    (Conflict("too late", "already_decided"), 409, "already_decided", None),
    (Busy("later", retry_after=7), 503, "busy", "7"),
    (Busy("slower", "rate_limited", retry_after=3), 429, "rate_limited", "3"),
]


@pytest.mark.parametrize(("refusal", "status", "code", "after"), REFUSALS)
def test_a_refusal_is_a_page_a_notice_or_a_problem(
    refusal: Exception, status: int, code: str, after: str | None, app: Flask, client: Callable[..., Any]
) -> None:
    def refuse() -> str:
        raise refusal

    app.add_url_rule("/no", "no", web.right(None)(refuse))
    app.add_url_rule("/api/v1/no", "api_no", web.right(None)(refuse))
    page = client().get("/no")
    assert (page.status_code, page.mimetype, page.headers.get("Retry-After")) == (status, "text/html", after)
    assert str(refusal).capitalize() in page.text
    notice = client().get("/no", headers={"HX-Request": "true"})
    assert (notice.status_code, notice.headers["HX-Retarget"]) == (status, "#notices")
    assert "<html" not in notice.text
    problem = client().get("/api/v1/no")
    assert problem.mimetype == "application/problem+json"
    assert problem.headers.get("Retry-After") == after
    body = problem.get_json(force=True)
    assert (body["status"], body["code"], body["detail"]) == (status, code, str(refusal))
    assert {"type", "title", "request_id"} <= set(body)
    assert ("errors" in body) is (status == 422)
    if status == 422:
        assert body["errors"] == [{"pointer": "/output", "message": "no good"}]


def test_every_422_says_where(app: Flask, client: Callable[..., Any]) -> None:
    def refuse() -> str:
        raise Invalid("no good", errors=[])

    app.add_url_rule("/api/v1/no", "api_no", web.right(None)(refuse))
    body = client().get("/api/v1/no").get_json(force=True)
    assert body["errors"] == [{"pointer": "", "message": "no good"}]


def test_a_failure_tells_nothing_but_its_request_id(
    app: Flask, client: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    app.add_url_rule("/broken", "broken", web.right(None)(_break))
    app.add_url_rule("/api/v1/broken", "api_broken", web.right(None)(_break))
    for path in ("/broken", "/api/v1/broken"):
        answer = client().get(path, headers={"X-Request-Id": "find-me-1"})
        assert answer.status_code == 500
        assert "find-me-1" in answer.text
        assert "Zaphod" not in answer.text
    logged = capfd.readouterr().err
    assert "find-me-1" in logged
    assert "Zaphod" not in logged
    assert "_break" in logged


def test_a_page_that_cannot_be_drawn_is_still_answered(app: Flask, client: Callable[..., Any]) -> None:
    app.template_context_processors[None].append(lambda: {"asset": None})
    answer = client().get("/nothing")
    assert (answer.status_code, answer.mimetype) == (404, "text/plain")
    assert_headers(answer)


def test_the_log_has_one_line_a_request_without_tokens(
    client: Callable[..., Any], make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    path = make.sign_in_path(make.person("ada"))
    capfd.readouterr()
    client().get(path, headers={"X-Request-Id": "line break-1"})
    lines = capfd.readouterr().err.splitlines()
    entry = json.loads(lines[-1])
    assert (entry["event"], entry["route"], entry["status"]) == ("request", "/login/link/<token>", 303)
    assert path.rpartition("/")[2] not in "".join(lines)


def test_a_log_that_cannot_be_written_stops_nobody(client, monkeypatch):
    class Full:
        def write(self, _line=""):
            raise OSError(28, "No space left on device")

        flush = write

    before = metrics.LOG_LINES_DROPPED._value.get()
    monkeypatch.setattr("sys.stderr", Full())
    assert client().get("/healthz").status_code == 200
    assert metrics.LOG_LINES_DROPPED._value.get() > before
