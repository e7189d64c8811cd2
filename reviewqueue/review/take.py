"""Taking a review: choosing the best free one and taking it is one UPDATE.

All of it joins the caller's transaction. What is held by somebody, or is not for this person, must never be
chosen; the new claim's fence is one more than that of the claim before.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Update,
    and_,
    bindparam,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.orm import Session, aliased

from reviewqueue.db import now
from reviewqueue.errors import Conflict
from reviewqueue.ids import new_token
from reviewqueue.models import Claim, Decision, Person, Review, Skip
from reviewqueue.prepared import Prepared
from reviewqueue.review.queues import free, held_by, queue_order, wanted

MOST_HELD = 5

SEAT = aliased(Review, name="seat")
_ME: BindParameter[str] = bindparam("me")
_MOMENT: BindParameter[datetime] = bindparam("moment", type_=Review.claimed_at.type)


def gave(person_id: Any, seat: Any = SEAT) -> ColumnElement[bool]:
    """Whether the person has a say in this seat's item already: another seat given, or what is checked now.

    Two reviews mean two people, and nobody adjudicates or checks a decision of their own.
    """
    other, decision = aliased(Review), aliased(Decision)
    given = select(other.id).where(
        other.item_id == seat.item_id,
        other.round == seat.round,
        other.state == "given",
        other.given_by == person_id,
    )
    decided = select(decision.id).where(
        decision.item_id == seat.item_id, decision.decided_by == person_id, decision.undone_at.is_(None)
    )
    return or_(given.exists(), and_(seat.purpose != "gate", decided.exists()))


def line_up(session: Session, person_id: str) -> None:
    """Let one person's claims come one after the other: what they hold is counted meanwhile."""
    _LINE_UP.run(session.connection(), {"me": person_id})


def check_room(session: Session, person_id: str) -> None:
    """Conflict when the person holds as many reviews as they may."""
    (count,) = _HELD.rows(session.connection(), {"me": person_id, "moment": now()})[0]
    if count >= MOST_HELD:
        raise Conflict(f"You hold {count} items; finish or release one.", "holding_enough")


def take_next(session: Session, person_id: str, queue_id: str, lease: timedelta) -> Claim | None:
    """Take the first review of the queue that is free for this person and that they do not skip."""
    # One may be locked because it is being prepared: it is waited for before nothing is said to be free.
    for turn in (_NEXT, _NEXT_WAITING):
        values = _claimed(person_id, lease) | {"queue": queue_id}
        row = turn.row(session.connection(), values)
        if row is not None:
            return _claim(session, row, values)
    return None


def take_seat(
    session: Session, person_id: str, which: tuple[ColumnElement[bool], ...], lease: timedelta
) -> Claim | None:
    """Take the first seat among `which` that is free for this person; one being taken is waited for."""
    values = _claimed(person_id, lease)
    row = session.connection().execute(_taking(which, wait=True), values).one_or_none()
    return _claim(session, tuple(row), values) if row is not None else None


def add_claim(session: Session, review: Review, draft: dict[str, Any] | None) -> Claim:
    """Write down the claim that `review` now carries, in the caller's transaction."""
    assert review.claim_token is not None
    assert review.claimed_by is not None
    assert review.claimed_at is not None
    claim = Claim(
        token=review.claim_token,
        review_id=review.id,
        person_id=review.claimed_by,
        fence=review.fence,
        claimed_at=review.claimed_at,
        draft=draft,
        draft_at=review.claimed_at if draft else None,
    )
    session.add(claim)
    session.flush()
    return claim


def _claimed(person_id: str, lease: timedelta) -> dict[str, Any]:
    moment = now()
    return {"me": person_id, "moment": moment, "token": new_token(), "until": moment + lease}


def _claim(session: Session, row: tuple[Any, ...], values: Mapping[str, Any]) -> Claim:
    """Write down the claim of a seat just taken; it begins with what the same person left there."""
    review_id, fence = row
    connection, of = session.connection(), {"review": review_id}
    _END_OTHERS.run(connection, of | {"moment": values["moment"]})
    left = _DRAFT.row(connection, of | {"me": values["me"]})
    claim = {
        "token": values["token"], "review_id": review_id, "person_id": values["me"], "fence": fence,
        "claimed_at": values["moment"], "draft": left[0] if left else None,
        "draft_at": values["moment"] if left else None,
    }  # fmt: skip
    _ADD.run(connection, claim)
    return session.get_one(Claim, values["token"])


def _taking(which: tuple[ColumnElement[bool], ...], wait: bool = False) -> Update:
    other = aliased(Review)
    holds = select(other.id).where(
        other.item_id == SEAT.item_id,
        other.round == SEAT.round,
        other.id != SEAT.id,
        wanted(other),
        other.claimed_by == _ME,
    )
    best = (
        select(SEAT.id)
        .where(*which, wanted(SEAT), free(_MOMENT, SEAT), ~gave(_ME), ~holds.exists())
        .order_by(*queue_order(SEAT))
        .limit(1)
        .with_for_update(skip_locked=not wait, key_share=True, of=SEAT)
    )
    taken = {
        "claimed_by": _ME,
        "claim_token": bindparam("token"),
        "fence": Review.fence + 1,
        "claimed_at": _MOMENT,
        "lease_expires_at": bindparam("until"),
    }
    return (
        update(Review)
        .where(Review.id == best.scalar_subquery())
        .values(taken)
        .returning(Review.id, Review.fence)
        .execution_options(synchronize_session=False)
    )


def _first(wait: bool) -> Update:
    skipped = select(Skip.until).where(Skip.review_id == SEAT.id, Skip.person_id == _ME, Skip.until > _MOMENT)
    return _taking((SEAT.queue_id == bindparam("queue"), ~skipped.exists()), wait)


_NEXT = Prepared(lambda _: _first(wait=False))
_NEXT_WAITING = Prepared(lambda _: _first(wait=True))
_LINE_UP = Prepared(lambda _: select(Person.id).where(Person.id == _ME).with_for_update(key_share=True))
_HELD = Prepared(lambda _: select(func.count()).select_from(Review).where(held_by(_ME, _MOMENT)))
_END_OTHERS = Prepared(
    lambda _: (
        update(Claim)
        .where(Claim.review_id == bindparam("review"), Claim.ended_at.is_(None))
        .values(ended_at=_MOMENT, ended="taken")
    )
)
_DRAFT = Prepared(
    lambda _: (
        select(Claim.draft)
        .where(Claim.review_id == bindparam("review"), Claim.person_id == _ME, Claim.draft_at.is_not(None))
        .order_by(Claim.fence.desc())
        .limit(1)
    )
)
_ADD = Prepared(
    lambda _: insert(Claim),
    ["token", "review_id", "person_id", "fence", "claimed_at", "draft", "draft_at"],
)
