"""What somebody may see of an item: why it is here, what others said of it, what they can still undo.

Reviews are blind, and a control review looks like any other. Must never tell a reviewer, by a word or by
its absence, what another one said or that the output is out already, while a review is open.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import and_, exists, select

from reviewqueue.db import db, now
from reviewqueue.models import (
    Attempt,
    Decision,
    Delivery,
    Example,
    Item,
    Policy,
    Project,
    Review,
)
from reviewqueue.people.access import Actor, may, projects_of
from reviewqueue.review.next import AHEAD
from reviewqueue.review.queues import CHOSEN, held_by, reasons_told

NEUTRAL = "The policy wants a person to look at this one: its confidence or risk, or the lot."
DISAGREED = "The reviewers did not agree."
LOOKED_AT = 50  # of a person's newest decisions, to find one that can be undone: they may have made a million


def why(item: Item, purpose: str = "gate") -> list[str]:
    """Why the item is here in sentences, as far as a reviewer may know."""
    reasons = [] if purpose == "adjudication" else reasons_told(item)
    told = [DISAGREED] if purpose == "adjudication" else []
    for reason in reasons:
        message = reason["message"]
        told.append(NEUTRAL if reason == CHOSEN else f"{message[:1].upper()}{message[1:]}.")
    return told


@dataclass(frozen=True)
class Trail:
    """What became of an item, as far as the reader may see it."""

    open: bool  # a review of it is still wanted
    told: bool  # the reader may know how it was routed and what was decided
    reviews: Sequence[Review]
    kept_back: frozenset[str]  # ids of reviews whose verdict is not shown yet
    decisions: Sequence[Decision]  # newest first


def trail(actor: Actor, item: Item) -> Trail:
    """The item's reviews and decisions; who reviews learns nothing that could sway them while one is open."""
    reviews = db.session.scalars(
        select(Review).where(Review.item_id == item.id).order_by(Review.created_at, Review.seat)
    ).all()
    open_seats = [review for review in reviews if review.state == "wanted"]
    told = not open_seats or may(actor, "read_audit")
    decisions = db.session.scalars(
        select(Decision).where(Decision.item_id == item.id).order_by(Decision.decided_at.desc())
    ).all()
    kept_back = frozenset(
        review.id for review in reviews if review.verdict and not _may_see(actor, review, open_seats)
    )
    return Trail(bool(open_seats), told, reviews, kept_back, decisions if told else ())


def others(actor: Actor, review: Review) -> list[Review]:
    """The verdicts an adjudicator has to judge between; nothing for anybody else."""
    if review.purpose != "adjudication" or not may(actor, "adjudicate"):
        return []
    given = select(Review).where(
        Review.item_id == review.item_id,
        Review.round == review.round,
        Review.state == "given",
        Review.id != review.id,
    )
    return list(db.session.scalars(given.order_by(Review.seat)))


def _may_see(actor: Actor, review: Review, open_seats: Sequence[Review]) -> bool:
    if review.given_by == actor.id or not open_seats:
        return True
    still_blind = any(seat.purpose != "adjudication" for seat in open_seats)
    return not still_blind and (may(actor, "adjudicate") or may(actor, "read_audit"))


@dataclass(frozen=True)
class Undoable:
    """A verdict its giver can still take back."""

    decision_id: str
    item_id: str
    verdict: str
    given_at: datetime
    until: datetime

    @property
    def seconds(self) -> int:
        """How long it can still be taken back, in whole seconds from now."""
        return max(0, int((self.until - now()).total_seconds()))


def undoable(actor: Actor) -> Undoable | None:
    """What the actor decided last, also when other reviewers are still to come, while it can be undone."""
    found = [one for one in (_decided_last(actor), _given_last(actor)) if one and one.until > now()]
    return max(found, key=lambda one: one.given_at, default=None)


def _decided_last(actor: Actor) -> Undoable | None:
    newest = db.session.execute(
        select(
            Decision.id, Decision.item_id, Decision.verdict, Decision.decided_at, Decision.final_at
        )
        .where(
            Decision.decided_by == actor.id, Decision.undone_at.is_(None), Decision.superseded_at.is_(None)
        )
        .order_by(Decision.decided_at.desc())
        .limit(LOOKED_AT)
    )  # fmt: skip
    for row in newest:
        if row.final_at > now() and row.verdict is not None:
            return Undoable(row.id, row.item_id, row.verdict, row.decided_at, row.final_at)
    return None


def _given_last(actor: Actor) -> Undoable | None:
    """The actor's newest verdict if it has not settled its item yet."""
    found = db.session.execute(
        select(Review, Policy.body)
        .join(Item, Item.id == Review.item_id)
        .join(Policy, and_(Policy.project_id == Item.project_id, Policy.version == Item.policy_version))
        .where(Review.given_by == actor.id, Review.state == "given", Review.round == Item.round)
        .order_by(Review.given_at.desc())
        .limit(1)
    ).first()
    if found is None:
        return None
    review, body = found
    if review.decision_id is None or review.verdict is None or review.given_at is None:
        return None
    in_round = (Decision.item_id == review.item_id, Decision.round == review.round)
    if db.session.scalar(select(exists().where(*in_round))):
        return None
    until = review.given_at + timedelta(seconds=body["undo_seconds"])
    return Undoable(review.decision_id, review.item_id, review.verdict, review.given_at, until)


def held_in(actor: Actor, queue_id: str) -> str | None:
    """The token of what the actor holds in this queue, longest held first; None when they hold nothing.

    What was only claimed ahead, and never opened, they do not hold.
    """
    held = db.session.execute(
        select(Review.claim_token, Review.claimed_at, Review.lease_expires_at)
        .where(held_by(actor.id, now()), Review.queue_id == queue_id)
        .order_by(Review.claimed_at)
    )
    opened = (row.claim_token for row in held if row.lease_expires_at > row.claimed_at + 2 * AHEAD)
    return next(opened, None)


def nothing_yet(actor: Actor) -> bool:
    """Whether no item was ever submitted to any project the actor can see."""
    ids = [project.id for project in projects_of(actor)]
    return not db.session.scalar(select(exists().where(Item.project_id.in_(ids))))


@dataclass(frozen=True)
class FirstItem:
    """What the line that sends a first item says: a project's name, and an output as JSON for a shell."""

    project: str
    output: str


def first_item(projects: Sequence[Project]) -> FirstItem:
    """A first item for one of `projects`; when there is none, for a project that is still to be made."""
    outputs: dict[str, Any] = {
        "text": "It left our warehouse on Monday.",
        "markdown": "It left our warehouse on **Monday**.",
        "chat": [{"role": "assistant", "content": "It left our warehouse on Monday."}],
        "tool_call": {"name": "find_parcel", "arguments": {"order": "A-17"}},
        "json": {"left_on": "Monday"},
    }
    # An output of these kinds fits whatever the project's schema says.
    easy = sorted(projects, key=lambda project: project.kind not in ("text", "markdown", "chat", "label"))
    if not easy:
        return FirstItem("first-steps", json.dumps(outputs["text"]))
    labels = (easy[0].schema or {}).get("enum") or ["label"]
    output = labels[0] if easy[0].kind == "label" else outputs[easy[0].kind]
    return FirstItem(easy[0].name, json.dumps(output).replace("'", "\\u0027"))


def deliveries(item: Item) -> list[tuple[Delivery, list[Attempt]]]:
    """What its backend was told about the item, in order, with every attempt."""
    sent = db.session.scalars(
        select(Delivery).where(Delivery.item_id == item.id).order_by(Delivery.created_at, Delivery.sequence)
    ).all()
    attempts: dict[str, list[Attempt]] = {delivery.id: [] for delivery in sent}
    for attempt in db.session.scalars(
        select(Attempt).where(Attempt.delivery_id.in_(attempts)).order_by(Attempt.number)
    ):
        attempts[attempt.delivery_id].append(attempt)
    return [(delivery, attempts[delivery.id]) for delivery in sent]


def learned(item: Item) -> list[Example]:
    """The examples that came of the item's decisions."""
    return list(db.session.scalars(select(Example).where(Example.item_id == item.id).order_by(Example.id)))
