"""Backends: their API keys, kept as hashes, and their webhook secrets, kept encrypted.

A key or secret is shown once, when it is made. Neither may ever stand in a log, an entry or an answer
again.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Select, or_, select
from sqlalchemy.orm import Session

from reviewqueue.config import ConfigError, current
from reviewqueue.db import after_commit, db, now, transaction
from reviewqueue.errors import Conflict, Invalid, Missing
from reviewqueue.ids import new_id, new_token
from reviewqueue.ledger.canonical import key_id
from reviewqueue.ledger.record import record
from reviewqueue.models import ApiKey, Backend, Project, Secret
from reviewqueue.models.people import SECRET_PURPOSES as PURPOSES
from reviewqueue.people.access import SCOPES, Actor, forget_keys, hash_key, require

OVERLAP = timedelta(hours=24)
_SECRET_BYTES = 32
_NONCE_BYTES = 12
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")


@dataclass(frozen=True)
class NewBackend:
    """A new backend and everything that is shown only now."""

    backend: Backend
    api_key: str
    inbound_secret: str
    callback_secret: str


@dataclass(frozen=True)
class NewKey:
    """A new API key: its row, and the text that is shown only now."""

    key: ApiKey
    text: str


def add_backend(actor: Actor, name: str, project_name: str) -> NewBackend:
    """Add a backend to a project, with one API key of all scopes and both secrets.

    `name` is a slug of at most 64 characters; it stands in /webhooks/<name> and never changes.
    """
    require(actor, "manage_backends")
    if _SLUG.fullmatch(name) is None or len(name) > 64:
        raise Invalid("use small letters, digits and single hyphens, at most 64", field="name")
    with transaction() as session:
        project = session.scalars(select(Project).where(Project.name == project_name)).one_or_none()
        if project is None:
            raise Invalid(f"there is no project {project_name}", field="project")
        if session.scalars(select(Backend).where(Backend.name == name)).one_or_none() is not None:
            raise Conflict(f"there is a backend {name} already", "name_taken")
        backend = Backend(id=new_id("bck"), name=name, project_id=project.id, active=True, created_at=now())
        session.add(backend)
        session.flush()
        key, text = _new_key(session, backend, SCOPES)
        inbound, callback = (_new_secret(session, backend.id, purpose) for purpose in PURPOSES)
        said = {"change": "backend added", "backend": backend.id, "key": key.id, "scopes": sorted(SCOPES)}
        record("config", said, project_id=project.id, actor=actor.id)
    return NewBackend(backend, text, inbound, callback)


def backend_named(name: str) -> Backend | None:
    """The active backend with this name."""
    return db.session.scalars(select(Backend).where(Backend.name == name, Backend.active)).one_or_none()


def deactivate_backend(actor: Actor, backend: Backend) -> None:
    """Stop a backend: within a second its keys and signatures are refused everywhere."""
    require(actor, "manage_backends")
    with transaction() as session:
        found = _lock(session, backend.id)
        if found.active:
            found.active = False
            after_commit(forget_keys)
            said = {"change": "backend stopped", "backend": found.id}
            record("config", said, project_id=found.project_id, actor=actor.id)


def add_key(actor: Actor, backend: Backend, scopes: Iterable[str]) -> NewKey:
    """One more API key for `backend`, with these scopes; it is shown only now."""
    require(actor, "manage_backends")
    given = set(scopes)
    wanted = [scope for scope in SCOPES if scope in given]
    if not wanted or len(wanted) < len(given):
        raise Invalid(f"choose among {', '.join(SCOPES)}", field="scopes")
    with transaction() as session:
        _lock(session, backend.id)
        key, text = _new_key(session, backend, wanted)
        said = {"change": "key added", "backend": backend.id, "key": key.id, "scopes": sorted(wanted)}
        record("config", said, project_id=backend.project_id, actor=actor.id)
    return NewKey(key, text)


def revoke_key(actor: Actor, key_id: str) -> None:
    """Within a second the key is refused everywhere; doing it again changes nothing."""
    require(actor, "manage_backends")
    with transaction() as session:
        key = session.get(ApiKey, key_id, with_for_update=True)
        if key is None:
            raise Missing("there is no such key")
        if key.revoked_at is None:
            key.revoked_at = now()
            after_commit(forget_keys)
            said = {"change": "key revoked", "backend": key.backend_id, "key": key.id}
            record("config", said, actor=actor.id)


def secrets_of(backend_id: str, purpose: str) -> list[str]:
    """The secrets in force for `purpose` (inbound or callback), newest first, as `whsec_…`."""
    rows = db.session.scalars(_in_force(backend_id, purpose, now()))
    return [_unseal(secret) for secret in rows]


def rotate_secret(actor: Actor, backend: Backend, purpose: str, overlap: timedelta = OVERLAP) -> str:
    """A new secret for `purpose`, shown only now; the one before it stays in force for `overlap`.

    Older ones end at once, so that there are never more than two. An overlap of zero revokes.
    """
    require(actor, "manage_backends")
    if purpose not in PURPOSES:
        raise Invalid(f"choose {' or '.join(PURPOSES)}", field="purpose")
    with transaction() as session:
        _lock(session, backend.id)
        moment = now()
        for position, old in enumerate(session.scalars(_in_force(backend.id, purpose, moment)).all()):
            end = moment + overlap if position == 0 else moment
            old.expires_at = min(end, old.expires_at or end)
        text = _new_secret(session, backend.id, purpose)
        said = {"change": "secret rotated", "backend": backend.id, "purpose": purpose}
        record("config", said, project_id=backend.project_id, actor=actor.id)
    return text


def revoke_secrets(actor: Actor, backend: Backend, purpose: str) -> None:
    """End the overlap now: only the newest secret for `purpose` stays in force."""
    require(actor, "manage_backends")
    with transaction() as session:
        _lock(session, backend.id)
        moment = now()
        replaced = session.scalars(_in_force(backend.id, purpose, moment)).all()[1:]
        for old in replaced:
            old.expires_at = moment
        if replaced:
            said = {"change": "secret revoked", "backend": backend.id, "purpose": purpose}
            record("config", said, project_id=backend.project_id, actor=actor.id)


def _lock(session: Session, backend_id: str) -> Backend:
    """The backend, locked: two rotations at once would each leave a newest secret behind."""
    backend = session.get(Backend, backend_id, with_for_update=True)
    if backend is None:
        raise Missing("there is no such backend")
    return backend


def _in_force(backend_id: str, purpose: str, moment: datetime) -> Select[Secret]:
    return (
        select(Secret)
        .where(Secret.backend_id == backend_id, Secret.purpose == purpose)
        .where(or_(Secret.expires_at.is_(None), Secret.expires_at > moment))
        .order_by(Secret.created_at.desc(), Secret.id.desc())
    )


def _new_key(session: Session, backend: Backend, scopes: Iterable[str]) -> tuple[ApiKey, str]:
    text = "rq_" + new_token()
    key = ApiKey(
        id=new_id("key"),
        backend_id=backend.id,
        key_hash=hash_key(text),
        hint=text[:9],
        scopes=list(scopes),
        created_at=now(),
    )
    session.add(key)
    return key, text


def _new_secret(session: Session, backend_id: str, purpose: str) -> str:
    raw, key = secrets.token_bytes(_SECRET_BYTES), current().key("encryption")
    nonce, name = secrets.token_bytes(_NONCE_BYTES), key_id(key)
    sealed = nonce + AESGCM(key).encrypt(nonce, raw, _bound_to(backend_id, purpose, name))
    session.add(
        Secret(
            id=new_id("sec"),
            backend_id=backend_id,
            purpose=purpose,
            sealed=sealed,
            key_id=name,
            created_at=now(),
        )
    )
    return "whsec_" + b64encode(raw).decode()


def _unseal(secret: Secret) -> str:
    key = current().key("encryption")
    if secret.key_id != key_id(key):
        raise ConfigError(f"secret {secret.id} was encrypted with another encryption key than this machine's")
    nonce, data = secret.sealed[:_NONCE_BYTES], secret.sealed[_NONCE_BYTES:]
    try:
        raw = AESGCM(key).decrypt(nonce, data, _bound_to(secret.backend_id, secret.purpose, secret.key_id))
    except InvalidTag:
        raise ConfigError(f"secret {secret.id} was changed in the database; rotate it") from None
    return "whsec_" + b64encode(raw).decode()


def _bound_to(backend_id: str, purpose: str, key_name: str) -> bytes:
    """A sealed secret copied to another row does not open there."""
    return "\n".join((backend_id, purpose, key_name)).encode()
