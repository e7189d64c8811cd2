"""Callback addresses: registered by an admin, proved by a challenge, never open before that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select
from standardwebhooks import Webhook

from reviewqueue.db import db
from reviewqueue.delivery.deliver import deliver_due
from reviewqueue.delivery.endpoints import prove, register
from reviewqueue.errors import Forbidden, Invalid, Missing
from reviewqueue.models import Delivery, Endpoint, LedgerEntry, LedgerPart
from tests.make import Make
from tests.receiver import Receiver, echo

pytestmark = pytest.mark.usefixtures("base")


@pytest.fixture
def unproved(make: Make, backend: Receiver) -> Any:
    """A project whose backend's address has not answered a challenge yet."""
    project = make.project(undo_seconds=0)
    make.backend(project, callback=backend.url, trusted=False)
    return project


def the_endpoint() -> Endpoint:
    db.session.rollback()
    return db.session.scalars(select(Endpoint)).one()


def states() -> list[str]:
    db.session.rollback()
    return list(db.session.scalars(select(Delivery.state).order_by(Delivery.id)))


def test_register_is_for_admins(make: Make, backend: Receiver) -> None:
    new = make.backend(make.project())
    for name in ("ada", "cleo", "aud"):
        with pytest.raises(Forbidden):
            register(make.person(name), new.backend.id, backend.url)
    assert db.session.scalars(select(Endpoint)).all() == []


def test_register_puts_the_address_into_the_ledger_as_a_part(make: Make, backend: Receiver) -> None:
    new = make.backend(make.project())
    dora = make.person("dora")
    register(dora, new.backend.id, backend.url)
    entry = db.session.scalars(
        select(LedgerEntry).where(LedgerEntry.type == "config").order_by(LedgerEntry.seq.desc()).limit(1)
    ).one()
    body = json.loads(entry.body)
    assert (body["change"], body["backend"], entry.actor) == ("endpoint", new.backend.id, dora.id)
    assert backend.url.encode() not in entry.body
    part = db.session.get_one(LedgerPart, (entry.seq, "out"))
    assert part.payload == backend.url.encode()


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "https://name.invalid/",
        "ftp://127.0.0.1/",
        "https://user@127.0.0.1/",
        "not an address",
    ],
)
def test_register_refuses_what_may_not_be_called_and_names_the_field(make: Make, url: str) -> None:
    new = make.backend(make.project())
    with pytest.raises(Invalid) as refused:
        register(make.person("dora"), new.backend.id, url)
    assert refused.value.errors[0]["pointer"] == "callback"
    assert db.session.scalars(select(Endpoint)).all() == []


@pytest.mark.parametrize("url", ["https://93.184.215.14/", "https://1.1.1.1/"])
def test_register_trusts_no_public_address(make: Make, url: str) -> None:
    new = make.backend(make.project())
    with pytest.raises(Invalid):
        register(make.person("dora"), new.backend.id, url, trusted=True)
    assert db.session.scalars(select(Endpoint)).all() == []


def test_register_refuses_an_unknown_backend(make: Make, backend: Receiver) -> None:
    with pytest.raises(Missing):
        register(make.person("dora"), "bck_none", backend.url)


def test_register_again_parks_what_is_due_until_the_new_address_is_proved(
    make: Make, project: Any, backend: Receiver
) -> None:
    make.decide(make.person("ada"), make.item(project))
    assert states() == ["due"]
    register(make.person("dora"), make.backend(project).backend.id, backend.url + "/new")
    assert (states(), the_endpoint().state) == (["parked"], "unverified")
    assert deliver_due() == 0
    assert backend.heard == []


def test_prove_opens_an_address_that_answers_its_challenge(
    make: Make, unproved: Any, backend: Receiver
) -> None:
    make.decide(make.person("ada"), make.item(unproved))
    assert states() == ["parked"]
    assert deliver_due() == 0
    new = make.backend(unproved)
    backend.answer = echo
    assert prove(make.person("dora"), new.backend.id).ok

    (challenge,) = backend.heard
    told = Webhook(new.callback_secret).verify(challenge.body, challenge.headers)
    assert told["type"] == "endpoint.verify"
    assert len(told["data"]["challenge"]) >= 32
    assert the_endpoint().state == "active"
    assert deliver_due() == 1
    assert states() == ["delivered"]


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"thanks"), (500, b""), (302, b""), (404, b"nothing here")]
)
def test_prove_leaves_an_address_closed_that_does_not(
    make: Make, unproved: Any, backend: Receiver, status: int, body: bytes
) -> None:
    backend.says(status, body)
    prove(make.person("dora"), make.backend(unproved).backend.id)
    endpoint = the_endpoint()
    assert endpoint.state == "unverified"
    assert endpoint.why
    make.decide(make.person("ada"), make.item(unproved))
    assert deliver_due() == 0


def test_prove_does_not_take_a_failing_answer_for_proof(make: Make, unproved: Any, backend: Receiver) -> None:
    backend.answer = lambda heard: (500, *echo(heard)[1:])
    prove(make.person("dora"), make.backend(unproved).backend.id)
    assert the_endpoint().state == "unverified"


def test_prove_leaves_an_active_address_active_when_it_fails(
    make: Make, project: Any, backend: Receiver
) -> None:
    backend.says(500)
    prove(make.person("dora"), make.backend(project).backend.id)
    assert the_endpoint().state == "active"


def test_prove_is_for_admins_and_needs_an_address(make: Make, unproved: Any) -> None:
    with pytest.raises(Forbidden):
        prove(make.person("cleo"), make.backend(unproved).backend.id)
    other = make.backend(unproved, "no-address")
    with pytest.raises(Missing):
        prove(make.person("dora"), other.backend.id)
