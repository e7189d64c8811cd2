"""What stands around every view: rights, origin, tokens, headers, and refusals as pages or problems."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from typing import Any

import pytest
from flask import Flask, request
from sqlalchemy import select
from werkzeug.routing import Rule

from reviewqueue import web
from reviewqueue.admission import right_of
from reviewqueue.answers import CSP, HEADERS
from reviewqueue.config import Settings
from reviewqueue.db import db, transaction
from reviewqueue.errors import Busy, Conflict, Forbidden, Invalid, Missing
from reviewqueue.models import Person
from reviewqueue.people.access import RIGHTS, SCOPES
from tests.make import Make

pytestmark = pytest.mark.sqlite  # nothing here depends on the database
FILLING = {"number": 1, "version": 1, "seq": 1, "item_id": "itm_" + "0" * 26}


def path_of(rule: Rule) -> str:
    """An address of this route, its parts filled with things that are not there."""
    values = {name: FILLING.get(name, f"{name}-x") for name in rule.arguments}
    _, address = rule.build(values, append_unknown=False) or ("", "")
    assert address, rule.rule
    return address


def changes(app: Flask) -> Iterator[tuple[str, str]]:
    """(method, address) of every state change a browser can ask for."""
    for rule in app.url_map.iter_rules():
        blueprint = rule.endpoint.partition(".")[0]
        for method in sorted((rule.methods or set()) - {"GET", "HEAD", "OPTIONS"}):
            if not blueprint.endswith("_api"):
                yield method, path_of(rule)


def test_every_view_declares_a_right_or_the_app_does_not_start(app: Flask) -> None:
    naked = Flask("naked")
    naked.add_url_rule("/x", "x", lambda: "x")
    with pytest.raises(RuntimeError, match="the view x"):
        right_of(naked, next(rule for rule in naked.url_map.iter_rules() if rule.endpoint == "x"))
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            assert right_of(app, rule) in {None, *RIGHTS}


def test_right_refuses_a_word_that_is_none() -> None:
    with pytest.raises(RuntimeError, match="fly is not a right"):
        web.right("fly")


def test_every_change_refuses_what_is_not_our_form(
    app: Flask, client: Callable[..., Any], make: Make
) -> None:
    dora = client(make.person("dora"))
    token = dora.csrf("/account")
    good = {"csrf_token": token}
    cases: list[tuple[int, dict[str, Any]]] = [
        (400, {"data": {}}),
        (400, {"data": {"csrf_token": token[:-2] + "xx"}}),
        (400, {"data": {"csrf_token": client().csrf()}}),
        (403, {"data": good, "headers": {"Origin": "null"}}),
        (403, {"data": good, "headers": {"Origin": "https://evil.example"}}),
        (403, {"data": good, "headers": {"Origin": "http://127.0.0.1:8000.evil.example"}}),
        (403, {"data": good, "headers": {"Sec-Fetch-Site": "cross-site"}}),
        (403, {"data": good, "headers": {"Sec-Fetch-Site": "same-site"}}),
        (415, {"json": good, "headers": {"X-CSRFToken": token}}),
        (415, {"data": f"csrf_token={token}", "content_type": "text/plain"}),
    ]
    asked = list(changes(app))
    assert len(asked) > 20
    for method, path in asked:
        for status, sent in cases:
            answer = dora.open(path, method=method, **sent)
            assert answer.status_code == status, (method, path, sent)
    with app.test_request_context():
        assert db.session.scalar(select(Person.active).where(Person.email == "dora@example.org"))


def test_every_change_refuses_get(app: Flask, client: Callable[..., Any], make: Make) -> None:
    dora = client(make.person("dora"))
    reads = {rule.rule for rule in app.url_map.iter_rules() if "GET" in (rule.methods or ())}
    for rule in app.url_map.iter_rules():
        if rule.rule not in reads:
            assert dora.get(path_of(rule)).status_code in (404, 405), rule.rule


def test_a_form_of_ours_is_taken(client: Callable[..., Any], make: Make) -> None:
    ada = client(make.person("ada"))
    token = ada.csrf("/account")
    ours = {"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}
    assert ada.post("/account/theme", data={"theme": "dark", "csrf_token": token}).status_code == 303
    assert (
        ada.post("/account/theme", data={"theme": "dark"}, headers=ours | {"X-CSRFToken": token}).status_code
        == 303
    )


def test_a_token_is_bound_to_its_session(client: Callable[..., Any], make: Make) -> None:
    ada = client(make.person("ada"))
    before = ada.csrf("/account")
    ada.get(make.sign_in_path(make.person("ada")))
    assert ada.post("/account/theme", data={"theme": "dark", "csrf_token": before}).status_code == 400


@pytest.mark.parametrize("who", [None, "ada", "aud", "mallory"])
def test_every_view_asks_for_its_right(
    who: str | None, app: Flask, client: Callable[..., Any], make: Make
) -> None:
    actor = make.person(who) if who else None
    visitor = client(actor)
    token = visitor.csrf("/account" if who else "/login")
    for rule in app.url_map.iter_rules():
        needed = None if rule.endpoint == "static" else right_of(app, rule)
        if needed is None or rule.rule == "/account/sessions/end":
            continue  # what ends the session would end the test
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            answer = visitor.open(path_of(rule), method=method, headers={"X-CSRFToken": token})
            told = (rule.rule, method, answer.status_code)
            if needed in SCOPES:
                assert answer.status_code == 401, told
                assert answer.mimetype == "application/problem+json"
            elif actor is None:
                assert answer.status_code == 303, told
                assert answer.location.startswith("/login"), told
            elif actor.role not in RIGHTS[needed]:
                assert answer.status_code == 403, told
            else:
                assert answer.status_code not in (401, 403, 500), told


def test_a_key_opens_no_page(client: Callable[..., Any], make: Make) -> None:
    key = make.backend(make.project()).api_key
    answer = client().get("/people", headers={"Authorization": f"Bearer {key}"})
    assert (answer.status_code, answer.location) == (303, "/login?next=/people")


def test_a_session_opens_no_api(app: Flask, client: Callable[..., Any], make: Make) -> None:
    dora = client(make.person("dora"))
    asked = [rule for rule in app.url_map.iter_rules() if _needs_key(app, rule)]
    for rule in asked:
        method = next(iter((rule.methods or set()) - {"HEAD", "OPTIONS"}))
        assert dora.open(path_of(rule), method=method).status_code == 401, rule.rule


def _needs_key(app: Flask, rule: Rule) -> bool:
    return rule.endpoint != "static" and right_of(app, rule) in SCOPES


# --- headers ---------------------------------------------------------------------------------------


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
        _assert_headers(answer)
    for path in ("/login", "/api/v1/items"):
        big = dora.post(path, data=b"x" * ((1 << 20) + 1), content_type="application/json")
        assert big.status_code == 413
        _assert_headers(big)
    _assert_headers(dora.post("/account"))
    assert {200, 404, 500} <= statuses


def _break() -> str:
    raise RuntimeError("the customer's name is Zaphod")


def _assert_headers(answer: Any) -> None:
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


def test_static_files_with_a_fingerprint_are_kept(app: Flask, client: Callable[..., Any]) -> None:
    page = client().get("/login").text
    with app.test_request_context():
        address = web.asset("app.css")
    assert f'href="{address}"' in page
    assert "immutable" in client().get(address).headers["Cache-Control"]


@pytest.mark.parametrize(("size", "status"), [(1 << 20, 415), ((1 << 20) + 1, 413)])
@pytest.mark.parametrize("said", [True, False])
def test_a_body_is_limited_whether_or_not_its_length_is_said(
    size: int, status: int, said: bool, client: Callable[..., Any], make: Make
) -> None:
    ada = client(make.person("ada"))
    token = ada.csrf("/account")
    body = Body(b"x" * size)
    length = {"CONTENT_LENGTH": str(size)} if said else {"HTTP_TRANSFER_ENCODING": "chunked"}
    answer = ada.post(
        "/account/theme", headers={"X-CSRFToken": token}, content_type="text/plain",
        environ_overrides={"wsgi.input": body, "wsgi.input_terminated": True, **length},
    )  # fmt: skip
    assert answer.status_code == status
    assert body.read() == b"", "what is left unread costs the client the connection"


class Body(BytesIO):
    """What a server hands over of a request; it cannot be closed by those who read it."""

    def close(self) -> None:
        pass


@pytest.fixture
def environ(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(getattr(request, "param", {}))


HTTPS = {"REVIEWQUEUE_PUBLIC_URL": "https://rq.example"}


@pytest.mark.parametrize("environ", [HTTPS], indirect=True)
def test_https_gets_a_host_cookie_and_hsts(client: Callable[..., Any], make: Make) -> None:
    ada = client()
    answer = ada.get(make.sign_in_path(make.person("ada")))
    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-rq=")
    assert {"Secure", "HttpOnly", "Path=/", "SameSite=Lax"} <= set(cookie.split("; "))
    assert "Domain" not in cookie
    assert answer.headers["Strict-Transport-Security"].startswith("max-age=31536000")
    assert ada.get("/account").status_code == 200


@pytest.mark.parametrize("environ", [HTTPS, HTTPS | {"REVIEWQUEUE_PROXY_HOPS": "1"}], indirect=True)
def test_forwarded_headers_are_believed_only_behind_a_known_proxy(
    app: Flask, client: Callable[..., Any], environ: dict[str, str]
) -> None:
    seen: list[str | None] = []
    app.before_request(lambda: seen.append(request.remote_addr))
    client().get("/login", headers={"X-Forwarded-For": "192.0.2.9, 192.0.2.7"})
    assert seen == ["192.0.2.7" if "REVIEWQUEUE_PROXY_HOPS" in environ else "127.0.0.1"]


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "a..b", "x" * 300, "[::", "\xff.example"]
)
def test_a_foreign_host_is_refused(host: str, client: Callable[..., Any]) -> None:
    answer = client().get("/login", headers={"Host": host})
    assert answer.status_code == 400
    assert host not in answer.text
    _assert_headers(answer)


def test_a_request_id_is_kept_when_it_is_sane(client: Callable[..., Any]) -> None:
    assert (
        client().get("/login", headers={"X-Request-Id": "abc-12345"}).headers["X-Request-Id"] == "abc-12345"
    )
    for odd in ("short", "has space and more", "a" * 65, '"><script>alert(1)'):
        assert client().get("/login", headers={"X-Request-Id": odd}).headers["X-Request-Id"] != odd


# --- refusals ---------------------------------------------------------------------------------------

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
    _assert_headers(answer)


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


def test_an_unauthenticated_page_leads_to_sign_in_and_back(client: Callable[..., Any]) -> None:
    visitor = client()
    assert visitor.get("/people?a=1&b=2").location == "/login?next=/people%3Fa%3D1%26b%3D2"
    assert visitor.post("/people", data={"csrf_token": visitor.csrf()}).location == "/login"
    page = "http://127.0.0.1:8000/items/itm_1?tab=trail"
    htmx = visitor.get("/people", headers={"HX-Request": "true", "HX-Current-URL": page})
    assert (htmx.status_code, htmx.headers["HX-Redirect"]) == (401, "/login?next=/items/itm_1%3Ftab%3Dtrail")


@pytest.mark.parametrize(
    "address",
    ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)", "/a\nb", "", None],
)
def test_safe_next_keeps_own_paths_only(address: str | None) -> None:
    assert web.safe_next(address) == "/"
    assert web.safe_next("/items/itm_1?x=2") == "/items/itm_1?x=2"


def test_show_gives_the_part_that_htmx_asks_for(app: Flask, client: Callable[..., Any]) -> None:
    view = web.right(None)(lambda: web.show("errors/refusal.html", "errors/_notice.html", message="hello"))
    app.add_url_rule("/both", "both", view)
    whole, part = client().get("/both"), client().get("/both", headers={"HX-Request": "true"})
    restored = client().get("/both", headers={"HX-Request": "true", "HX-History-Restore-Request": "true"})
    assert "<html" in whole.text
    assert "<html" not in part.text
    assert "Hello." in part.text
    assert "<html" in restored.text
    assert "HX-Request" in whole.headers["Vary"]


# --- the routes of no stage ----------------------------------------------------------------------------


def test_readyz_names_every_part(client: Callable[..., Any]) -> None:
    answer = client().get("/readyz")
    assert answer.status_code == 200
    assert answer.json["checks"] == {
        "database": "ok", "schema": "ok", "disk": "ok", "ledger": "ok", "redis": "down",
    }  # fmt: skip


def test_readyz_says_redis_is_there(redis_url: str, client: Callable[..., Any]) -> None:
    assert client().get("/readyz").json["checks"]["redis"] == "ok"


def test_readyz_refuses_a_schema_that_is_not_the_newest(client: Callable[..., Any]) -> None:
    with transaction() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    answer = client().get("/readyz", headers={"Host": "10.0.0.1"})
    assert (answer.status_code, answer.json["checks"]["schema"]) == (503, "not at the newest migration")
    assert answer.headers["Retry-After"]


def test_metrics_count_what_is_there(client: Callable[..., Any], make: Make) -> None:
    make.person("ada")
    text = client().get("/metrics").text
    assert "reviewqueue_ledger_entries" in text
    assert 'reviewqueue_oldest_seconds{kind="review"} 0.0' in text


def test_metrics_add_up_what_web_processes_counted(settings: Settings) -> None:
    program = """if True:
        import os, sys
        from reviewqueue.webserver import application
        app = application()
        for _ in range(3):
            if os.fork() == 0:
                app.test_client().get("/login")
                os._exit(0)
            os.wait()
        sys.stdout.write(app.test_client().get("/metrics").text)
    """
    given = {
        "REVIEWQUEUE_DATA_DIR": str(settings.data_dir),
        "REVIEWQUEUE_KEYS_DIR": str(settings.keys_dir),
        "DATABASE_URL": settings.database_url,
        "PATH": os.environ["PATH"],
    }
    ran = subprocess.run(
        [sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True
    )
    assert 'reviewqueue_requests_total{method="GET",status="200"} 3.0' in ran.stdout


def test_csp_reports_are_counted_and_tell_no_address(
    client: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    visitor = client()
    report = {
        "csp-report": {"effective-directive": "img-src", "blocked-uri": "https://evil.example/?leak=Zaphod"}
    }
    before = visitor.get("/metrics").text
    answer = visitor.post("/csp", data=json.dumps(report), content_type="application/csp-report")
    assert answer.status_code == 204
    for junk in (b"", b"[1, {}]", b"\xff", b'{"csp-report": 3}'):
        assert visitor.post("/csp", data=junk, content_type="application/reports+json").status_code == 204
    after = visitor.get("/metrics").text
    assert _count(after) == _count(before) + 5
    logged = capfd.readouterr().err
    assert "evil.example" in logged
    assert "Zaphod" not in logged


def _count(text: str) -> float:
    line = next(line for line in text.splitlines() if line.startswith("reviewqueue_csp_reports_total"))
    return float(line.split()[1])


def test_leave_shows_where_a_link_leads(client: Callable[..., Any], make: Make) -> None:
    ada = client(make.person("ada"))
    page = ada.get("/leave", query_string={"to": "https://ex\u00e4mple.org/a?b=<i>"}).text
    assert "<strong>ex\u00e4mple.org</strong>" in page
    assert "xn--exmple-cua.org" in page
    assert "<i>" not in page
    assert 'rel="noopener noreferrer nofollow"' in page
    for bad in ("javascript:alert(1)", "data:text/html,x", "//evil.example", "", "https://a\u202eb.example"):
        assert ada.get("/leave", query_string={"to": bad}).status_code == 422
    assert client().get("/leave?to=https://example.org").status_code == 303


def test_the_bar_offers_only_what_one_may_open(client: Callable[..., Any], make: Make) -> None:
    page = client(make.person("ada")).get("/account").text
    assert 'href="/people"' not in page
    assert 'href="/backends"' not in page
    page = client(make.person("dora")).get("/account").text
    assert 'href="/people"' in page
    assert 'href="/backends"' in page
