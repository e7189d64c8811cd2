"""Finding: the items, or the reviews that wait in a queue, that a question asks for.

Few matches are looked up one by one; many are met by walking the list in its own order. Must never show
who only reviews the list of all items: it tells how they were routed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Select, false, func, select
from sqlalchemy.orm import load_only

from reviewqueue.db import db
from reviewqueue.errors import Invalid
from reviewqueue.finding import words
from reviewqueue.finding.asked import CLAIMED, OF_CATALOGUE, OVERSEEN, Question, code_of, hours, question
from reviewqueue.finding.catalogue import LOOK_BACK, facts, texts_of
from reviewqueue.models import Card, Decision, Item, Project, Queue, Review
from reviewqueue.people.access import Actor, require
from reviewqueue.review.queues import Filters
from reviewqueue.text import folded

PAGE = 50
COUNTED = 1_000  # beyond this a list has "1,000+"
FEW = 2_000  # matches that are looked up one by one
READ = 1_000  # of those that hold the words of a phrase, the newest are read for it


@dataclass(frozen=True)
class Hit:
    """One item of the list of all, with the decision that is in force for it."""

    item: Item
    project: Project
    decision: Decision | None


@dataclass(frozen=True)
class Found:
    """Some items, newest first, and the number to go on after; None at the end."""

    hits: Sequence[Hit]
    after: int | None


def find(actor: Actor, asked: Question, *, after: int | None = None, limit: int = PAGE) -> Found:
    """The items asked for, newest first, beginning after the item of number `after`.

    Forbidden to who only reviews: the list tells how items were routed.
    """
    require(actor, "read_audit")
    query = _numbers(asked)
    key = query.selected_columns[0]
    if after is not None:
        query = query.where(key < after)
    numbers = list(db.session.scalars(query.order_by(key.desc()).limit(limit + 1)))
    return Found(_hits(numbers[:limit]), numbers[limit - 1] if len(numbers) > limit else None)


def count(actor: Actor, asked: Question) -> int:
    """How many items are what was asked for, at most COUNTED + 1."""
    require(actor, "read_audit")
    some = _numbers(asked).limit(COUNTED + 1).subquery()
    return db.session.scalar(select(func.count()).select_from(some)) or 0


def told(count: int) -> str:
    """A count as a page says it: "1,000+" beyond what is counted."""
    return f"{COUNTED:,}+" if count > COUNTED else f"{count:,}"


def within(asked: Question, queue: Queue) -> list[ColumnElement[bool]]:
    """`asked` as conditions on the reviews that wait in `queue`."""
    if asked.nothing:
        return [false()]
    only: list[ColumnElement[bool]] = []
    if asked.item:
        only.append(Review.item_id == asked.item)
    told = [*asked.ranges]
    if asked.words or asked.equal or asked.flag:
        matching = _matching(asked, f"waits_{code_of('queue', queue.id) or 0}", said=False)
        few = _few(matching, asked, said=False)
        if few is not None:
            only.append(Review.item_number.in_(few))
        elif asked.words or asked.flag:
            only.append(Review.item_number.in_(matching))
        else:
            told += _same(asked)  # so many that the queue's own order soon comes to a page of them
    if told:
        only.append(select(Card.number).where(Card.number == Review.item_number, *told).exists())
    return only


def of_queue(queue: Queue, given: Mapping[str, str]) -> Filters:
    """What `given` narrows a queue's list to; Invalid names what makes no sense."""
    if given.get("overdue", "yes") != "yes":
        raise Invalid("Overdue is yes, or not asked for.", field="overdue")
    if (claimed := given.get("claimed")) not in (None, *CLAIMED):
        raise Invalid(f"Held is one of {', '.join(CLAIMED)}.", field="claimed")
    catalogued = {name: given[name] for name in (*OF_CATALOGUE, *OVERSEEN) if name in given}
    return Filters(
        priority=given.get("priority"),
        age=hours(given, "age"),
        overdue="overdue" in given,
        claimed=CLAIMED[claimed] if claimed else None,
        only=within(question(catalogued), queue),
    )


def _numbers(asked: Question) -> Select[Any]:
    """The numbers of the items asked for, in no order."""
    if asked.item:
        return select(Item.number).where(Item.id == asked.item)
    if asked.nothing:
        return select(Card.number).where(false())
    near = _near(asked, Card.number)
    if not (asked.words or asked.equal or asked.flag):
        return select(Card.number).where(*asked.ranges, *near)
    index_number = words.index()[1]
    matching = _matching(asked, said=True).where(*_near(asked, index_number))
    few = _few(matching, asked, said=True)
    if few is not None:
        return select(Card.number).where(Card.number.in_(few), *asked.ranges)
    if not (asked.words or asked.flag):
        return select(Card.number).where(*_same(asked), *asked.ranges, *near)
    if asked.ranges:
        matching = matching.join(Card, Card.number == index_number).where(*asked.ranges)
    return matching


def _near(asked: Question, number: Any) -> list[ColumnElement[bool]]:
    """About which numbers items of that age have: numbers are given in the order of submission, or nearly."""
    since, until = asked.begun
    only: list[ColumnElement[bool]] = []
    if since is not None:
        only.append(number >= _number_at(since) - LOOK_BACK)
    if until is not None:
        only.append(number <= _number_at(until + 1) + LOOK_BACK)
    return only


def _number_at(moment: int) -> int:
    """The number of about the first card made at `moment`, by halving: there is no index on the time."""
    low, high = 0, (db.session.scalar(select(func.max(Card.number))) or 0) + 1
    while low < high:
        middle = (low + high) // 2
        following = select(Card.created).where(Card.number >= middle).order_by(Card.number).limit(1)
        created = db.session.scalar(following)
        if created is not None and created < moment:
            low = middle + 1
        else:
            high = middle
    return low


def _matching(asked: Question, *more: str, said: bool) -> Select[int]:
    """The numbers of the items that hold the words and facts asked for, by the full-text index."""
    index, number = words.index()
    held = words.holds(asked.words, [*_facts(asked), *more], said=said)
    return select(number).select_from(index).where(held)


def _few(matching: Select[int], asked: Question, *, said: bool) -> Sequence[int] | None:
    """The matches when they are few; None when they are many, so that one soon comes by a page of them.

    A phrase is looked for in the texts themselves, those of the newest that hold its words.
    """
    if asked.phrases:
        newest = db.session.scalars(matching.order_by(words.index()[1].desc()).limit(READ)).all()
        return [number for number, texts in texts_of(newest, said=said) if _in_order(asked, texts)]
    found = db.session.scalars(matching.limit(FEW + 1)).all()
    return found if len(found) <= FEW else None


def _in_order(asked: Question, texts: Sequence[str]) -> bool:
    read = [folded(text) for text in texts]
    return all(any(phrase.search(text) for text in read) for phrase in asked.phrases)


def _same(asked: Question) -> list[ColumnElement[bool]]:
    return [getattr(Card, name) == code for name, code in asked.equal.items()]


def _facts(asked: Question) -> list[str]:
    return [*facts(asked.equal), *([f"flag_{asked.flag}"] if asked.flag else [])]


def _hits(numbers: Sequence[int]) -> list[Hit]:
    shown = load_only(
        Item.id, Item.number, Item.project_id, Item.status, Item.output, Item.input, Item.confidence,
        Item.risk, Item.model, Item.created_at, Item.external_id, Item.risk_flags,
    )  # fmt: skip
    items = db.session.scalars(
        select(Item).where(Item.number.in_(numbers)).order_by(Item.number.desc()).options(shown)
    ).all()
    projects = {
        project.id: project
        for project in db.session.scalars(
            select(Project).where(Project.id.in_({item.project_id for item in items}))
        )
    }
    in_force = (Decision.undone_at.is_(None), Decision.superseded_at.is_(None))
    decisions = {
        decision.item_id: decision
        for decision in db.session.scalars(
            select(Decision).where(Decision.item_id.in_([item.id for item in items]), *in_force)
        )
    }
    return [Hit(item, projects[item.project_id], decisions.get(item.id)) for item in items]
