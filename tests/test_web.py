"""What pages share: the part htmx asks for, files that are kept, the cookie, the bar."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from reviewqueue import web
from reviewqueue.admission import right_of
from reviewqueue.db import now
from reviewqueue.people.access import RIGHTS
from tests.make import Make

pytestmark = [pytest.mark.sqlite, pytest.mark.own_app]  # nothing here depends on the database


def test_every_view_declares_a_right_or_the_app_does_not_start(app: Flask) -> None:
    naked = Flask("naked")
    naked.add_url_rule("/x", "x", lambda: "x")
    with pytest.raises(RuntimeError, match="the view x"):
        right_of(naked, next(rule for rule in naked.url_map.iter_rules() if rule.endpoint == "x"))
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            assert right_of(app, rule) in {None, *RIGHTS}


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


def test_static_files_with_a_fingerprint_are_kept(app: Flask, client: Callable[..., Any]) -> None:
    page = client().get("/login").text
    with app.test_request_context():
        address = web.asset("app.css")
    assert f'href="{address}"' in page
    assert "immutable" in client().get(address).headers["Cache-Control"]


HTTPS = {"REVIEWQUEUE_PUBLIC_URL": "https://rq.example"}


@pytest.fixture
def environ(request: pytest.FixtureRequest) -> dict[str, str]:
    return dict(getattr(request, "param", {}))


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


def test_the_bar_offers_only_what_one_may_open(client: Callable[..., Any], make: Make) -> None:
    page = client(make.person("ada")).get("/account").text
    assert 'href="/people"' not in page
    assert 'href="/backends"' not in page
    page = client(make.person("dora")).get("/account").text
    assert 'href="/people"' in page
    assert 'href="/backends"' in page


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (-3, "now"),
        (47.5, "47 s ago"),
        (-55.5, "in 55 s"),
        (125, "2 min ago"),
        (-7300, "in 2 h"),
        (90_000, "1 d ago"),
    ],
)
def test_a_time_is_told_in_the_one_unit_that_matters(seconds: float, words: str) -> None:
    assert web._ago(now() - timedelta(seconds=seconds)) == words
