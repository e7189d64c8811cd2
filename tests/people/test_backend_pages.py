"""Backends on their pages: keys and secrets shown once, addresses, and who may change what."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.models import ApiKey, Backend, Endpoint
from reviewqueue.people.access import authenticate_key
from reviewqueue.people.backends import secrets_of
from tests.make import Make


@pytest.fixture
def dora(client: Callable[..., Any], make: Make) -> Any:
    """Dora's browser."""
    return client(make.person("dora"))


def shown(text: str) -> dict[str, str]:
    """What a page shows once, by id."""
    return dict(re.findall(r'<code id="(\w+)">([^<]+)</code>', text))


@pytest.fixture
def shop(dora: Any, make: Make) -> dict[str, str]:
    """A backend added on the page, and what was shown of it."""
    make.project()
    answer = dora.send("/backends", {"name": "shop", "project": "support-replies"}, page="/backends")
    assert answer.status_code == 201
    return shown(answer.text)


def backend() -> Backend:
    return db.session.scalars(select(Backend)).one()


def test_an_added_backend_shows_its_secrets_once(shop: dict[str, str], dora: Any) -> None:
    assert set(shop) == {"api_key", "inbound_secret", "callback_secret"}
    actor = authenticate_key(shop["api_key"])
    assert actor is not None
    assert actor.backend_id == backend().id
    assert secrets_of(backend().id, "inbound") == [shop["inbound_secret"]]
    page = dora.get("/backends/shop").text + dora.get("/backends").text
    assert not [secret for secret in shop.values() if secret in page]


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("form", "status"),
    [({"name": "Not A Slug"}, 422), ({"name": "shop"}, 409), ({"project": "none"}, 422)],
)
def test_a_refused_backend_comes_back_filled_in(
    form: dict[str, str], status: int, shop: dict[str, str], dora: Any
) -> None:
    sent = {"name": "other", "project": "support-replies", "callback": "https://shop.example/hook"} | form
    answer = dora.send("/backends", sent, page="/backends")
    assert answer.status_code == status
    assert f'value="{sent["name"]}"' in answer.text
    assert 'class="field-error"' in answer.text
    assert backend().name == "shop"


def test_a_key_is_made_for_some_scopes_and_revoked(shop: dict[str, str], dora: Any) -> None:
    answer = dora.send("/backends/shop/keys", {"scopes": ["items:read", "examples:read"]}, page="/backends")
    key = shown(answer.text)["api_key"]
    actor = authenticate_key(key)
    assert actor is not None
    assert actor.scopes == {"items:read", "examples:read"}
    row = db.session.scalars(select(ApiKey).order_by(ApiKey.created_at.desc())).first()
    assert row is not None
    dora.send(f"/backends/shop/keys/{row.id}/revocation", page="/backends")
    assert authenticate_key(key) is None
    assert authenticate_key(shop["api_key"]) is not None


@pytest.mark.sqlite
def test_a_key_without_scopes_is_refused(shop: dict[str, str], dora: Any) -> None:
    answer = dora.send("/backends/shop/keys", {}, page="/backends")
    assert answer.status_code == 422
    assert 'class="field-error"' in answer.text


def test_a_secret_is_replaced_with_an_overlap_that_can_be_ended(shop: dict[str, str], dora: Any) -> None:
    answer = dora.send("/backends/shop/secrets", {"purpose": "callback"}, page="/backends")
    new = shown(answer.text)["callback_secret"]
    assert secrets_of(backend().id, "callback") == [new, shop["callback_secret"]]
    assert "End the old one now" in dora.get("/backends/shop").text
    dora.send("/backends/shop/secrets/revocation", {"purpose": "callback"}, page="/backends")
    assert secrets_of(backend().id, "callback") == [new]


@pytest.mark.sqlite
def test_an_address_that_may_not_be_called_is_refused(shop: dict[str, str], dora: Any) -> None:
    answer = dora.send("/backends/shop/endpoint", {"callback": "https://10.0.0.1/hook"}, page="/backends")
    assert answer.status_code == 422
    assert 'class="field-error"' in answer.text
    assert db.session.scalars(select(Endpoint)).all() == []


@pytest.mark.sqlite
def test_a_trusted_address_is_in_use_at_once(shop: dict[str, str], dora: Any) -> None:
    form = {"callback": "http://127.0.0.1:9/hook", "trusted": "yes"}
    assert dora.send("/backends/shop/endpoint", form, page="/backends").status_code == 303
    endpoint = db.session.scalars(select(Endpoint)).one()
    assert (endpoint.url, endpoint.state) == ("http://127.0.0.1:9/hook", "active")


@pytest.mark.sqlite
def test_an_address_that_does_not_answer_stays_unverified(shop: dict[str, str], dora: Any) -> None:
    dora.send("/backends/shop/endpoint", {"callback": "http://127.0.0.1:9/hook"}, page="/backends")
    assert db.session.scalars(select(Endpoint)).one().state == "unverified"
    page = dora.get("/backends/shop").text
    assert "unverified" in page
    assert "/backends/shop/endpoint/proof" in page


@pytest.mark.sqlite
def test_a_stopped_backend_is_refused(shop: dict[str, str], dora: Any) -> None:
    dora.send("/backends/shop/deactivation", page="/backends")
    assert authenticate_key(shop["api_key"]) is None
    assert "stopped" in dora.get("/backends/shop").text


@pytest.mark.sqlite
def test_a_lead_reads_backends_and_changes_nothing(
    shop: dict[str, str], client: Callable[..., Any], make: Make
) -> None:
    cleo = client(make.person("cleo"))
    page = cleo.get("/backends/shop")
    assert page.status_code == 200
    assert 'method="post" action="/backends' not in page.text
    for path in ("/backends", "/backends/shop/keys", "/backends/shop/secrets", "/backends/shop/endpoint"):
        assert cleo.send(path, {"purpose": "inbound"}, page="/backends").status_code == 403
    assert secrets_of(backend().id, "inbound") == [shop["inbound_secret"]]
    assert client(make.person("ada")).get("/backends").status_code == 403
