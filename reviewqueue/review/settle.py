"""Reviews, an override or the passing of time become one decision.

Owns the decision's row and everything that must be true together with it: the item's status, the event
for the backend, the proposed example, the ledger's entry. It must never leave two decisions in force.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from sqlalchemy import ColumnElement, bindparam, or_, select, update
from sqlalchemy.orm import Session

from reviewqueue.background import ring
from reviewqueue.db import after_commit, db, dumps, joined, now, transaction
from reviewqueue.delivery.deliver import schedule
from reviewqueue.errors import Conflict, Invalid
from reviewqueue.examples import collect
from reviewqueue.ids import is_id, new_id
from reviewqueue.ledger.entries import decision_facts, decision_parts
from reviewqueue.ledger.record import record
from reviewqueue.models import Claim, Decision, Item, Policy, Project, Queue, Review
from reviewqueue.models.review import PRIORITIES
from reviewqueue.people.access import ADJUDICATION, SYSTEM, Actor, item_for, require
from reviewqueue.prepared import Prepared
from reviewqueue.review.claim import end_claims
from reviewqueue.review.queues import wanted
from reviewqueue.review.verdict import Verdict, agree, judge, said

_SOURCES = {"gate": "review", "control": "control", "adjudication": "adjudication"}


def lock_item(item_id: str) -> Item:
    """The item, read anew and locked until the caller's transaction ends: every decision begins here."""
    return joined().scalars(_LOCKED, {"item": item_id}).one()


@dataclass(frozen=True)
class Pinned:
    """What deciding needs of a policy's version, which never changes."""

    digest: str
    undo_seconds: int
    due_minutes: int
    on_timeout: str


def policy_of(item: Item) -> Pinned:
    """The version of the policy that was pinned on the item when it was submitted."""
    return _pinned(item.project_id, item.policy_version)


@lru_cache(maxsize=1000)
def _pinned(project_id: str, version: int) -> Pinned:
    wanted_one = select(Policy.digest, Policy.body).where(
        Policy.project_id == project_id, Policy.version == version
    )
    digest, body = db.session.execute(wanted_one).one()
    return Pinned(digest, *(body[field] for field in ("undo_seconds", "due_minutes", "on_timeout")))


_LOCKED = (
    select(Item)
    .where(Item.id == bindparam("item"))
    .with_for_update(key_share=True)
    .execution_options(populate_existing=True)
)
_OTHERS = Prepared(
    lambda _: select(Review.id).where(
        Review.item_id == bindparam("item"),
        Review.round == bindparam("round"),
        Review.purpose == bindparam("purpose"),
        Review.id != bindparam("review"),
        or_(wanted(), Review.state == "given"),
    )
)
_QUEUE = Prepared(lambda _: select(Queue.name).where(Queue.id == bindparam("queue")))


def in_force(item_id: str) -> Decision | None:
    """The item's decision that counts now."""
    return (
        db.session()
        .scalars(
            select(Decision).where(
                Decision.item_id == item_id, Decision.undone_at.is_(None), Decision.superseded_at.is_(None)
            )
        )
        .one_or_none()
    )


def settle(item: Item, review: Review, actor: Actor) -> Decision | None:
    """Make the decision if `review`, just given, was the last one wanted; joins the caller's transaction.

    Reviews that disagree make no decision but another review, for somebody who may adjudicate.
    """
    session = joined()
    one = {"item": item.id, "round": review.round, "purpose": review.purpose, "review": review.id}
    if _OTHERS.row(session.connection(), one) is None:
        return _settled(item, review, actor)
    turn = (Review.item_id == item.id, Review.round == review.round, Review.purpose == review.purpose)
    given = list(session.scalars(select(Review).where(*turn, Review.state == "given").order_by(Review.seat)))
    if session.scalars(select(Review.id).where(*turn, wanted())).first() is not None:
        _note(item, review, actor)
        return None
    if not agree(given):
        _adjudicate(session, item, given)
        _note(item, review, actor)
        return None
    return _settled(item, review, actor)


def _settled(item: Item, review: Review, actor: Actor) -> Decision:
    event: str | None = "item.decided"
    if item.status == "released":
        event = None if review.verdict == "approve" else "item.amended"
    return conclude(item, said(review), actor, source=_SOURCES[review.purpose], event=event, review=review)


def override(
    actor: Actor,
    item_id: str,
    verdict: str,
    output: object,
    reason: str | None,
    cause: str | None = None,
    note: str | None = None,
    decision_id: str | None = None,
) -> Decision:
    """A lead's decision over whatever holds for the item; it supersedes, and is told as `item.amended`.

    A known `decision_id` with the same content gives the same answer. Conflict when the item is still to
    be decided (`not_decided`) or past deciding.
    """
    require(actor, "override")
    if decision_id is not None and not is_id("dec", decision_id):
        raise Invalid("This is no decision id.", field="decision_id")
    item_for(actor, item_id)
    with transaction() as session:
        item = lock_item(item_id)
        project = session.get_one(Project, item.project_id)
        answer = judge(project, item, verdict, output, reason, cause, note, reason_always=True)
        known = session.get(Decision, decision_id) if decision_id else None
        if known is not None:
            return _again(known, item, actor, answer)
        _check_overridable(item)
        cancel_reviews(item.id)
        earlier = in_force(item.id)
        moment = now()
        if earlier is not None:
            earlier.superseded_at = moment
            session.flush()
            collect.withdraw(earlier.id, actor.id)
        item.round += 1
        return conclude(
            item,
            answer,
            actor,
            id=decision_id,
            source="override",
            event="item.amended",
            supersedes=earlier.id if earlier else None,
            at=moment,
        )


def cancel_reviews(item_id: str, *purposes: str) -> None:
    """Cancel what is still wanted of an item (all, or these purposes) in the caller's transaction."""
    session = joined()
    which: list[ColumnElement[bool]] = [Review.item_id == item_id, wanted()]
    if purposes:
        which.append(Review.purpose.in_(purposes))
    ids = session.scalars(update(Review).where(*which).values(state="cancelled").returning(Review.id)).all()
    end_claims(session, Claim.review_id.in_(ids), "cancelled")


def conclude(
    item: Item,
    answer: Verdict,
    actor: Actor,
    *,
    source: str,
    event: str | None,
    id: str | None = None,
    review: Review | None = None,
    supersedes: str | None = None,
    released: bool | None = None,
    at: datetime | None = None,
) -> Decision:
    """Write the decision and all that goes with it; `released` is told by the verdict when there is one."""
    session = joined()
    moment = at or (review.given_at if review else None) or now()
    if event:
        item.sequence += 1
        item.status = "expired" if event == "item.expired" else "decided"
    decision = _decision(item, answer, moment, answer.verdict != "reject" if released is None else released)
    decision.id = (review.decision_id if review else id) or new_id("dec")
    decision.source, decision.supersedes = source, supersedes
    decision.decided_by = None if actor == SYSTEM else actor.id
    decision.sequence = item.sequence if event else None
    session.add(decision)
    session.flush()
    collect.propose(item, decision)
    parts = {"shown": dumps(item.output)} | ({} if item.input is None else {"in": dumps(item.input)})
    recorded = record(
        "decision",
        decision_facts(decision) | _circumstances(item, review, actor),
        parts=decision_parts(decision) | parts,
        actor=actor.id,
    )
    if event:
        schedule(item, decision, event, recorded)
    after_commit(lambda: ring("learn"))
    return decision


def _decision(item: Item, answer: Verdict, moment: datetime, released: bool) -> Decision:
    """What the item and the answer say of a decision's row; a timeout cannot be undone."""
    edited = answer.verdict == "edit"
    undo = policy_of(item).undo_seconds if answer.verdict else 0
    return Decision(
        item_id=item.id,
        project_id=item.project_id,
        round=item.round,
        verdict=answer.verdict,
        released=released,
        output=(answer.output if edited else item.output) if released else None,
        edited=edited,
        reason=answer.reason,
        cause=answer.cause,
        note=answer.note,
        decided_at=moment,
        final_at=moment + timedelta(seconds=undo),
        policy_version=item.policy_version,
    )


def _circumstances(item: Item, review: Review | None, actor: Actor) -> dict[str, Any]:
    """What the ledger says of how a verdict came about."""
    facts: dict[str, Any] = {"backend": item.backend_id, "role": actor.role, "policy": policy_of(item).digest}
    if review is not None:
        queue = _QUEUE.row(joined().connection(), {"queue": review.queue_id})
        facts |= {"token": review.fence, "queue": queue and queue[0], "dwell_ms": review.dwell_ms}
    return facts


def _note(item: Item, review: Review, actor: Actor) -> None:
    """Record a verdict that settles nothing by itself."""
    why = {"reason": review.reason, "cause": review.cause, "note": review.note}
    parts = {"why": dumps(why)} | ({} if review.output is None else {"out": dumps(review.output)})
    facts = {"rev": review.round, "source": _SOURCES[review.purpose], "action": review.verdict}
    record(
        "review",
        facts | {"policy_version": item.policy_version} | _circumstances(item, review, actor),
        parts=parts,
        item_id=item.id,
        decision_id=review.decision_id,
        project_id=item.project_id,
        actor=actor.id,
    )


def _adjudicate(session: Session, item: Item, given: list[Review]) -> None:
    """Ask somebody who may adjudicate; they see the verdicts that disagree."""
    queue_id = session.scalars(
        select(Queue.id).where(Queue.project_id == item.project_id, Queue.name == ADJUDICATION)
    ).one()
    moment = now()
    session.add(
        Review(
            id=new_id("rev"),
            item_id=item.id,
            item_number=item.number,
            project_id=item.project_id,
            queue_id=queue_id,
            purpose="adjudication",
            round=item.round,
            seat=1,
            state="wanted",
            rank=min(PRIORITIES["high"], *(review.rank for review in given)),
            due_at=moment + timedelta(minutes=policy_of(item).due_minutes),
            created_at=moment,
            prepared_at=given[0].prepared_at,
            hints=given[0].hints,
        )
    )


def _again(known: Decision, item: Item, actor: Actor, answer: Verdict) -> Decision:
    told = Verdict(
        known.verdict,
        known.output if known.edited else None,
        known.reason,
        known.cause,
        known.note,
    )
    if known.item_id == item.id and known.decided_by == actor.id and told.same_as(answer):
        return known
    raise Conflict("This form was sent before with other content.", "decision_id_reused")


def _check_overridable(item: Item) -> None:
    if item.status == "pending":
        raise Conflict("The item is still to be decided; claim it instead.", "not_decided")
    if item.status not in ("released", "decided", "blocked", "expired"):
        raise Conflict(f"The item is {item.status}; nothing can be decided about it.", item.status)
