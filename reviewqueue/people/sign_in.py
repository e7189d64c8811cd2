"""How people get in and stay in: invitations, passwords, throttling, sessions; and who is a member.

Whoever fails to sign in must never learn, by words or by time, whether the account exists. Sessions live
in the database, so that ending one works at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime, timedelta
from hashlib import sha256

from sqlalchemy import ColumnElement, bindparam, delete, select, update
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from reviewqueue.db import db, joined, now, transaction
from reviewqueue.errors import Conflict, Forbidden, Invalid, Missing
from reviewqueue.ids import new_id, new_token
from reviewqueue.ledger.record import record
from reviewqueue.models import Person, Queue, QueueAccess, SignInLink, WebSession
from reviewqueue.models.people import ROLES
from reviewqueue.people import passwords, throttle
from reviewqueue.people.access import Actor, require

IDLE = timedelta(minutes=30)
ABSOLUTE = timedelta(hours=12)
LINK = timedelta(hours=72)
_SEEN_EVERY = timedelta(minutes=1)

_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f\ud800-\udfff]{1,64}@[^@\s\x00-\x1f\x7f\ud800-\udfff]{1,189}")
_REFUSED = "email or password is wrong"


def add_person(
    actor: Actor,
    email: str,
    role: str,
    name: str | None = None,
    password: str | None = None,
    every_queue: bool = True,
    queues: Iterable[Queue] = (),
) -> tuple[Person, str | None]:
    """Add a person; without a password the second value is a sign-in link's token, good once within 72 h."""
    require(actor, "manage_people")
    address = _email(email)
    if address is None:
        raise Invalid("this is no email address", field="email")
    _check_role(role)
    secret = passwords.hashed(passwords.check(password, email=address)) if password is not None else None
    listed = sorted({queue.id for queue in queues})
    with transaction() as session:
        if session.scalar(select(Person.id).where(Person.email == address)) is not None:
            raise Conflict(f"{address} has an account already", "email_taken")
        person = Person(
            id=new_id("usr"),
            email=address,
            name=name or address.partition("@")[0],
            role=role,
            every_queue=every_queue,
            password_hash=secret,
            active=True,
            created_at=now(),
        )
        session.add(person)
        session.flush()
        session.add_all(QueueAccess(person_id=person.id, queue_id=queue) for queue in listed)
        token = _new_link(session, person.id) if secret is None else None
        said = {"change": "person added", "target": person.id, "role": role}
        record("config", said | {"every_queue": every_queue, "queues": listed}, actor=actor.id)
    return person, token


def new_link(actor: Actor, person_id: str) -> str:
    """The token of a new sign-in link. Older links, the password and all sessions end."""
    with transaction() as session:
        person = _member(session, actor, person_id)
        person.password_hash = None
        _end(WebSession.person_id == person_id)
        used = update(SignInLink).where(SignInLink.person_id == person_id, SignInLink.used_at.is_(None))
        session.execute(used.values(used_at=now()))
        token = _new_link(session, person_id)
        record("config", {"change": "link made", "target": person_id}, actor=actor.id)
    return token


def set_role(actor: Actor, person_id: str, role: str) -> None:
    """Give a person another role; they sign in anew. The last admin keeps theirs (Conflict)."""
    _check_role(role)
    with transaction() as session:
        person = _member(session, actor, person_id, leaving=role != "admin")
        if person.role == role:
            return
        person.role = role
        _end(WebSession.person_id == person_id)
        record("config", {"change": "role set", "target": person_id, "role": role}, actor=actor.id)


def set_queues(actor: Actor, person_id: str, every_queue: bool, queues: Iterable[Queue] = ()) -> None:
    """Let a person work every queue, or only these."""
    listed = sorted({queue.id for queue in queues})
    with transaction() as session:
        person = _member(session, actor, person_id)
        person.every_queue = every_queue
        session.execute(delete(QueueAccess).where(QueueAccess.person_id == person_id))
        session.add_all(QueueAccess(person_id=person_id, queue_id=queue) for queue in listed)
        said = {"change": "queues set", "target": person_id, "every_queue": every_queue, "queues": listed}
        record("config", said, actor=actor.id)


def deactivate(actor: Actor, person_id: str) -> None:
    """Close an account and end its sessions. The last admin's stays open (Conflict)."""
    with transaction() as session:
        person = _member(session, actor, person_id, leaving=True)
        if person.active:
            person.active = False
            _end(WebSession.person_id == person_id)
            record("config", {"change": "person deactivated", "target": person_id}, actor=actor.id)


def reactivate(actor: Actor, person_id: str) -> None:
    """Open a closed account again."""
    with transaction() as session:
        person = _member(session, actor, person_id)
        if not person.active:
            person.active = True
            record("config", {"change": "person reactivated", "target": person_id}, actor=actor.id)


def sign_in(email: str, password: str, address: str, browser: str = "") -> str:
    """The token of a new session. Forbidden, in the same words and time, for any wrong pair; Busy when
    this account or `address` (the visitor's IP address) has failed too often."""
    login = _email(email)
    attempt = throttle.admit(login or email, address)
    person = db.session.scalars(select(Person).where(Person.email == (login or ""))).one_or_none()
    stored = person.password_hash if person is not None and person.active else None
    if not passwords.matches(password, stored) or person is None:
        raise Forbidden(_REFUSED, "sign_in_refused")
    with transaction() as session:
        # The account may have been closed, or its password changed, while the hash was computed.
        current = session.get(Person, person.id, with_for_update=True)
        if current is None or not current.active or current.password_hash != stored:
            raise Forbidden(_REFUSED, "sign_in_refused")
        throttle.succeeded(attempt)
        return _begin_session(session, current.id, browser)


def sign_in_by_link(token: str, address: str, browser: str = "") -> str:
    """The token of a new session, for a link that works once; Forbidden when used, run out or unknown."""
    with transaction() as session:
        moment = now()
        person_id = session.scalar(
            update(SignInLink)
            .where(SignInLink.token_hash == _hash(token), SignInLink.used_at.is_(None))
            .where(SignInLink.expires_at > moment)
            .where(SignInLink.person_id.in_(select(Person.id).where(Person.active)))
            .values(used_at=moment)
            .returning(SignInLink.person_id)
        )
        if person_id is None:
            raise Forbidden("this link was used or has run out; ask for a new one", "link_refused")
        return _begin_session(session, person_id, browser)


# Built once: every page asks.
_WHOSE = (
    select(Person, WebSession.seen_at)
    .join(WebSession, WebSession.person_id == Person.id)
    .where(WebSession.token_hash == bindparam("key"), WebSession.revoked_at.is_(None), Person.active)
    .where(WebSession.created_at > bindparam("began"), WebSession.seen_at > bindparam("seen"))
)


def person_of(session_token: str, seen: bool = True) -> Person | None:
    """Whose session this is, or None when it ended; `seen=False` (a page polling) does not keep it alive."""
    moment, key = now(), _hash(session_token)
    since = {"key": key, "began": moment - ABSOLUTE, "seen": moment - IDLE}
    found = db.session.execute(_WHOSE, since).one_or_none()
    if found is None:
        return None
    person, last = found
    if seen and last < moment - _SEEN_EVERY:
        _note_seen(key, moment)
    return person


def sessions_of(person_id: str) -> list[WebSession]:
    """The person's live sessions, the latest first."""
    moment = now()
    query = (
        select(WebSession)
        .where(WebSession.person_id == person_id, WebSession.revoked_at.is_(None))
        .where(WebSession.created_at > moment - ABSOLUTE, WebSession.seen_at > moment - IDLE)
        .order_by(WebSession.seen_at.desc())
    )
    return list(db.session.scalars(query))


def sign_out(session_token: str) -> None:
    """End this session."""
    with transaction():
        _end(WebSession.token_hash == _hash(session_token))


def session_key(session_token: str) -> str:
    """Which of `sessions_of` this token belongs to: the `token_hash` of its row."""
    return _hash(session_token)


def end_session(actor: Actor, key: str) -> None:
    """End one of the actor's own sessions; Missing when there is no such one."""
    with transaction() as session:
        found = session.get(WebSession, key)
        if found is None or found.person_id != actor.id:
            raise Missing("there is no such session")
        _end(WebSession.token_hash == key)


def revoke_sessions(actor: Actor, person_id: str) -> None:
    """End every session of a person: one's own, or anybody's for who manages people."""
    with transaction() as session:
        if actor.id != person_id:
            _member(session, actor, person_id)
        _end(WebSession.person_id == person_id)
        record("config", {"change": "sessions ended", "target": person_id}, actor=actor.id)


def set_password(person: Person, old: str | None, new: str, browser: str = "") -> str:
    """Set one's password and end all sessions; returns the token of a new one.

    `old` must be right, unless there is none yet (whoever came by a link). Invalid names the field.
    """
    person_id, stored = person.id, person.password_hash
    chosen = passwords.check(new, email=person.email)
    if stored is not None:
        attempt = throttle.admit(person.email, None)
        if not passwords.matches(old or "", stored):
            raise Invalid("this is not your password", field="old")
    secret = passwords.hashed(chosen)
    with transaction() as session:
        unchanged = Person.password_hash == stored if stored is not None else Person.password_hash.is_(None)
        change = update(Person).where(Person.id == person_id, Person.active, unchanged)
        if session.scalar(change.values(password_hash=secret).returning(Person.id)) is None:
            raise Conflict("the password was changed meanwhile")
        if stored is not None:
            throttle.succeeded(attempt)
        _end(WebSession.person_id == person_id)
        token = _begin_session(session, person_id, browser)
        record("config", {"change": "password set", "target": person_id}, actor=person_id)
    return token


def _email(text: str) -> str | None:
    """The address in the one form it is stored in; None when it is none."""
    address = text.strip().lower()
    return address if len(address) <= 254 and _EMAIL.fullmatch(address) else None


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise Invalid(f"choose {', '.join(ROLES)}", field="role")


def _member(session: Session, actor: Actor, person_id: str, leaving: bool = False) -> Person:
    """The person whom the actor, who may, is about to change; locked. `leaving`: will be no admin after."""
    require(actor, "manage_people")
    if leaving:
        # All admins are locked first, in one order: two who demote each other must not both succeed.
        query = select(Person.id).where(Person.role == "admin", Person.active)
        if session.scalars(query.order_by(Person.id).with_for_update()).all() == [person_id]:
            raise Conflict("somebody has to be admin; make another one first", "last_admin")
    person = session.get(Person, person_id, with_for_update=True)
    if person is None:
        raise Missing("there is no such person")
    return person


def _hash(token: str) -> str:
    return sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _new_link(session: Session, person_id: str) -> str:
    token, moment = new_token(), now()
    link = SignInLink(
        token_hash=_hash(token), person_id=person_id, created_at=moment, expires_at=moment + LINK
    )
    session.add(link)
    return token


def _begin_session(session: Session, person_id: str, browser: str) -> str:
    token, moment = new_token(), now()
    session.add(
        WebSession(
            token_hash=_hash(token),
            person_id=person_id,
            created_at=moment,
            seen_at=moment,
            confirmed_at=moment,
            browser=browser[:200],
        )
    )
    return token


def _end(which: ColumnElement[bool]) -> None:
    ended = update(WebSession).where(which, WebSession.revoked_at.is_(None))
    joined().execute(ended.values(revoked_at=now()))


def _note_seen(key: str, moment: datetime) -> None:
    try:
        with transaction() as session:
            session.execute(update(WebSession).where(WebSession.token_hash == key).values(seen_at=moment))
    except OperationalError:
        db.session.rollback()  # reading goes on when nothing can be written
