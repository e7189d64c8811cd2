"""One reviewer's verdict: given, passed on to another queue, or taken back in time.

The claim's token is the fence. Late work is kept when nobody took the review over, and refused without
losing the text when somebody did; a verdict must never be written on a review that is not the claim's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, select, union_all, update
from sqlalchemy.orm import Session

from reviewqueue.db import hits, now, stamp, transaction
from reviewqueue.errors import AlreadyDecided, Conflict, Forbidden, Invalid, LeaseLost, Missing
from reviewqueue.examples import collect
from reviewqueue.ids import is_id, new_id, new_token
from reviewqueue.ledger.entries import undo_facts
from reviewqueue.ledger.record import record
from reviewqueue.models import Card, Claim, Decision, Delivery, Item, Project, Queue, Review
from reviewqueue.people.access import ADJUDICATION, Actor, item_for, require
from reviewqueue.prepared import Prepared
from reviewqueue.review.claim import (
    AWAY,
    LEASE,
    check_draft,
    give_up,
    keep_away,
    keep_draft,
    mine,
    why_lost,
)
from reviewqueue.review.queues import wanted
from reviewqueue.review.settle import cancel_reviews, in_force, lock_item, policy_of, settle
from reviewqueue.review.take import add_claim, gave
from reviewqueue.review.verdict import Verdict, clean, judge, said
from reviewqueue.text import as_text

_LONGEST_DWELL = 2**31 - 1  # ms, 24 days: what the column holds of a page left open, or of a wrong clock
_SAME_SEAT = (
    "item_id", "item_number", "project_id", "queue_id", "purpose", "seat", "rank", "due_at", "created_at",
    "prepared_at", "hints",
)  # fmt: skip


@dataclass(frozen=True)
class Given:
    """A verdict that stands; `decision` is None while other reviews of the item are still to come."""

    review: Review
    decision: Decision | None
    replayed: bool = False


def decide(
    actor: Actor,
    token: str,
    decision_id: str,
    verdict: str,
    output: Any = None,
    reason: str | None = None,
    cause: str | None = None,
    note: str | None = None,
    *,
    draft: Mapping[str, str] | None = None,
) -> Given:
    """Give the review that `token` claims its verdict, and settle the item when it was the last one.

    A known `decision_id` with the same content gives the same answer. Raises Invalid naming the fields,
    AlreadyDecided or LeaseLost when the claim is no longer in force; `draft` (the form as it was typed)
    or else the verdict itself is then kept with the claim.
    """
    require(actor, "review")
    if not is_id("dec", decision_id):
        raise Invalid("This is no decision id.", field="decision_id")
    check_draft(draft)
    with transaction() as session:
        claim = mine(session, actor, token)
        item = lock_item(session.get_one(Review, claim.review_id).item_id)
        project = session.get_one(Project, item.project_id)
        answer = judge(project, item, verdict, output, reason, cause, note)
        known = _known(session, decision_id, claim, answer)
        if known is not None:
            return Given(known, _decision_of(session, known), replayed=True)
        if _same_person(session, actor, claim):
            raise Conflict("Somebody else must review this item: you have decided on it.", "same_person")
        review = _give(session, claim, decision_id, answer)
        if review is not None:
            return Given(review, settle(item, review, actor))
        keep_draft(session, token, draft or (claim.draft or {}) | _typed(answer))
        why = why_lost(session, actor, claim)
        state = session.get_one(Review, claim.review_id).state
    raise AlreadyDecided(why) if state == "given" else LeaseLost(why)


def escalate(actor: Actor, token: str, queue_name: str, note: str | None = None) -> Queue:
    """Move the claimed review to another queue of its project, one step more urgent, with a note.

    The actor need not see that queue. Invalid when there is none of that name, LeaseLost when the review
    is not theirs to move any more.
    """
    require(actor, "review")
    remark = clean(note, "note")
    with transaction() as session:
        claim = mine(session, actor, token)
        review = session.get_one(Review, claim.review_id)
        queue = session.scalars(
            select(Queue).where(Queue.project_id == review.project_id, Queue.name == queue_name)
        ).one_or_none()
        if queue is None or queue.id == review.queue_id:
            raise Invalid("Choose another queue of this project.", field="queue")
        if not give_up(session, claim, "escalated", remark, queue_id=queue.id, rank=max(review.rank - 1, 0)):
            raise LeaseLost(why_lost(session, actor, claim))
        keep_away(session, claim.review_id, actor.id, now() + AWAY)
        # No ledger entry tells of this, so the item's card is marked as one to be written anew.
        session.execute(update(Card).where(Card.number == review.item_number).values(stale=True))
    return queue


def undo(actor: Actor, decision_id: str) -> Claim | None:
    """Take back what the actor decided, while it can be: nothing has been sent until then.

    Returns a new claim on the same review with what they had entered as its draft; None for an override,
    which gives way to what held before. Conflict when it is too late.
    """
    require(actor, "review")
    with transaction() as session:
        review = session.scalars(select(Review).where(Review.decision_id == decision_id)).one_or_none()
        decision = session.get(Decision, decision_id)
        giver = review.given_by if review else decision.decided_by if decision else None
        if giver is None:
            raise Missing("There is no such decision.")
        item = lock_item((review or decision).item_id)  # type: ignore[union-attr]  # one is there
        if giver != actor.id:
            item_for(actor, item.id)  # Missing, when they may not even know of it
            raise Forbidden("Only the person who decided can take it back.")
        moment = now()
        if decision is not None:
            _take_back(session, decision, item, moment)
        else:
            assert review is not None
            _withdraw(session, review, item, moment)
        if review is None and decision is not None and decision.supersedes is None:
            _want_again(session, item, decision.round - 1)
        claim = _reopen(session, item, review, moment)
        facts = {"item": item.id, "project": item.project_id, "rev": item.round - 1}
        facts |= {"decision": decision_id, "undone_at": stamp(moment)}
        if decision is not None:
            session.refresh(decision)
            collect.withdraw(decision_id, actor.id)
            facts = undo_facts(decision)
        record("undo", facts | {"role": actor.role}, actor=actor.id)
        return claim


def _known(session: Session, decision_id: str, claim: Claim, answer: Verdict) -> Review | None:
    if _NAMED.row(session.connection(), {"decision": decision_id}) is None:
        return None
    review = session.scalars(
        select(Review).where(Review.decision_id == decision_id).execution_options(populate_existing=True)
    ).one_or_none()
    if review is None or review.id != claim.review_id or not said(review).same_as(answer):
        raise Conflict("This form was sent before with other content.", "decision_id_reused")
    if review.state != "given" or review.given_by != claim.person_id:
        raise Conflict("This verdict was taken back.", "undone")
    return review


def _decision_of(session: Session, review: Review) -> Decision | None:
    # Another seat's verdict may have settled the item, under its own id.
    return session.scalars(
        select(Decision).where(Decision.item_id == review.item_id, Decision.round == review.round)
    ).one_or_none()


def _same_person(session: Session, actor: Actor, claim: Claim) -> bool:
    values = {"me": actor.id, "review": claim.review_id}
    return _OTHER_SEAT.row(session.connection(), values) is not None


def _give(session: Session, claim: Claim, decision_id: str, answer: Verdict) -> Review | None:
    """Write the verdict on the review if the claim is still the one in force."""
    moment = now()
    given = {
        "review": claim.review_id, "token": claim.token, "decision_id": decision_id, "given_at": moment,
        "verdict": answer.verdict, "correction": answer.output, "reason": answer.reason,
        "cause": answer.cause, "note": answer.note, "given_by": claim.person_id,
        "dwell_ms": min(max(0, round((moment - claim.claimed_at).total_seconds() * 1000)), _LONGEST_DWELL),
    }  # fmt: skip
    connection = session.connection()
    if _GIVE.run(connection, given) != 1:
        return None
    _END.run(connection, {"token": claim.token, "moment": moment})
    return session.get_one(Review, claim.review_id, populate_existing=True)


_NAMED = Prepared(
    lambda _: union_all(
        select(Review.id).where(Review.decision_id == bindparam("decision")),
        select(Decision.id).where(Decision.id == bindparam("decision")),
    )
)
_OTHER_SEAT = Prepared(
    lambda _: select(Review.id).where(
        Review.id == bindparam("review"), wanted(), gave(bindparam("me"), Review)
    )
)
_GIVEN = ("decision_id", "verdict", "reason", "cause", "note", "given_by", "given_at", "dwell_ms")
_GIVE = Prepared(
    lambda _: (
        update(Review)
        .where(Review.id == bindparam("review"), Review.claim_token == bindparam("token"), wanted())
        .values(
            {name: bindparam(name) for name in _GIVEN}
            | {"state": "given", "output": bindparam("correction"), "lease_expires_at": None}
        )
    )
)
_END = Prepared(
    lambda _: (
        update(Claim)
        .where(Claim.token == bindparam("token"), Claim.ended_at.is_(None))
        .values(ended_at=bindparam("moment"), ended="decided")
    )
)


def _typed(answer: Verdict) -> dict[str, str]:
    """A verdict as the fields of its form."""
    fields = {
        "verdict": answer.verdict,
        "output": None if answer.output is None else as_text(answer.output),
        "reason": answer.reason,
        "cause": answer.cause,
        "note": answer.note,
    }
    return {name: text for name, text in fields.items() if text is not None}


def _take_back(session: Session, decision: Decision, item: Item, moment: datetime) -> None:
    """Undo a decision in force: its event, its place in the sequence, and what it did to the item."""
    undone = session.execute(
        update(Decision)
        .where(
            Decision.id == decision.id,
            Decision.undone_at.is_(None),
            Decision.superseded_at.is_(None),
            Decision.final_at > moment,
        )
        .values(undone_at=moment)
        .execution_options(synchronize_session=False)
    )
    told = session.scalars(select(Delivery.id).where(Delivery.decision_id == decision.id)).all()
    unsent = session.execute(
        update(Delivery)
        .where(Delivery.id.in_(told), Delivery.state.in_(("due", "parked")), Delivery.attempts == 0)
        .values(state="cancelled", ended_at=moment)
        .execution_options(synchronize_session=False)
    )
    if hits(undone) != 1 or hits(unsent) != len(told):
        raise Conflict("It is too late to take this back; a lead can override it.", "final")
    if decision.sequence is not None:
        # Nothing was sent under this number, so the next event takes it and no backend waits for it.
        item.sequence -= 1
    item.status = {"release": "released", "block": "blocked"}.get(item.route, "pending")
    if decision.supersedes is not None:
        earlier = session.get_one(Decision, decision.supersedes)
        earlier.superseded_at = None
        collect.restore(earlier.id, decision.decided_at, decision.decided_by or "system")
        item.status = "expired" if earlier.source == "timeout" else "decided"


def _withdraw(session: Session, review: Review, item: Item, moment: datetime) -> None:
    """Undo a verdict that has not settled its item yet."""
    session.refresh(review)
    seconds = policy_of(item).undo_seconds
    assert review.given_at is not None
    open_still = review.state == "given" and item.status in ("pending", "released")
    if not open_still or in_force(item.id) or review.given_at + timedelta(seconds=seconds) <= moment:
        raise Conflict("It is too late to take this back.", "final")
    cancel_reviews(item.id, ADJUDICATION)


def _want_again(session: Session, item: Item, before: int) -> None:
    """Bring back the control reviews that an override, now undone, had cancelled."""
    moved = (Review.item_id == item.id, Review.round == before, Review.purpose == "control")
    for review in session.scalars(select(Review).where(*moved, Review.state == "cancelled")).all():
        session.add(_seat_again(review, item))
    session.execute(update(Review).where(*moved, Review.state == "given").values(round=item.round))


def _reopen(session: Session, item: Item, review: Review | None, moment: datetime) -> Claim | None:
    """Begin the item's next round: what others gave or hold goes on in it, and `review` is wanted anew."""
    before, item.round = item.round, item.round + 1
    if review is not None:
        review.state = "undone"
        session.flush()
    session.execute(
        update(Review)
        .where(Review.item_id == item.id, Review.round == before, Review.state.in_(("wanted", "given")))
        .values(round=item.round)
        .execution_options(synchronize_session=False)
    )
    if review is None:
        return None
    again = _seat_again(review, item)
    again.claimed_by, again.claim_token = review.given_by, new_token()
    again.claimed_at, again.lease_expires_at = moment, moment + LEASE
    again.fence = review.fence + 1
    session.add(again)
    session.flush()
    return add_claim(session, again, _typed(said(review)))


def _seat_again(review: Review, item: Item) -> Review:
    values = {name: getattr(review, name) for name in _SAME_SEAT}
    return Review(id=new_id("rev"), round=item.round, state="wanted", fence=review.fence, **values)
