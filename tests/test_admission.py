"""Nothing reaches a view before host, length, origin, token and right are checked."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from flask import Flask, request
from sqlalchemy import select
from werkzeug.routing import Rule

from reviewqueue import web
from reviewqueue.admission import right_of
from reviewqueue.answers import HEADERS
from reviewqueue.db import db
from reviewqueue.models import Person
from reviewqueue.people.access import RIGHTS, SCOPES
from tests.make import Make
from tests.routes import changes, path_of

pytestmark = pytest.mark.sqlite  # nothing here depends on the database


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


HTTPS = {"REVIEWQUEUE_PUBLIC_URL": "https://rq.example"}


@pytest.fixture
def environ(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(getattr(request, "param", {}))


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
    assert answer.headers["Content-Security-Policy"] == HEADERS["Content-Security-Policy"]


class Body(BytesIO):
    """What a server hands over of a request; it cannot be closed by those who read it."""

    def close(self) -> None:
        pass


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


@pytest.mark.parametrize(
    "path", ["/deliveries/{}", "/examples/{}", "/policies/{}", "/items/{}", "/queues/{}/main", "/claims/{}"]
)
def test_a_name_that_holds_nul_is_missing(client: Callable[..., Any], make: Make, path: str) -> None:
    assert client(make.person("dora")).get(path.format("%00")).status_code == 404
