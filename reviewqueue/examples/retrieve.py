"""The active examples nearest to an input, ready for a prompt; and past decisions near to an item.

Never serves an example that is not active, nor one that contradicts another, nor near-copies.
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from reviewqueue.config import current
from reviewqueue.db import db, stamp, transaction
from reviewqueue.db import now as time_now
from reviewqueue.errors import Missing
from reviewqueue.examples import search as index
from reviewqueue.examples.collect import fingerprint, scope
from reviewqueue.models import Decision, Example, ExampleSet, Item, Project
from reviewqueue.text import as_text, tokens, words

NEAR_COPY = 0.9  # share of words two inputs have in common
LEARN_BATCH = 200


@dataclass(frozen=True)
class Served:
    """The answer to a search: set 0 means the project has no set yet."""

    set: int
    set_id: str | None
    arm: str
    examples: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, str]] = field(default_factory=list)


def search(
    project: Project, asked: Any, k: int = 5, max_tokens: int = 1500, item_id: str | None = None
) -> Served:
    """Up to `k` active examples nearest to the input `asked`, best first, within about `max_tokens` tokens.

    The example learned from `item_id` is left out: an item must not be shown its own answer.
    """
    content = as_text(asked)
    number, arm = project.example_set, _arm(project, content)
    set_id = db.session.scalars(
        select(ExampleSet.id).where(ExampleSet.project_id == project.id, ExampleSet.number == number)
    ).one_or_none()
    if arm == "control":
        return Served(number, set_id, arm)
    served = Served(number, set_id, arm)
    chosen: list[frozenset[str]] = []
    room = max_tokens
    for hit, example in _candidates(project.id, number, content):
        if len(served.examples) >= k:
            break
        near_copy = any(index.likeness(hit.words, other) >= NEAR_COPY for other in chosen)
        cost = _cost(example)
        if near_copy or cost > room or (item_id is not None and example.item_id == item_id):
            continue
        chosen.append(hit.words)
        room -= cost
        served.examples.append(as_json(example) | {"score": round(hit.score, 4)})
        if example.output is not None:
            served.messages.append({"role": "user", "content": example.input_text})
            served.messages.append({"role": "assistant", "content": as_text(example.output)})
    return served


def snapshot(project: Project, number: int) -> dict[str, Any]:
    """Example set `number` of a project, the same for ever; Missing when there is no such set."""
    # Larger numbers than the newest are not asked for: the database could not even compare the largest.
    wanted = ExampleSet.number == min(number, project.example_set + 1)
    found = db.session.scalars(
        select(ExampleSet).where(ExampleSet.project_id == project.id, wanted)
    ).one_or_none()
    if found is None:
        raise Missing("There is no such example set.")
    members = db.session.scalars(
        select(Example)
        .where(
            Example.project_id == project.id,
            Example.first_set <= number,
            (Example.last_set.is_(None)) | (Example.last_set >= number),
        )
        .order_by(Example.id)
    )
    return {
        "set": number,
        "set_id": found.id,
        "project": project.name,
        "created_at": stamp(found.created_at),
        "examples": [as_json(example) for example in members],
    }


def contradictions(
    examples: Sequence[Example], states: Sequence[str] = ("proposed", "active")
) -> dict[str, list[Example]]:
    """For each of these examples, by id, the others in `states` that it contradicts.

    Two examples contradict when their inputs are the same and they teach different answers, or one teaches
    what the other rejects.
    """
    twins: dict[tuple[str, str], list[Example]] = {}
    # Asked for by state or in an order, SQLite would read all examples of the project.
    same_input = select(Example).where(
        Example.project_id.in_({example.project_id for example in examples}),
        Example.input_sha256.in_({example.input_sha256 for example in examples}),
    )
    for other in sorted(db.session.scalars(same_input), key=lambda example: example.id):
        if other.state not in states:
            continue
        twins.setdefault((other.project_id, other.input_sha256), []).append(other)
    return {
        example.id: [
            other
            for other in twins.get((example.project_id, example.input_sha256), ())
            if other.id != example.id and _contradict(example, other)
        ]
        for example in examples
    }


def _contradict(one: Example, other: Example) -> bool:
    if one.output is not None and other.output is not None:
        return as_text(one.output) != as_text(other.output)
    said, refused = (one, other) if other.output is None else (other, one)
    return said.output is not None and as_text(said.output) == as_text(refused.rejected_output)


def near_copies(example: Example) -> list[Example]:
    """The active examples whose input is nearly the same: only one of them would be served."""
    hits = index.nearest(scope(example.project_id), example.input_text)
    asked = frozenset(words(example.input_text))
    near = [hit.owner for hit in hits if index.likeness(hit.words, asked) >= NEAR_COPY]
    found = db.session.scalars(
        select(Example).where(Example.id.in_(near), Example.id != example.id, Example.state == "active")
    )
    return sorted(found, key=lambda other: near.index(other.id))


def as_json(example: Example) -> dict[str, Any]:
    """An example as the API shows it."""
    return {
        "id": example.id,
        "input": example.input,
        "output": example.output,
        "rejected_output": example.rejected_output,
        "reason": example.reason,
        "item": example.item_id,
        "decided_at": stamp(example.created_at),
    }


def nearest_decided(
    project_id: str, content: str, k: int = 5, exclude_item_id: str | None = None
) -> list[tuple[Item, Decision, float]]:
    """Decided items of the project whose input is nearest to `content`, with the decision in force."""
    hits = {hit.owner: hit.score for hit in index.nearest(_decided(project_id), content)}
    hits.pop(exclude_item_id or "", None)
    rows = db.session.execute(
        select(Item, Decision)
        .join(Decision, Decision.item_id == Item.id)
        .where(Item.id.in_(hits), Decision.undone_at.is_(None), Decision.superseded_at.is_(None))
    ).all()
    found = [(item, decision, hits[item.id]) for item, decision in rows]
    return sorted(found, key=lambda row: (-row[2], row[0].id))[:k]


def learn_decided() -> int:
    """Index the inputs of decisions not indexed yet, one batch; returns how many there were."""
    with transaction() as session:
        decisions = session.scalars(
            select(Decision)
            .where(Decision.learned_at.is_(None))
            .order_by(Decision.decided_at)
            .limit(LEARN_BATCH)
            .with_for_update(skip_locked=True)
        ).all()
        for decision in decisions:
            decision.learned_at = time_now()
            item = session.scalars(select(Item).where(Item.id == decision.item_id)).one()
            if item.input is not None and decision.undone_at is None and decision.verdict is not None:
                index.add(_decided(item.project_id), item.id, as_text(item.input))
        return len(decisions)


def unlearned() -> bool:
    """Whether a decision waits to be indexed."""
    return db.session.execute(
        select(select(Decision.id).where(Decision.learned_at.is_(None)).exists())
    ).scalar_one()


def _decided(project_id: str) -> str:
    return f"decided:{project_id}"


def _arm(project: Project, content: str) -> str:
    """`control` for a fixed share of inputs: the same input always falls into the same arm."""
    message = f"control-arm:{project.id}:{fingerprint(content)}".encode()
    share = int.from_bytes(hmac.digest(current().key("control"), message, "sha256")[:8]) / 2**64
    return "control" if share < project.control_arm else "examples"


def _candidates(project_id: str, number: int, content: str) -> list[tuple[index.Hit, Example]]:
    """Near examples of set `number` that are active still, best first, without those that contradict."""
    hits = {hit.owner: hit for hit in index.nearest(scope(project_id), content)}
    found = db.session.scalars(
        select(Example).where(Example.id.in_(hits), Example.state == "active", Example.first_set <= number)
    ).all()
    bad = {id_ for id_, others in contradictions(found, ("active",)).items() if others}
    # What to say comes before what not to say, where both fit the question alike.
    served = sorted(
        (example for example in found if example.id not in bad),
        key=lambda example: (-hits[example.id].score, example.output is None, example.id),
    )
    return [(hits[example.id], example) for example in served]


def _cost(example: Example) -> int:
    return tokens(example.input_text) + tokens(as_text(example.output if example.output is not None else ""))
