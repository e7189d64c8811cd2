"""Old sign-ins are forgotten, and nothing that still matters."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import func, select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.models import SignInAttempt, SignInLink, WebSession
from reviewqueue.people.forget import KEPT, forget_old, has_old
from reviewqueue.people.sign_in import sign_in_by_link
from reviewqueue.people.throttle import admit


def test_forget_old_takes_what_is_old_and_leaves_the_rest(make: Any) -> None:
    ada, cleo = make.person("ada"), make.person("cleo")
    for person in (ada, cleo):
        sign_in_by_link(make.sign_in_path(person).removeprefix("/login/link/"), "192.0.2.1")
        admit("ada@example.org", "192.0.2.1")
    assert not has_old()
    assert forget_old() == 0
    past = now() - KEPT - timedelta(seconds=1)
    with transaction() as session:
        session.execute(update(WebSession).where(WebSession.person_id == ada.id).values(seen_at=past))
        session.execute(update(SignInLink).where(SignInLink.person_id == ada.id).values(expires_at=past))
        first = session.scalars(select(SignInAttempt.id).order_by(SignInAttempt.id).limit(1)).one()
        session.execute(update(SignInAttempt).where(SignInAttempt.id == first).values(at=past))
    assert has_old()
    assert forget_old() == 4  # a session, two links, a try
    assert not has_old()
    assert db.session.scalars(select(WebSession.person_id)).all() == [cleo.id]
    assert set(db.session.scalars(select(SignInLink.person_id))) == {cleo.id}
    assert db.session.scalar(select(func.count()).select_from(SignInAttempt)) == 1
