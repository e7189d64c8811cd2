"""Keys stored as hashes, secrets stored encrypted, both shown once."""

from __future__ import annotations

import base64
import time
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from reviewqueue.config import ConfigError, current
from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Conflict, Forbidden, Invalid, Missing
from reviewqueue.models import ApiKey, Backend, LedgerEntry, LedgerPart, Secret
from reviewqueue.people import backends
from reviewqueue.people.access import SCOPES, SYSTEM, authenticate_key


@pytest.fixture
def project(make):
    return make.project()


@pytest.fixture
def new(project):
    return backends.add_backend(SYSTEM, "shop", project.name)


def _everything() -> str:
    """Every value in the database, as text: where a secret must not be found."""
    db.session.rollback()
    tables = db.metadata.sorted_tables
    return repr([[tuple(row) for row in db.session.execute(select(table))] for table in tables])


def _ledger() -> list[bytes]:
    db.session.rollback()
    return list(db.session.scalars(select(LedgerEntry.body))) + list(
        db.session.scalars(select(LedgerPart.payload))
    )


def test_add_backend_gives_a_key_of_all_scopes_and_two_secrets(new, project):
    assert new.api_key.startswith("rq_")
    actor = authenticate_key(new.api_key)
    assert actor is not None
    assert (actor.role, actor.backend_id, actor.project_id) == ("backend", new.backend.id, project.id)
    assert actor.scopes == set(SCOPES)
    assert new.inbound_secret != new.callback_secret
    for secret in (new.inbound_secret, new.callback_secret):
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    assert backends.secrets_of(new.backend.id, "inbound") == [new.inbound_secret]
    assert backends.secrets_of(new.backend.id, "callback") == [new.callback_secret]


def test_add_backend_stores_nothing_that_could_be_used(new):
    stored = _everything()
    raw = [base64.b64decode(s.removeprefix("whsec_")) for s in (new.inbound_secret, new.callback_secret)]
    texts = (new.api_key, new.inbound_secret[6:], new.callback_secret[6:])
    for secret in (*texts, *(value.hex() for value in raw), *(repr(value)[2:-1] for value in raw)):
        assert secret not in stored


def test_add_backend_refuses_a_name_that_is_no_slug(project):
    for name in ("", "Shop", "a b", "-a", "a-", "a--b", "a/b", "ä", "a" * 65, "a\n"):
        with pytest.raises(Invalid) as refusal:
            backends.add_backend(SYSTEM, name, project.name)
        assert refusal.value.errors[0]["pointer"] == "name"


def test_add_backend_refuses_a_taken_name_and_an_unknown_project(new, project):
    with pytest.raises(Conflict):
        backends.add_backend(SYSTEM, "shop", project.name)
    with pytest.raises(Invalid):
        backends.add_backend(SYSTEM, "shop-two", "nowhere")
    assert db.session.scalars(select(Backend.name)).all() == ["shop"]


@pytest.mark.parametrize("who", ["ada", "cleo", "aud", "mallory"])
def test_only_an_admin_changes_backends(new, make, project, who):
    actor = make.person(who)
    key = db.session.scalars(select(ApiKey.id)).first()
    for attempt in (
        lambda: backends.add_backend(actor, "other", project.name),
        lambda: backends.add_key(actor, new.backend, SCOPES),
        lambda: backends.revoke_key(actor, key),
        lambda: backends.rotate_secret(actor, new.backend, "inbound"),
        lambda: backends.revoke_secrets(actor, new.backend, "inbound"),
        lambda: backends.deactivate_backend(actor, new.backend),
    ):
        with pytest.raises(Forbidden):
            attempt()
    assert authenticate_key(new.api_key) is not None
    assert backends.secrets_of(new.backend.id, "inbound") == [new.inbound_secret]


def test_a_backends_own_key_cannot_change_backends(new):
    actor = authenticate_key(new.api_key)
    with pytest.raises(Forbidden):
        backends.add_key(actor, new.backend, SCOPES)


def test_authenticate_key_refuses_anything_else(new):
    key = new.api_key
    hashed = db.session.scalars(select(ApiKey.key_hash)).one()
    for given in ("", "rq_", key[:-1], key + "x", key.swapcase(), " " + key, hashed, "\x00", "\ud800", "ä"):
        assert authenticate_key(given) is None, given


def test_revoke_key_ends_one_key_at_once(new, make):
    assert authenticate_key(new.api_key) is not None
    second = backends.add_key(make.person("dora"), new.backend, ["items:read"])
    first = db.session.scalars(select(ApiKey.id).where(ApiKey.id != second.key.id)).one()
    backends.revoke_key(make.person("dora"), first)
    backends.revoke_key(make.person("dora"), first)
    assert authenticate_key(new.api_key) is None
    assert authenticate_key(second.text).scopes == {"items:read"}
    with pytest.raises(Missing):
        backends.revoke_key(SYSTEM, "key_nothing")


def test_a_key_that_was_revoked_elsewhere_is_refused_within_a_second(new):
    assert authenticate_key(new.api_key) is not None
    with transaction() as session:  # as another process does, which cannot tell this one
        session.execute(update(ApiKey).values(revoked_at=now()))
    began = time.monotonic()
    while authenticate_key(new.api_key) is not None:
        assert time.monotonic() - began < 0.9
        time.sleep(0.05)


def test_add_key_refuses_unknown_scopes(new):
    for scopes in ([], ["review"], ["items:read", "decide"]):
        with pytest.raises(Invalid):
            backends.add_key(SYSTEM, new.backend, scopes)


def test_deactivate_backend_refuses_its_keys(new):
    assert authenticate_key(new.api_key) is not None
    backends.deactivate_backend(SYSTEM, new.backend)
    assert authenticate_key(new.api_key) is None
    assert backends.backend_named("shop") is None


def _pass_time(span: timedelta) -> None:
    """As if everything here had happened `span` earlier."""
    with transaction() as session:
        for secret in session.scalars(select(Secret)):
            secret.created_at -= span
            secret.expires_at = secret.expires_at and secret.expires_at - span


def test_rotate_secret_keeps_the_old_one_for_a_day(new):
    fresh = backends.rotate_secret(SYSTEM, new.backend, "inbound")
    assert backends.secrets_of(new.backend.id, "inbound") == [fresh, new.inbound_secret]
    assert backends.secrets_of(new.backend.id, "callback") == [new.callback_secret]
    _pass_time(timedelta(hours=23, minutes=59))
    assert backends.secrets_of(new.backend.id, "inbound") == [fresh, new.inbound_secret]
    _pass_time(timedelta(minutes=2))
    assert backends.secrets_of(new.backend.id, "inbound") == [fresh]


def test_rotate_secret_twice_leaves_two(new):
    fresh = [backends.rotate_secret(SYSTEM, new.backend, "callback") for _ in range(3)]
    assert backends.secrets_of(new.backend.id, "callback") == [fresh[2], fresh[1]]


def test_revoke_secrets_ends_the_overlap_at_once(new):
    fresh = backends.rotate_secret(SYSTEM, new.backend, "inbound")
    backends.revoke_secrets(SYSTEM, new.backend, "inbound")
    assert backends.secrets_of(new.backend.id, "inbound") == [fresh]
    again = backends.rotate_secret(SYSTEM, new.backend, "inbound", timedelta(0))
    assert backends.secrets_of(new.backend.id, "inbound") == [again]


def test_rotate_secret_refuses_an_unknown_purpose(new):
    with pytest.raises(Invalid):
        backends.rotate_secret(SYSTEM, new.backend, "decide")


def test_a_sealed_secret_opens_in_its_own_row_only(new, project):
    """Somebody who can write the database cannot give a backend another one's secret."""
    other = backends.add_backend(SYSTEM, "other", project.name)
    rows = {(s.backend_id, s.purpose): s for s in db.session.scalars(select(Secret))}
    for source in ((new.backend.id, "inbound"), (other.backend.id, "callback")):
        sealed = rows[source].sealed
        with transaction() as session:
            target = (Secret.backend_id == new.backend.id, Secret.purpose == "callback")
            session.execute(update(Secret).where(*target).values(sealed=sealed))
        with pytest.raises(ConfigError, match="changed"):
            backends.secrets_of(new.backend.id, "callback")


def test_secrets_do_not_open_with_another_key(new, monkeypatch):
    monkeypatch.setattr(type(current()), "key", lambda _self, _name: b"another key of 32 bytes, made up")
    with pytest.raises(ConfigError, match="another encryption key"):
        backends.secrets_of(new.backend.id, "inbound")


def test_changes_stand_in_the_ledger_without_secrets(new, make):
    dora = make.person("dora")
    key = backends.add_key(dora, new.backend, ["items:read"])
    fresh = backends.rotate_secret(dora, new.backend, "inbound")
    backends.revoke_secrets(dora, new.backend, "inbound")
    backends.revoke_key(dora, key.key.id)
    backends.deactivate_backend(dora, new.backend)
    told = b"\n".join(_ledger()).decode()
    for change in (
        "backend added", "key added", "secret rotated", "secret revoked", "key revoked", "backend stopped",
    ):  # fmt: skip
        assert f'"change":"{change}"' in told
    assert told.count(dora.id) >= 5
    for secret in (new.api_key, key.text, fresh, new.inbound_secret, new.callback_secret):
        assert secret not in told
        assert secret[6:20] not in told
