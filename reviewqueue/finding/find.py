"""Finding: what was asked for in a list's address, as a question to the catalogue.

A question is made of names this file knows; nothing else in an address reaches a query. Whoever reviews
must never be able to ask for what would tell how an output was routed or what others said of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Select, false, func, select
from sqlalchemy.orm import load_only

from reviewqueue.db import db, now
from reviewqueue.errors import Invalid
from reviewqueue.finding import words
from reviewqueue.finding.catalogue import EQUAL, facts
from reviewqueue.ids import is_id
from reviewqueue.models import Card, Decision, Facet, Item, Project, Queue, Review
from reviewqueue.models.intake import STATUSES
from reviewqueue.models.review import VERDICTS
from reviewqueue.people.access import Actor, require

PAGE = 50
COUNTED = 1_000  # beyond this a list has "1,000+"
FEW = 2_000  # matches that are looked up one by one
MOST_HOURS = 100_000

# What a list of a queue can be asked for by everybody who sees the queue, and by overseers besides.
OF_QUEUE = ("text", "model", "prompt")
OVERSEEN = ("flag", "confidence_from", "confidence_to", "risk_from", "risk_to")
WITHIN = (*OF_QUEUE, *OVERSEEN)
# What the list of all items can be asked for; overseers alone see it.
OF_ITEMS = (
    "text", "project", "queue", "status", "verdict", "reason", "cause", "person", "model", "prompt",
    *OVERSEEN, "age", "within", "overdue",
)  # fmt: skip
LABELS = {
    "text": "words", "project": "project", "queue": "queue", "status": "status", "verdict": "verdict",
    "reason": "reason", "cause": "cause", "person": "decided by", "model": "model", "prompt": "prompt",
    "flag": "flag", "confidence_from": "confidence from", "confidence_to": "confidence to",
    "risk_from": "risk from", "risk_to": "risk to", "age": "older than", "within": "within",
    "overdue": "overdue", "priority": "priority", "claimed": "held",
}  # fmt: skip
_SPANS = {"1": "1 hour", "4": "4 hours", "24": "a day", "168": "a week", "720": "30 days"}
HOURS = {"age": _SPANS, "within": _SPANS}
_WORDS = {"status": STATUSES, "verdict": VERDICTS}


@dataclass(frozen=True)
class Question:
    """What is looked for; `nothing` when no item can be what was asked for."""

    item: str | None  # an item's own id
    words: Sequence[str]
    equal: Mapping[str, int]  # columns of Card
    flag: int | None
    ranges: Sequence[ColumnElement[bool]]  # of Card, beside `equal`
    nothing: bool

    @property
    def asks(self) -> bool:
        """Whether it narrows anything."""
        return bool(self.item or self.words or self.equal or self.flag or self.ranges or self.nothing)


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


def question(given: Mapping[str, str]) -> Question:
    """What the filters `given` ask for; Invalid names the one that makes no sense."""
    text = given.get("text", "")
    item = text if is_id("itm", text) else None
    asked = [] if item else words.asked(text)
    if text and not item and not asked:
        raise Invalid("Write a word to look for, or an item's id.", field="text")
    equal, unknown = _equal(given)
    flag = _code("flag", given["flag"]) if "flag" in given else None
    nothing = unknown or ("flag" in given and flag is None)
    return Question(item, asked, equal, flag, _ranges(given), nothing)


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
        matching = _matching(asked, f"waits_{_code('queue', queue.id) or 0}", said=False)
        few = _few(matching)
        if few is not None:
            only.append(Review.item_number.in_(few))
        elif asked.words or asked.flag:
            only.append(Review.item_number.in_(matching))
        else:
            told += _same(asked)  # so many that the queue's own order soon comes to a page of them
    if told:
        only.append(select(Card.number).where(Card.number == Review.item_number, *told).exists())
    return only


def known(name: str, limit: int = 100) -> list[str]:
    """Values that filter `name` can have, in their order, at most `limit`."""
    values = select(Facet.value).where(Facet.name == name).order_by(Facet.value).limit(limit)
    return list(db.session.scalars(values))


def _numbers(asked: Question) -> Select[Any]:
    """The numbers of the items asked for, in no order."""
    if asked.item:
        return select(Item.number).where(Item.id == asked.item)
    if asked.nothing:
        return select(Card.number).where(false())
    if not (asked.words or asked.equal or asked.flag):
        return select(Card.number).where(*asked.ranges)
    matching = _matching(asked, said=True)
    few = _few(matching)
    if few is not None:
        return select(Card.number).where(Card.number.in_(few), *asked.ranges)
    if not (asked.words or asked.flag):
        return select(Card.number).where(*_same(asked), *asked.ranges)
    if asked.ranges:
        matching = matching.join(Card, Card.number == words.index()[1]).where(*asked.ranges)
    return matching


def _matching(asked: Question, *more: str, said: bool) -> Select[int]:
    """The numbers of the items that hold the words and facts asked for, by the full-text index."""
    index, number = words.index()
    held = words.holds(asked.words, [*_facts(asked), *more], said=said)
    return select(number).select_from(index).where(held)


def _few(matching: Select[int]) -> Sequence[int] | None:
    """The matches when they are few; None when they are many, so that one soon comes by a page of them."""
    found = db.session.scalars(matching.limit(FEW + 1)).all()
    return found if len(found) <= FEW else None


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


def _equal(given: Mapping[str, str]) -> tuple[dict[str, int], bool]:
    """The whole numbers that cards must hold, and whether a word was asked for that no card has."""
    equal: dict[str, int] = {}
    unknown = False
    for name in EQUAL:
        value = given.get(name)
        if value is None:
            continue
        if name in _WORDS:
            if value not in _WORDS[name]:
                raise Invalid(f"{name.capitalize()} is one of {', '.join(_WORDS[name])}.", field=name)
            code: int | None = _WORDS[name].index(value)
        else:
            code = _code(name, _id_of(name, value))
        if code is None:
            unknown = True
        else:
            equal[name] = code
    return equal, unknown


def _id_of(name: str, value: str) -> str:
    """What stands on cards for a project's name, or for a queue's (as project/queue)."""
    if name == "project":
        return db.session.scalar(select(Project.id).where(Project.name == value)) or value
    if name == "queue":
        project, _, queue = value.partition("/")
        named = (Project.name == project, Queue.name == queue)
        return (
            db.session.scalar(select(Queue.id).join(Project, Project.id == Queue.project_id).where(*named))
            or ""
        )
    return value


def _code(name: str, value: str) -> int | None:
    return db.session.scalar(select(Facet.code).where(Facet.name == name, Facet.value == value))


def _ranges(given: Mapping[str, str]) -> list[ColumnElement[bool]]:
    only: list[ColumnElement[bool]] = []
    for name, column in (("confidence", Card.confidence), ("risk", Card.risk)):
        least, most = _share(given, f"{name}_from"), _share(given, f"{name}_to")
        only += [] if least is None else [column >= least]
        only += [] if most is None else [column <= most]
    moment = now()
    if (hours := _hours(given, "age")) is not None:
        only.append(Card.created <= int((moment - timedelta(hours=hours)).timestamp()))
    if (hours := _hours(given, "within")) is not None:
        only.append(Card.created >= int((moment - timedelta(hours=hours)).timestamp()))
    if given.get("overdue"):
        only.append(Card.due <= int(moment.timestamp()))
    return only


def _share(given: Mapping[str, str], name: str) -> float | None:
    if name not in given:
        return None
    try:
        share = float(given[name])
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise Invalid(f"{name.partition('_')[0].capitalize()} is a number from 0 to 1.", field=name)
    return share


def _hours(given: Mapping[str, str], name: str) -> int | None:
    if name not in given:
        return None
    hours = given[name]
    if not (hours.isascii() and hours.isdigit() and int(hours) <= MOST_HOURS):
        raise Invalid("Age is a number of hours.", field=name)
    return int(hours)
