"""Reviews, an override or the passing of time become one decision.

Owns the decision's row and everything that must be true together with it: the item's status, the event
for the backend, the proposed example, the ledger's entry. It must never leave two decisions in force.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, select, tuple_, update
from sqlalchemy.orm import Session, aliased

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
from reviewqueue.review.claim import end_claims
from reviewqueue.review.queues import free, wanted
from reviewqueue.review.verdict import Verdict, agree, judge, said

_SOURCES = {"gate": "review", "control": "control", "adjudication": "adjudication"}
EXPIRE_BATCH = 100


def lock_item(item_id: str) -> Item:
    """The item, read anew and locked until the caller's transaction ends: every decision begins here."""
    return joined().scalars(
        select(Item)
        .where(Item.id == item_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    ).one()  # fmt: skip


def policy_of(item: Item) -> Policy:
    """The version of the policy that was pinned on the item when it was submitted."""
    return (
        db.session()
        .scalars(
            select(Policy).where(Policy.project_id == item.project_id, Policy.version == item.policy_version)
        )
        .one()
    )


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
    turn = (Review.item_id == item.id, Review.round == review.round, Review.purpose == review.purpose)
    if session.scalars(select(Review.id).where(*turn, wanted())).first() is not None:
        return None
    given = list(session.scalars(select(Review).where(*turn, Review.state == "given")))
    if not agree(given):
        _adjudicate(session, item, given)
        return None
    event: str | None = "item.decided"
    if item.status == "released":
        event = None if review.verdict == "approve" else "item.amended"
    return _conclude(item, said(review), actor, source=_SOURCES[review.purpose], event=event, review=review)


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
        return _conclude(
            item,
            answer,
            actor,
            id=decision_id,
            source="override",
            event="item.amended",
            supersedes=earlier.id if earlier else None,
            at=moment,
        )


def expire_due() -> int:
    """Let overdue items go as their policies say for that; returns how many. Nobody's live lease is cut.

    A policy that says `wait` lets nothing expire.
    """
    expired = 0
    while chosen := list(_overdue()):
        done = sum(_expire(item_id) for item_id in chosen)
        expired += done
        if not done:
            break
    return expired


def expiry_due() -> bool:
    """Whether an item could expire now."""
    return next(_overdue(1), None) is not None


def cancel_reviews(item_id: str, *purposes: str) -> None:
    """Cancel what is still wanted of an item (all, or these purposes) in the caller's transaction."""
    session = joined()
    which: list[ColumnElement[bool]] = [Review.item_id == item_id, wanted()]
    if purposes:
        which.append(Review.purpose.in_(purposes))
    ids = session.scalars(update(Review).where(*which).values(state="cancelled").returning(Review.id)).all()
    end_claims(session, Claim.review_id.in_(ids), "cancelled")


def _conclude(
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
    policy = policy_of(item)
    moment = at or (review.given_at if review else None) or now()
    may_be_used = answer.verdict != "reject" if released is None else released
    undo = timedelta(seconds=policy.body["undo_seconds"] if answer.verdict else 0)
    if event:
        item.sequence += 1
        item.status = "expired" if event == "item.expired" else "decided"
    decision = Decision(
        id=(review.decision_id if review else id) or new_id("dec"),
        item_id=item.id,
        project_id=item.project_id,
        round=item.round,
        source=source,
        verdict=answer.verdict,
        released=may_be_used,
        output=(answer.output if answer.verdict == "edit" else item.output) if may_be_used else None,
        edited=answer.verdict == "edit",
        reason=answer.reason,
        cause=answer.cause,
        note=answer.note,
        decided_by=None if actor == SYSTEM else actor.id,
        decided_at=moment,
        final_at=moment + undo,
        policy_version=item.policy_version,
        sequence=item.sequence if event else None,
        supersedes=supersedes,
    )
    session.add(decision)
    session.flush()
    collect.propose(item, decision)
    facts: dict[str, Any] = {"backend": item.backend_id, "role": actor.role, "policy": policy.digest}
    if review:
        queue = session.get_one(Queue, review.queue_id)
        facts |= {"token": review.fence, "queue": queue.name, "dwell_ms": review.dwell_ms}
    parts = {"shown": dumps(item.output)} | ({} if item.input is None else {"in": dumps(item.input)})
    recorded = record(
        "decision",
        decision_facts(decision) | facts,
        parts=decision_parts(decision) | parts,
        actor=actor.id,
    )
    if event:
        schedule(item, decision, event, recorded)
    after_commit(lambda: ring("learn"))
    return decision


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
            due_at=moment + timedelta(minutes=policy_of(item).body["due_minutes"]),
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


def _overdue(limit: int = EXPIRE_BATCH) -> Iterator[str]:
    """Ids of items with an overdue review, nobody at work on any of them, and a policy that lets them go."""
    session, moment = db.session(), now()
    letting_go = [
        (policy.project_id, policy.version)
        for policy in session.scalars(select(Policy))
        if policy.body["on_timeout"] != "wait"
    ]
    at_work = aliased(Review)
    busy = select(at_work.id).where(
        at_work.item_id == Review.item_id, wanted(at_work), ~free(moment, at_work)
    )
    found = session.scalars(
        select(Review.item_id)
        .join(Item, Item.number == Review.item_number)
        .where(
            wanted(),
            Review.due_at <= moment,
            Item.status == "pending",
            tuple_(Item.project_id, Item.policy_version).in_(letting_go),
            ~busy.exists(),
        )
        .order_by(Review.due_at)
        .limit(limit)
    ).all()
    yield from dict.fromkeys(found)


def _expire(item_id: str) -> bool:
    """Let one item go, unless somebody claimed or decided it since it was found overdue."""
    with transaction() as session:
        item = lock_item(item_id)
        seats = session.scalars(
            select(Review).where(Review.item_id == item_id, wanted()).with_for_update(key_share=True)
        ).all()
        moment = now()
        at_work = any(seat.lease_expires_at and seat.lease_expires_at > moment for seat in seats)
        if item.status != "pending" or at_work or not any(seat.due_at <= moment for seat in seats):
            return False
        cancel_reviews(item_id)
        outcome = policy_of(item).body["on_timeout"]
        _conclude(
            item,
            Verdict(None),
            SYSTEM,
            source="timeout",
            event="item.expired",
            released=outcome == "release",
        )
        return True
