"""Where a backend is called back: registered by an admin, proved by a challenge, never taken from an item."""

from __future__ import annotations

import secrets as random_source

from sqlalchemy.orm import Session

from reviewqueue.background import ring
from reviewqueue.config import current
from reviewqueue.db import after_commit, db, now, stamp, transaction
from reviewqueue.delivery import breaker, guard
from reviewqueue.delivery.callback import Outcome, send
from reviewqueue.delivery.inside import inside
from reviewqueue.delivery.message import challenge_body
from reviewqueue.delivery.seals import Seals, holds
from reviewqueue.delivery.signature import signed_headers
from reviewqueue.errors import Conflict, Invalid, Missing
from reviewqueue.ids import new_id
from reviewqueue.ledger.record import record
from reviewqueue.models import Backend, Endpoint
from reviewqueue.people.access import Actor, require
from reviewqueue.people.backends import secrets_of


def check(url: str, *, trusted: bool = False) -> None:
    """Invalid naming `callback` unless `url` may be registered so; see `register`."""
    allow = current().callback_allow
    target = guard.check_url(url, allow, deny=inside(current()))
    if trusted and not _inside(target, allow):
        raise Invalid(
            "Only an address inside REVIEWQUEUE_CALLBACK_ALLOW can be trusted without a challenge.",
            field="callback",
        )


def register(actor: Actor, backend_id: str, url: str, *, trusted: bool = False) -> Endpoint:
    """Set the address `backend_id` is called at; it must still answer a challenge (`prove`).

    `trusted` skips the challenge for an address whose every IP lies inside REVIEWQUEUE_CALLBACK_ALLOW.
    Raises Invalid naming `callback` when the address may not be called.
    """
    require(actor, "manage_backends")
    check(url, trusted=trusted)
    with transaction() as session:
        backend = session.get(Backend, backend_id)
        if backend is None:
            raise Missing("There is no such backend.")
        endpoint = session.get(Endpoint, backend_id)
        if endpoint is None:
            endpoint = Endpoint(backend_id=backend_id, failures=0, created_at=now())
            session.add(endpoint)
        endpoint.url, endpoint.trusted = url, trusted
        endpoint.mac = Seals().address(backend_id, url, trusted)
        endpoint.state, endpoint.why = "unverified", "It has not answered its challenge yet."
        endpoint.challenge = random_source.token_hex(16)
        endpoint.verified_at = endpoint.failing_since = endpoint.rest_until = None
        endpoint.failures = endpoint.probe_wait = 0
        breaker.park(session, backend_id)
        if trusted:
            _activate(session, endpoint)
        record(
            "config",
            {"change": "endpoint", "backend": backend_id, "actor": actor.id, "trusted": trusted},
            parts={"out": url},
            project_id=backend.project_id,
            actor=actor.id,
        )
    return endpoint


def prove(actor: Actor, backend_id: str) -> Outcome:
    """Send the challenge; the endpoint becomes active when a 2xx answer carries it back.

    Also brings a disabled endpoint back: what was parked for it is then delivered in order.
    """
    require(actor, "manage_backends")
    endpoint = db.session.get(Endpoint, backend_id)
    if endpoint is None:
        raise Missing("This backend has no callback address.")
    url, challenge = endpoint.url, endpoint.challenge or ""
    if not holds(Seals().address(backend_id, url, endpoint.trusted), endpoint.mac):
        raise Conflict("This address was changed in the database; register it anew.", "address_changed")
    secrets = secrets_of(backend_id, "callback")
    db.session.rollback()
    body = challenge_body(challenge, stamp(now()))
    headers = signed_headers(new_id("evt"), int(now().timestamp()), body, secrets)
    outcome = send(url, headers, body, current().callback_allow, deny=inside(current()))
    answered = outcome.ok and challenge != "" and challenge in outcome.body
    with transaction() as session:
        endpoint = session.get_one(Endpoint, backend_id, with_for_update=True)
        if endpoint.url != url or endpoint.challenge != challenge:
            raise Conflict("The address was changed meanwhile; try again.")
        if answered:
            _activate(session, endpoint)
        elif endpoint.state != "active":
            endpoint.why = outcome.message if not outcome.ok else "Its answer did not carry the challenge."
        record(
            "config",
            {"change": "endpoint proof", "backend": backend_id, "actor": actor.id, "active": answered},
            actor=actor.id,
        )
    return outcome


def _activate(session: Session, endpoint: Endpoint) -> None:
    breaker.activate(session, endpoint)
    after_commit(_ring)


def _ring() -> None:
    ring("deliver")


def _inside(target: guard.Target, allow: tuple[guard.Network, ...]) -> bool:
    """Whether every address of the target is opened by the allow list, not merely public."""
    try:
        addresses = guard.judge(target, allow, (), guard.lookup)
    except (guard.Blocked, guard.Unresolved):
        return False
    return all(guard.opened(address, allow) for address in addresses)
