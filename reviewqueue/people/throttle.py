"""Slowing down guessing: how often an account, or an address, may fail to sign in.

Only failures count, and a try counts as failed until it succeeded, so that many at once gain nothing. It
must never tell whether the account exists.
"""

from __future__ import annotations

from datetime import timedelta
from hashlib import sha256

from sqlalchemy import ColumnElement, select, text
from sqlalchemy.orm import Session

from reviewqueue.db import joined, now, transaction
from reviewqueue.errors import Busy
from reviewqueue.ids import new_id
from reviewqueue.models import SignInAttempt

SOON, LATER, KNOWN = timedelta(minutes=15), timedelta(hours=24), timedelta(days=30)
PER_ACCOUNT, PER_ACCOUNT_DAY, PER_ADDRESS = 10, 100, 30
_LOCK = 7213905502  # PostgreSQL advisory lock: tries are counted one at a time


def account_of(email: str) -> str:
    """What stands for an email here, whether or not it has an account."""
    return sha256(email.encode("utf-8", "surrogatepass")).hexdigest()


def admit(email: str, address: str | None) -> str:
    """Count a try before it is made; returns its id for `succeeded`. Busy when there were too many.

    Refused tries are not counted: who waits is let in again. `address` is None for somebody signed in.
    """
    account, place = account_of(email), (address or "")[:45]
    with transaction() as session:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        tries = SignInAttempt.account == account
        if address is not None and _is_known(session, account, place):
            # Strangers failing elsewhere must not lock out somebody at their usual address.
            tries &= SignInAttempt.address == place
        for which, span, limit in (
            (tries, SOON, PER_ACCOUNT),
            (tries, LATER, PER_ACCOUNT_DAY),
            (SignInAttempt.address == place, SOON, PER_ADDRESS),
        ):
            if place or which is tries:
                _refuse_over(session, which, span, limit)
        attempt = SignInAttempt(id=new_id("try"), account=account, address=place, at=now(), succeeded=False)
        session.add(attempt)
        return attempt.id


def succeeded(attempt_id: str) -> None:
    """The try was right: it no longer counts. For the transaction that lets the person in."""
    attempt = joined().get(SignInAttempt, attempt_id)
    if attempt is not None:
        attempt.succeeded = True


def _is_known(session: Session, account: str, address: str) -> bool:
    before = select(SignInAttempt.id).where(
        SignInAttempt.account == account,
        SignInAttempt.address == address,
        SignInAttempt.succeeded,
        SignInAttempt.at > now() - KNOWN,
    )
    return session.scalar(before.limit(1)) is not None


def _refuse_over(session: Session, which: ColumnElement[bool], span: timedelta, limit: int) -> None:
    failed = select(SignInAttempt.at).where(which, SignInAttempt.at > now() - span, ~SignInAttempt.succeeded)
    times = session.scalars(failed.order_by(SignInAttempt.at.desc()).limit(limit)).all()
    if len(times) == limit:
        wait = times[-1] + span - now()
        minutes = max(1, round(wait.total_seconds() / 60))
        raise Busy(
            f"too many failed sign-ins; try again in {minutes} min",
            "too_many_tries",
            retry_after=max(1, int(wait.total_seconds()) + 1),
        )
