"""What was asked for in a list's address, as a question to the catalogue.

A question is made of names this file knows; nothing else in an address reaches a query. Whoever reviews
must never be able to ask for what would tell how an output was routed or what others said of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import ColumnElement, select

from reviewqueue.db import db, now
from reviewqueue.errors import Invalid
from reviewqueue.finding import words
from reviewqueue.finding.catalogue import EQUAL
from reviewqueue.ids import is_id
from reviewqueue.models import Card, Facet, Project, Queue
from reviewqueue.models.intake import STATUSES
from reviewqueue.models.review import VERDICTS
from reviewqueue.people.access import Actor, may

MOST_HOURS = 100_000

# What a list of a queue can be asked for by everybody who sees the queue, and by overseers besides.
OF_CATALOGUE = ("text", "model", "prompt")
OF_QUEUE = (*OF_CATALOGUE, "priority", "age", "overdue", "claimed")
OVERSEEN = ("flag", "confidence_from", "confidence_to", "risk_from", "risk_to")
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
CLAIMED = {"yes": True, "no": False}
_WORDS = {"status": STATUSES, "verdict": VERDICTS}


@dataclass(frozen=True)
class Question:
    """What is looked for; `nothing` when no item can be what was asked for."""

    item: str | None  # an item's own id
    words: Sequence[str]
    phrases: Sequence[re.Pattern[str]]  # of these words
    equal: Mapping[str, int]  # columns of Card
    flag: int | None
    ranges: Sequence[ColumnElement[bool]]  # of Card, beside `equal`
    begun: tuple[int | None, int | None]  # submitted from when to when, in seconds since 1970
    nothing: bool

    @property
    def asks(self) -> bool:
        """Whether it narrows anything."""
        return bool(self.item or self.words or self.equal or self.flag or self.ranges or self.nothing)


def question(given: Mapping[str, str]) -> Question:
    """What the filters `given` ask for; Invalid names the one that makes no sense."""
    text = given.get("text", "")
    item = text if is_id("itm", text) else None
    asked = words.Asked() if item else words.asked(text)
    if text and not item and not asked.words:
        raise Invalid("Write a word to look for, or an item's id.", field="text")
    equal, unknown = _equal(given)
    flag = code_of("flag", given["flag"]) if "flag" in given else None
    nothing = unknown or ("flag" in given and flag is None)
    begun = _ago(given, "within"), _ago(given, "age")
    return Question(item, asked.words, asked.phrases, equal, flag, _ranges(given, begun), begun, nothing)


def names(actor: Actor, *, of_queue: bool) -> tuple[str, ...]:
    """The filters this actor may use, on a queue's list or on that of all items."""
    if of_queue:
        return (*OF_QUEUE, *(OVERSEEN if may(actor, "read_audit") else ()))
    return OF_ITEMS if may(actor, "read_audit") else ()


def known(name: str, limit: int = 100) -> list[str]:
    """Values that filter `name` can have, in their order, at most `limit`."""
    values = select(Facet.value).where(Facet.name == name).order_by(Facet.value).limit(limit)
    return list(db.session.scalars(values))


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
            code = code_of(name, _id_of(name, value))
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


def code_of(name: str, value: str) -> int | None:
    """The number that stands on cards for this word; None when none holds it."""
    return db.session.scalar(select(Facet.code).where(Facet.name == name, Facet.value == value))


def _ranges(given: Mapping[str, str], begun: tuple[int | None, int | None]) -> list[ColumnElement[bool]]:
    only: list[ColumnElement[bool]] = []
    for name, column in (("confidence", Card.confidence), ("risk", Card.risk)):
        least, most = _share(given, f"{name}_from"), _share(given, f"{name}_to")
        only += [] if least is None else [column >= least]
        only += [] if most is None else [column <= most]
    only += [] if begun[0] is None else [Card.created >= begun[0]]
    only += [] if begun[1] is None else [Card.created <= begun[1]]
    if given.get("overdue"):
        only.append(Card.due <= int(now().timestamp()))
    return only


def _ago(given: Mapping[str, str], name: str) -> int | None:
    span = hours(given, name)
    return None if span is None else int((now() - timedelta(hours=span)).timestamp())


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


def hours(given: Mapping[str, str], name: str) -> int | None:
    """The whole number of hours in filter `name`."""
    if name not in given:
        return None
    text = given[name]
    if not (text.isascii() and text.isdigit() and int(text) <= MOST_HOURS):
        raise Invalid("Age is a number of hours.", field=name)
    return int(text)
