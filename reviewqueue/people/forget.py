"""Old sign-ins are forgotten: tries, links and sessions that can matter to nobody any more.

Must never take what throttling still looks at (throttle.KNOWN) or a session that is still open.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import delete, exists, select

from reviewqueue.db import db, hits, now, transaction
from reviewqueue.models import SignInAttempt, SignInLink, WebSession
from reviewqueue.people.throttle import KNOWN

KEPT = KNOWN + timedelta(days=1)


_AGES = (
    (SignInAttempt, SignInAttempt.at),
    (SignInLink, SignInLink.expires_at),
    (WebSession, WebSession.seen_at),
)


def forget_old() -> int:
    """Delete what is older than KEPT; returns how many rows there were. Writes only when there are any."""
    if not has_old():
        return 0
    before = now() - KEPT
    with transaction() as session:
        return sum(hits(session.execute(delete(table).where(age < before))) for table, age in _AGES)


def has_old() -> bool:
    """Whether there is something to forget."""
    before = now() - KEPT
    # Tries are many and their ids sort by age; links and sessions are few.
    oldest = db.session.scalars(select(SignInAttempt.at).order_by(SignInAttempt.id).limit(1)).first()
    if oldest is not None and oldest < before:
        return True
    return any(db.session.scalar(select(exists().where(age < before))) for _, age in _AGES[1:])
