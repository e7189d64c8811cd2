"""Getting in and out, one's own account, and members, as a browser without script sees them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.models import Person, QueueAccess, WebSession
from reviewqueue.people import sign_in
from tests.make import Make

PASSWORD = "four plain words together"


@pytest.fixture
def dora(client: Callable[..., Any], make: Make) -> Any:
    """Dora's browser."""
    return client(make.person("dora"))


def person_named(name: str) -> Person:
    return db.session.scalars(select(Person).where(Person.email == f"{name}@example.org")).one()


# --- in and out ------------------------------------------------------------------------------------


def test_a_link_signs_in_once_and_offers_a_password(client: Callable[..., Any], make: Make) -> None:
    path = make.sign_in_path(make.person("ada"))
    ada = client()
    answer = ada.get(path)
    assert (answer.status_code, answer.location) == (303, "/account/password")
    assert "Welcome, Ada" in ada.get("/account/password").text
    assert client().get(path).status_code == 403
    assert ada.get("/account").status_code == 200


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("HEAD", {}),
        ("GET", {"Sec-Purpose": "prefetch"}),
        ("GET", {"Sec-Purpose": "prefetch;prerender"}),
        ("GET", {"Sec-Fetch-Dest": "image"}),
        ("GET", {"Sec-Fetch-Dest": "empty"}),
    ],
)
def test_what_merely_looks_at_a_link_does_not_use_it(
    method: str, headers: dict[str, str], client: Callable[..., Any], make: Make
) -> None:
    path = make.sign_in_path(make.person("ada"))
    assert client().open(path, method=method, headers=headers).status_code == 200
    ada = client()
    assert ada.send(path).status_code == 303
    assert ada.get("/account").status_code == 200


@pytest.mark.sqlite
def test_a_password_signs_in_and_leads_back(client: Callable[..., Any], make: Make) -> None:
    _with_password(client, make, "ada")
    ada = client()
    assert 'name="password"' in ada.get("/login?next=/items/itm_1").text
    form = {"email": " ADA@example.org", "password": PASSWORD, "next": "/items/itm_1"}
    assert ada.send("/login", form).location == "/items/itm_1"
    again = client()
    assert again.send("/login", form | {"next": "https://evil.example/"}).location == "/"


@pytest.mark.sqlite
def test_a_wrong_password_is_refused_in_the_words_of_an_unknown_email(
    client: Callable[..., Any], make: Make
) -> None:
    _with_password(client, make, "ada")
    wrong = client().send("/login", {"email": "ada@example.org", "password": "something else"})
    unknown = client().send("/login", {"email": "eve@example.org", "password": "something else"})
    assert wrong.status_code == unknown.status_code == 403
    assert _alert(wrong.text) == _alert(unknown.text) != ""
    assert 'value="ada@example.org"' in wrong.text
    assert "something else" not in wrong.text


@pytest.mark.sqlite
def test_too_many_tries_are_told_to_wait(client: Callable[..., Any], make: Make) -> None:
    _with_password(client, make, "ada")
    form = {"email": "ada@example.org", "password": "no"}
    answers = [client().send("/login", form) for _ in range(12)]
    assert answers[-1].status_code == 429
    assert int(answers[-1].headers["Retry-After"]) > 0


@pytest.mark.sqlite
def test_signing_in_replaces_the_session(client: Callable[..., Any], make: Make) -> None:
    visitor = client(make.person("ada"))
    visitor.get(make.sign_in_path(make.person("cleo")))
    assert "cleo@example.org" in visitor.get("/account").text


def test_logout_ends_the_session_for_good(client: Callable[..., Any], make: Make) -> None:
    ada = client(make.person("ada"))
    cookie = ada.get_cookie("rq", domain="127.0.0.1")
    assert ada.send("/logout", page="/account").location == "/login"
    ada.set_cookie("rq", cookie.value, domain="127.0.0.1")
    assert ada.get("/account").status_code == 303


def _with_password(client: Callable[..., Any], make: Make, name: str) -> Any:
    visitor = client(make.person(name))
    assert visitor.send("/account/password", {"new": PASSWORD}, page="/account").status_code == 303
    return visitor


def _alert(text: str) -> str:
    found = re.search(r'notice-refused">.*?<span>(.*?)</span>', text, re.DOTALL)
    return found[1] if found else ""


# --- one's account ----------------------------------------------------------------------------------


def test_a_password_is_set_and_other_sessions_end(client: Callable[..., Any], make: Make) -> None:
    here = client(make.person("ada"))
    elsewhere = client()
    elsewhere.get(_second_link(here, make))
    assert elsewhere.get("/account").status_code == 200
    answer = elsewhere.send("/account/password", {"new": PASSWORD}, page="/account")
    assert (answer.status_code, answer.location) == (303, "/")
    assert here.get("/account").status_code == 303
    assert elsewhere.get("/account").status_code == 200


def _second_link(_here: Any, make: Make) -> str:
    return make.sign_in_path(make.person("ada"))


@pytest.mark.sqlite
def test_a_poor_password_is_refused_by_its_field(client: Callable[..., Any], make: Make) -> None:
    ada = client(make.person("ada"))
    answer = ada.send("/account/password", {"new": "short"}, page="/account")
    assert answer.status_code == 422
    assert 'aria-invalid="true"' in answer.text
    assert "short" not in answer.text
    assert person_named("ada").password_hash is None


@pytest.mark.sqlite
def test_the_present_password_is_asked_for(client: Callable[..., Any], make: Make) -> None:
    ada = _with_password(client, make, "ada")
    before = person_named("ada").password_hash
    refused = ada.send("/account/password", {"old": "wrong", "new": PASSWORD + "!"}, page="/account")
    assert refused.status_code == 422
    assert person_named("ada").password_hash == before
    taken = ada.send("/account/password", {"old": PASSWORD, "new": PASSWORD + "!"}, page="/account")
    assert taken.status_code == 303
    assert person_named("ada").password_hash != before


def test_a_session_elsewhere_can_be_ended(client: Callable[..., Any], make: Make) -> None:
    ada = _with_password(client, make, "ada")
    other = client()
    other.send("/login", {"email": "ada@example.org", "password": PASSWORD})
    page = ada.get("/account").text
    (key,) = re.findall(r"/account/sessions/([0-9a-f]{64})/end", page)
    assert (
        client(make.person("cleo")).send(f"/account/sessions/{key}/end", page="/account").status_code == 404
    )
    assert ada.send(f"/account/sessions/{key}/end", page="/account").status_code == 303
    assert other.get("/account").status_code == 303
    assert ada.get("/account").status_code == 200


@pytest.mark.sqlite
def test_signing_out_everywhere_ends_all(client: Callable[..., Any], make: Make) -> None:
    ada = _with_password(client, make, "ada")
    other = client()
    other.send("/login", {"email": "ada@example.org", "password": PASSWORD})
    ada.send("/account/sessions/end", page="/account")
    assert [visitor.get("/account").status_code for visitor in (ada, other)] == [303, 303]


@pytest.mark.sqlite
def test_the_theme_is_kept_in_this_browser(client: Callable[..., Any], make: Make) -> None:
    ada = client(make.person("ada"))
    ada.send("/account/theme", {"theme": "dark"}, page="/account")
    assert 'data-theme="dark"' in ada.get("/account").text
    assert ada.send("/account/theme", {"theme": 'x" onload'}, page="/account").status_code == 422
    ada.set_cookie("rq-theme", '"><script>', domain="127.0.0.1")
    assert 'data-theme="auto"' in ada.get("/account").text


# --- members ------------------------------------------------------------------------------------------


def test_an_added_person_gets_a_link_that_is_shown_once(
    dora: Any, client: Callable[..., Any], make: Make
) -> None:
    form = {"email": "eve@example.org", "name": "Eve <b>", "role": "lead"}
    answer = dora.send("/people", form, page="/people")
    assert answer.status_code == 201
    (link,) = re.findall(r"http://127\.0\.0\.1:8000(/login/link/[\w-]+)", answer.text)
    assert "/login/link/" not in dora.get("/people").text
    assert "Eve &lt;b&gt;" in dora.get("/people").text
    eve = client()
    assert eve.get(link).status_code == 303
    assert "eve@example.org" in eve.get("/account").text
    assert person_named("eve").role == "lead"


def test_a_person_can_be_given_some_queues_only(dora: Any, make: Make) -> None:
    make.project()
    page = dora.get("/people").text
    queue = re.findall(r'name="queues" value="(que_\w+)"> <span>support-replies / main', page)[0]
    form = {"email": "eve@example.org", "role": "reviewer", "reach": "some", "queues": queue}
    assert dora.send("/people", form, page="/people").status_code == 201
    eve = person_named("eve")
    assert not eve.every_queue
    assert list(db.session.scalars(select(QueueAccess.queue_id).where(QueueAccess.person_id == eve.id))) == [
        queue
    ]
    dora.send(f"/people/{eve.id}/queues", {"reach": "every"}, page="/people")
    assert person_named("eve").every_queue


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("form", "status"),
    [({"email": "no address"}, 422), ({"email": "dora@example.org"}, 409), ({"role": "king"}, 422)],
)
def test_a_refused_person_comes_back_filled_in(form: dict[str, str], status: int, dora: Any) -> None:
    answer = dora.send(
        "/people", {"email": "eve@example.org", "name": "Eve", "role": "lead"} | form, page="/people"
    )
    assert answer.status_code == status
    assert 'aria-invalid="true"' in answer.text
    assert 'value="Eve"' in answer.text
    assert db.session.scalars(select(Person.email)).all() == ["dora@example.org"]


@pytest.mark.sqlite
def test_a_role_is_set_and_the_person_signs_in_anew(
    dora: Any, client: Callable[..., Any], make: Make
) -> None:
    actor = make.person("ada")
    ada = client(actor)
    dora.send(f"/people/{actor.id}/role", {"role": "auditor"}, page="/people")
    assert person_named("ada").role == "auditor"
    assert ada.get("/account").status_code == 303


@pytest.mark.sqlite
def test_the_last_admin_stays(dora: Any, make: Make) -> None:
    me = make.person("dora").id
    assert dora.send(f"/people/{me}/deactivation", page="/people").status_code == 409
    assert dora.send(f"/people/{me}/role", {"role": "lead"}, page="/people").status_code == 409
    assert person_named("dora").active


@pytest.mark.sqlite
def test_an_account_is_closed_and_opened(dora: Any, client: Callable[..., Any], make: Make) -> None:
    actor = make.person("ada")
    ada = client(actor)
    dora.send(f"/people/{actor.id}/deactivation", page="/people")
    assert ada.get("/account").status_code == 303
    assert "closed" in dora.get(f"/people/{actor.id}").text
    dora.send(f"/people/{actor.id}/reactivation", page="/people")
    assert person_named("ada").active


@pytest.mark.sqlite
def test_sessions_of_others_are_ended_and_links_made_by_admins(
    dora: Any, client: Callable[..., Any], make: Make
) -> None:
    actor = make.person("ada")
    ada = client(actor)
    dora.send(f"/people/{actor.id}/revocation", page="/people")
    assert ada.get("/account").status_code == 303
    answer = dora.send(f"/people/{actor.id}/link", page="/people")
    (link,) = re.findall(r"http://127\.0\.0\.1:8000(/login/link/[\w-]+)", answer.text)
    assert client().get(link).status_code == 303


@pytest.mark.sqlite
def test_an_auditor_reads_people_and_changes_nothing(client: Callable[..., Any], make: Make) -> None:
    actor = make.person("ada")
    aud = client(make.person("aud"))
    for path in ("/people", f"/people/{actor.id}"):
        page = aud.get(path)
        assert page.status_code == 200
        assert 'action="/people' not in page.text
    assert aud.send(f"/people/{actor.id}/role", {"role": "admin"}, page="/people").status_code == 403
    assert person_named("ada").role == "reviewer"


@pytest.mark.sqlite
def test_a_person_who_is_not_there_is_missing(dora: Any) -> None:
    assert dora.get("/people/usr_x").status_code == 404
    assert dora.send("/people/usr_x/role", {"role": "lead"}, page="/people").status_code == 404


@pytest.mark.sqlite
def test_what_polls_does_not_keep_a_session_alive(client: Callable[..., Any], make: Make) -> None:
    import time_machine

    ada = client(make.person("ada"))
    begun = db.session.scalars(select(WebSession.seen_at)).one()
    with time_machine.travel(begun + sign_in.IDLE / 2, tick=False):
        assert ada.get("/account", headers={"X-Polling": "1"}).status_code == 200
        assert db.session.scalars(select(WebSession.seen_at)).one() == begun
        ada.get("/account")
        assert db.session.scalars(select(WebSession.seen_at)).one() > begun
