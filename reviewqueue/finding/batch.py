"""Many items decided at once: what would happen, then each through the verbs that decide one.

Every item is claimed and decided on its own, so that fences, ledger and callbacks hold. What two people must
see, what carries a high risk and a sample of the rest is left alone; a correction is given to the very same
output alone. Must never tell a control review from any other: they hide in that sample.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import func, select, update

from reviewqueue.content.diff import same
from reviewqueue.db import db, now, transaction
from reviewqueue.errors import AlreadyDecided, Conflict, Invalid, Missing, Refusal
from reviewqueue.finding import alike
from reviewqueue.ids import new_id
from reviewqueue.models import Batch, BatchItem, Claim, Decision, Item, Policy, Project, Queue, Review
from reviewqueue.people.access import ADJUDICATION, Actor, people_of, require, visible_queues
from reviewqueue.review import decide as decisions
from reviewqueue.review.claim import claim_item, release
from reviewqueue.review.verdict import clean

MOST = 1_000  # items of one batch
SECONDS = 4.0  # how long one request works on a batch
IN_BULK = ("approve", "reject")
HIGH_RISK = 0.5  # where the policy names none
ONE_IN = 10  # of the others, chosen by lot, is looked at one by one

ALONE = "Looked at one by one: it needs two people, or belongs to the one in ten that always are."
RISKY = "Its risk is high."
BEGUN = "You have begun to write about it."
OTHER = "Its output is not the very same."
NO_CORRECTION = "The correction was taken back."
GONE = "It does not wait here any more."


@dataclass(frozen=True)
class Planned:
    """One item as it would be decided; `left` says why it would not."""

    item: Item
    left: str | None


@dataclass(frozen=True)
class Told:
    """A batch, what came of each item, and how many seconds the last of them can still be undone."""

    batch: Batch
    rows: Sequence[tuple[BatchItem, Item]]
    counts: Mapping[str | None, int]
    seconds: int


def plan(actor: Actor, queue: Queue, item_ids: Sequence[str], after_id: str | None = None) -> list[Planned]:
    """What would happen to these items, in their order; Missing when the queue is not theirs.

    With `after_id`, only those with the very same output as that item can be decided.
    """
    _check(actor, queue)
    ids = list(dict.fromkeys(item_ids))[:MOST]
    items = {item.id: item for item in db.session.scalars(select(Item).where(Item.id.in_(ids)))}
    here = [items[id_] for id_ in ids if id_ in items and items[id_].project_id == queue.project_id]
    why = _left(actor, queue, here)
    if after_id is not None:
        output = db.session.scalar(select(Item.output).where(Item.id == after_id))
        why = {item.id: OTHER for item in here if not same(item.output, output)} | why
    return [Planned(item, why.get(item.id)) for item in here]


def begin(
    actor: Actor,
    queue: Queue,
    verdicts: Mapping[str, str],
    reason: str | None = None,
    cause: str | None = None,
    note: str | None = None,
    left: Mapping[str, str] | None = None,
    after_id: str | None = None,
) -> str:
    """Write down a batch with a verdict for each item, and return its id; nothing is decided yet.

    Items in `left` are in it with the reason why they are left alone; `after_id` is the item whose
    correction by the actor the edits are. Invalid names a wrong field.
    """
    require(actor, "review")
    planned = plan(actor, queue, [*verdicts, *(left or ())], after_id)
    project = db.session.get_one(Project, queue.project_id)
    remark = clean(note, "note")
    edits = after_id is not None and alike.correction(actor, after_id) is not None
    _check_words(project, set(verdicts.values()), reason, cause, edits=edits)
    if not planned:
        raise Invalid("Mark some items first.", field="item")
    batch_id = new_id("bat")
    with transaction() as session:
        session.add(
            Batch(
                id=batch_id, person_id=actor.id, queue_id=queue.id, reason=reason or None,
                cause=cause or None, note=remark, after_id=after_id if edits else None, created_at=now(),
            )
        )  # fmt: skip
        session.flush()
        for place, one in enumerate(planned):
            why = one.left or (left or {}).get(one.item.id)
            session.add(
                BatchItem(
                    batch_id=batch_id, item_id=one.item.id, place=place, decision_id=new_id("dec"),
                    verdict=verdicts.get(one.item.id, IN_BULK[0]), outcome="left" if why else None, said=why,
                )
            )  # fmt: skip
    return batch_id


def carry_on(actor: Actor, batch_id: str, seconds: float = SECONDS) -> int:
    """Decide what is still to be done of the actor's batch, for about `seconds`; how many are left."""
    batch = _mine(actor, batch_id)
    queue = db.session.get_one(Queue, batch.queue_id)
    _check(actor, queue)
    started = time.monotonic()
    todo = (BatchItem.batch_id == batch_id, BatchItem.outcome.is_(None))
    while time.monotonic() - started < seconds:
        row = db.session.scalars(select(BatchItem).where(*todo).order_by(BatchItem.place).limit(1)).first()
        if row is None:
            break
        item_id = row.item_id
        outcome, said = _decide_one(actor, queue, batch, row)
        _note(batch_id, item_id, outcome, said)
    return db.session.scalar(select(func.count()).select_from(BatchItem).where(*todo)) or 0


def undo_batch(actor: Actor, batch_id: str) -> int:
    """Take back what the batch decided and is not final yet; returns how many were taken back."""
    require(actor, "review")
    _mine(actor, batch_id)
    rows = db.session.execute(
        select(BatchItem.item_id, BatchItem.decision_id)
        .where(BatchItem.batch_id == batch_id, BatchItem.outcome == "decided")
        .order_by(BatchItem.place.desc())
    ).all()
    undone = 0
    for item_id, decision_id in rows:
        try:
            claim = decisions.undo(actor, decision_id)
        except Conflict as conflict:
            _note(batch_id, item_id, "decided", conflict.message)
            continue
        if claim is not None:
            release(actor, claim.token)
        _note(batch_id, item_id, "undone", None)
        undone += 1
    # What is not done yet is not wanted any more either.
    with transaction() as session:
        session.execute(
            update(BatchItem)
            .where(BatchItem.batch_id == batch_id, BatchItem.outcome.is_(None))
            .values(outcome="left", said="The batch was undone.")
        )
    return undone


def told(actor: Actor, batch_id: str) -> Told:
    """The actor's own batch; Missing for anybody else's."""
    batch = _mine(actor, batch_id)
    found = db.session.execute(
        select(BatchItem, Item)
        .join(Item, Item.id == BatchItem.item_id)
        .where(BatchItem.batch_id == batch_id)
        .order_by(BatchItem.place)
    ).all()
    rows = [(row, item) for row, item in found]
    decided = [row.decision_id for row, _ in rows if row.outcome == "decided"]
    last = db.session.scalar(
        select(func.max(Decision.final_at)).where(Decision.id.in_(decided), Decision.undone_at.is_(None))
    )
    seconds = max(0, int((last - now()).total_seconds())) if last else 0
    return Told(batch, rows, Counter(row.outcome for row, _ in rows), seconds)


def _decide_one(actor: Actor, queue: Queue, batch: Batch, row: BatchItem) -> tuple[str, str | None]:
    """Claim and decide one item; its outcome and, when it was not decided, why."""
    decision_id, verdict = row.decision_id, row.verdict
    given = db.session.scalars(select(Review.id).where(Review.decision_id == decision_id)).first()
    if given is not None:  # decided before this process, or the one before it, ended
        return "decided", None
    item = db.session.scalars(select(Item).where(Item.id == row.item_id)).one()
    if why := _left(actor, queue, [item]).get(item.id):
        return "left", why
    reason, cause = (batch.reason, batch.cause) if verdict != "approve" else (None, None)
    token, note, output = None, batch.note, None
    if verdict == "edit":
        output = alike.correction(actor, batch.after_id or "")
        if output is None:
            return "left", NO_CORRECTION
    try:
        token = claim_item(actor, item.id).token
        decisions.decide(actor, token, decision_id, verdict, output, reason, cause, note)
    except AlreadyDecided as refused:
        return "left", refused.message
    except Refusal as refused:
        if token is not None:
            release(actor, token)
        return "refused", refused.message
    return "decided", None


def _left(actor: Actor, queue: Queue, items: Sequence[Item]) -> dict[str, str]:
    """Why some of these items are left alone, by their ids."""
    ids = [item.id for item in items]
    seats: dict[str, list[Review]] = {id_: [] for id_ in ids}
    for review in db.session.scalars(select(Review).where(Review.item_id.in_(ids))):
        seats[review.item_id].append(review)
    risks = _risks({(item.project_id, item.policy_version) for item in items})
    names = people_of(review.claimed_by for reviews in seats.values() for review in reviews)
    begun = _begun(actor, [review for reviews in seats.values() for review in reviews])
    why: dict[str, str] = {}
    for item in items:
        risk = risks[item.project_id, item.policy_version]
        reason = _why_left(actor, queue, item, seats[item.id], risk, names, begun)
        if reason:
            why[item.id] = reason
    return why


def _begun(actor: Actor, seats: Sequence[Review]) -> set[str]:
    """The tokens of the actor's claims on these in which something was typed."""
    mine = [seat.claim_token for seat in seats if seat.claimed_by == actor.id]
    if not mine:
        return set()
    claims = db.session.execute(select(Claim.token, Claim.draft).where(Claim.token.in_(mine)))
    return {claim.token for claim in claims if claim.draft is not None}


def _why_left(
    actor: Actor,
    queue: Queue,
    item: Item,
    seats: Sequence[Review],
    risk: float,
    names: Mapping[str, str],
    begun: set[str],
) -> str | None:
    here = [seat for seat in seats if seat.state == "wanted" and seat.queue_id == queue.id]
    if not here:
        return GONE
    held = [seat for seat in here if seat.lease_expires_at is not None and seat.lease_expires_at > now()]
    if held:
        holder = held[0].claimed_by
        if holder != actor.id:
            return f"{names.get(holder or '', 'Somebody')} has it."
        if held[0].claim_token in begun:
            return BEGUN
    if item.risk is not None and item.risk > risk:
        return RISKY
    of_round = [seat for seat in seats if seat.round == item.round and seat.state in ("wanted", "given")]
    if len(of_round) > 1 or here[0].purpose != "gate" or _by_lot(item.id):
        return ALONE
    return None


def _by_lot(item_id: str) -> bool:
    digest = hashlib.sha256(f"alone:{item_id}".encode()).digest()
    return int.from_bytes(digest[:8]) % ONE_IN == 0


def _risks(versions: set[tuple[str, int]]) -> dict[tuple[str, int], float]:
    """Above which risk an item is looked at one by one, by project and policy version."""
    risks: dict[tuple[str, int], float] = {}
    for project_id, version in versions:
        body = db.session.scalars(
            select(Policy.body).where(Policy.project_id == project_id, Policy.version == version)
        ).one()
        above = body.get("risk_above")
        risks[project_id, version] = HIGH_RISK if above is None else above
    return risks


def _check(actor: Actor, queue: Queue) -> None:
    require(actor, "review")
    if queue.id not in {one.id for one in visible_queues(actor)}:
        raise Missing("There is no such queue.")
    if queue.name == ADJUDICATION:
        raise Conflict("What reviewers did not agree on is judged one by one.", "not_in_bulk")


def _check_words(
    project: Project, verdicts: set[str], reason: str | None, cause: str | None, *, edits: bool
) -> None:
    if not verdicts or verdicts - {*IN_BULK, *(("edit",) if edits else ())}:
        raise Invalid("Choose approve or reject.", field="verdict")
    if verdicts & {"reject", "edit"} and reason not in project.reasons:
        raise Invalid("Choose a reason.", field="reason")
    if cause and cause not in project.causes:
        raise Invalid("Choose a cause from the project's list.", field="cause")


def _mine(actor: Actor, batch_id: str) -> Batch:
    batch = db.session.get(Batch, batch_id)
    if batch is None or batch.person_id != actor.id:
        raise Missing("There is no such batch.")
    return batch


def _note(batch_id: str, item_id: str, outcome: str, said: str | None) -> None:
    with transaction() as session:
        session.execute(
            update(BatchItem)
            .where(BatchItem.batch_id == batch_id, BatchItem.item_id == item_id)
            .values(outcome=outcome, said=said and said[:300])
        )
