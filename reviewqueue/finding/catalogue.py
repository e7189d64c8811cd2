"""The catalogue: a card and the words of every item, kept up by a job that drains.

New items are found by their numbers, changed ones by the ledger, which tells of every decision. Nothing a
backend or a reviewer waits for may happen here.
"""

from __future__ import annotations

import hashlib
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Insert, Row, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from reviewqueue.db import db, transaction
from reviewqueue.finding import words
from reviewqueue.models import Card, Decision, Facet, Item, LedgerEntry, Mark, Review
from reviewqueue.models.finding import FACETS
from reviewqueue.models.intake import STATUSES
from reviewqueue.models.review import VERDICTS
from reviewqueue.text import as_text
from reviewqueue.text import words as words_of

BATCH = 100
WORKING = 40.0  # seconds; an RQ job ends after 60, and what is left is found by the next one
# How far behind the newest card an item may still be missing: on PostgreSQL a submission that began
# earlier, and so has a smaller number, may commit later.
LOOK_BACK = 5_000
LEDGER = "catalogue"
SHORT = 6  # words; a shorter output says the same as another one only in answer to the same input


@dataclass
class _Drawer:
    """What is known of a batch of items before it is written."""

    mark: int  # how far the ledger had been read when the items were
    items: Sequence[Any] = ()  # items, or rows of them
    seen: int | None = None  # up to which entry it is read with these items; None: no further
    decisions: dict[str, Row[Any]] = field(default_factory=dict)
    given: dict[str, list[Row[Any]]] = field(default_factory=lambda: defaultdict(list))
    wanted: dict[str, list[Row[Any]]] = field(default_factory=lambda: defaultdict(list))


def index_due(seconds: float = WORKING) -> int:
    """Bring the catalogue up to date for about `seconds`; returns how many items were written."""
    done, started = 0, time.monotonic()
    while time.monotonic() - started < seconds:
        drawer = _new() or _stale() or _changed()
        if drawer is None:
            break
        done += _write(drawer)
    return done


def behind() -> bool:
    """Whether the catalogue lacks something."""
    return bool(unlisted() or _marked() or _last_entry() > _mark())


def unlisted() -> int:
    """About how many items were submitted that the catalogue does not have yet."""
    newest = db.session.scalar(select(func.max(Item.number))) or 0
    return max(0, newest - (db.session.scalar(select(func.max(Card.number))) or 0))


def _new() -> _Drawer | None:
    mark = _mark()
    listed = db.session.scalar(select(func.max(Card.number))) or 0
    numbers = db.session.scalars(
        select(Item.number)
        .where(Item.number > listed - LOOK_BACK, ~exists().where(Card.number == Item.number))
        .order_by(Item.number)
        .limit(BATCH)
    ).all()
    return _filled(_Drawer(mark, _items(numbers))) if numbers else None


def _stale() -> _Drawer | None:
    """Cards that were marked. The mark goes before they are read: who sets it meanwhile sets it again."""
    if not _marked():
        return None
    mark = _mark()
    with transaction() as session:
        numbers = _marked()
        session.execute(update(Card).where(Card.number.in_(numbers)).values(stale=False))
    return _filled(_Drawer(mark, _items(numbers)))


def _marked() -> Sequence[int]:
    return db.session.scalars(select(Card.number).where(Card.stale.is_(True)).limit(BATCH)).all()


def _changed() -> _Drawer | None:
    """The items of the next ledger entries."""
    mark, last = _mark(), _last_entry()
    if last <= mark:
        return None
    entries = db.session.execute(
        select(LedgerEntry.seq, LedgerEntry.item_id)
        .where(LedgerEntry.seq > mark, LedgerEntry.item_id.is_not(None))
        .order_by(LedgerEntry.seq)
        .limit(BATCH)
    ).all()
    # What happens after this is in an entry after these, so that nothing read now stays wrong.
    seen = entries[-1].seq if len(entries) == BATCH else last
    items = db.session.scalars(select(Item).where(Item.id.in_({entry.item_id for entry in entries}))).all()
    return _filled(_Drawer(mark, items, seen))


def _items(numbers: Sequence[int]) -> Sequence[Item]:
    return db.session.scalars(select(Item).where(Item.number.in_(numbers))).all()


def _last_entry() -> int:
    last = db.session.scalar(select(func.max(LedgerEntry.seq)))
    return -1 if last is None else last


def _mark() -> int:
    mark = db.session.scalar(select(Mark.at).where(Mark.name == LEDGER))
    return -1 if mark is None else mark


def _filled(drawer: _Drawer) -> _Drawer:
    ids = [item.id for item in drawer.items]
    in_force = (Decision.item_id.in_(ids), Decision.undone_at.is_(None), Decision.superseded_at.is_(None))
    decisions = select(
        Decision.item_id, Decision.verdict, Decision.reason, Decision.cause, Decision.decided_by,
        Decision.note, Decision.output, Decision.edited,
    )  # fmt: skip
    reviews = select(
        Review.item_id, Review.state, Review.queue_id, Review.due_at, Review.note, Review.output
    ).where(Review.item_id.in_(ids), Review.state.in_(("given", "wanted")))
    for decision in db.session.execute(decisions.where(*in_force)):
        drawer.decisions[decision.item_id] = decision
    for review in db.session.execute(reviews):
        side = drawer.wanted if review.state == "wanted" else drawer.given
        side[review.item_id].append(review)
    return drawer


def _write(drawer: _Drawer) -> int:
    """Write the drawer's cards and words. All is worked out before: others wait while this writes."""
    codes = _codes(drawer)
    cards, bags = [], {}
    for item in drawer.items:
        card = _card(drawer, item, codes)
        cards.append(card)
        more = [f"flag_{codes['flag', flag]}" for flag in _flags(item)]
        more += {f"waits_{codes['queue', review.queue_id]}" for review in drawer.wanted[item.id]}
        bags[item.number] = words.bag(
            "\n".join(_submitted(item)), "\n".join(_said(drawer, item)), [*facts(card), *more]
        )
    with transaction() as session:
        if not _still(session, drawer.mark):
            return 0  # another job has come further, and knows newer things of these items
        if drawer.seen is not None:
            session.execute(update(Mark).where(Mark.name == LEDGER).values(at=drawer.seen))
        if cards:
            session.execute(_upsert(session), cards)
            words.put(bags)
    return len(cards)


def _still(session: Session, mark: int) -> bool:
    """Whether the ledger was read no further than `mark`; nobody else writes cards until the commit."""
    session.execute(
        _insert(session, Mark).on_conflict_do_nothing(index_elements=["name"]), [{"name": LEDGER, "at": -1}]
    )
    held = select(Mark.at).where(Mark.name == LEDGER).with_for_update()
    return session.execute(held).scalar_one() == mark


def facts(card: Mapping[str, Any]) -> list[str]:
    """A card's whole numbers as words of the full-text index."""
    return [f"{name}_{card[name]}" for name in EQUAL if card.get(name) is not None]


EQUAL = ("project", "queue", "status", "verdict", "reason", "cause", "person", "model", "prompt")


def prompt_of(item: Item) -> str | None:
    """The prompt and its version as one word; None when the backend told neither."""
    return "@".join(filter(None, (item.prompt_name, item.prompt_version))) or None


def alike(item: Item) -> int | None:
    """A number that is equal for items of a project whose outputs hold the same words in the same order.

    Short outputs (a label, say) must also answer the same input. None for an item without content.
    """
    output = words_of(as_text(item.output)) if item.output is not None else []
    if not output:
        return None
    asked = words_of(as_text(item.input)) if len(output) < SHORT and item.input is not None else []
    text = "\n".join([item.project_id, " ".join(output), " ".join(asked)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], signed=True)


def _card(drawer: _Drawer, item: Item, codes: dict[tuple[str, str], int]) -> dict[str, Any]:
    decision, waiting = drawer.decisions.get(item.id), drawer.wanted[item.id]
    named = {name: value and codes[name, value] for name, value in _named(drawer, item)}
    return named | {
        "number": item.number,
        "status": STATUSES.index(item.status),
        "verdict": VERDICTS.index(decision.verdict) if decision and decision.verdict else None,
        "created": int(item.created_at.timestamp()),
        "due": min((int(review.due_at.timestamp()) for review in waiting), default=None),
        "confidence": item.confidence,
        "risk": item.risk,
        "alike": alike(item),
        "stale": False,
    }


def _named(drawer: _Drawer, item: Item) -> list[tuple[str, str | None]]:
    """What stands on an item's card by name, with the word for it."""
    decision, waiting = drawer.decisions.get(item.id), drawer.wanted[item.id]
    queue = next((review.queue_id for review in (*waiting, *drawer.given[item.id])), None)
    return [
        ("project", item.project_id),
        ("queue", queue),
        ("reason", decision.reason if decision else None),
        ("cause", decision.cause if decision else None),
        ("person", decision.decided_by if decision else None),
        ("model", item.model),
        ("prompt", prompt_of(item)),
    ]


def _flags(item: Item) -> list[str]:
    return [flag[:400] for flag in dict.fromkeys(item.risk_flags or ()) if isinstance(flag, str) and flag]


def texts_of(numbers: Sequence[int], *, said: bool) -> Iterator[tuple[int, list[str]]]:
    """The number of each of these items and the texts it is found by; with `said`, also what people said."""
    texts = select(Item.id, Item.number, Item.external_id, Item.output, Item.input)
    items = db.session.execute(texts.where(Item.number.in_(numbers))).all()
    drawer = _filled(_Drawer(0, items)) if said else None
    for item in items:
        yield item.number, [*_submitted(item), *(_said(drawer, item) if drawer else ())]


def _submitted(item: Item | Row[Any]) -> list[str]:
    return [as_text(part) for part in (item.external_id, item.output, item.input) if part is not None]


def _said(drawer: _Drawer, item: Item | Row[Any]) -> list[str]:
    """Corrections and notes. While a review is open they sway nobody: they are left out."""
    if drawer.wanted[item.id]:
        return []
    decision = drawer.decisions.get(item.id)
    told: list[Any] = [decision.note, decision.output if decision.edited else None] if decision else []
    for review in drawer.given[item.id]:
        told += [review.note, review.output]
    return list(dict.fromkeys(as_text(part) for part in told if part is not None))


def _codes(drawer: _Drawer) -> dict[tuple[str, str], int]:
    """The numbers of all words that stand on these items' cards; new ones get one."""
    needed: set[tuple[str, str]] = set()
    for item in drawer.items:
        needed |= {(name, value) for name, value in _named(drawer, item) if value is not None}
        needed |= {("flag", flag) for flag in _flags(item)}
        needed |= {("queue", review.queue_id) for review in drawer.wanted[item.id]}
    known = _known(needed)
    if missing := sorted(needed - known.keys()):
        _add(missing)
        known |= _known(set(missing))
    return known


def _add(missing: Sequence[tuple[str, str]]) -> None:
    with transaction() as session:
        insert = _insert(session, Facet).on_conflict_do_nothing(index_elements=["name", "value"])
        session.execute(insert, [{"name": name, "value": value} for name, value in missing])


def _known(needed: set[tuple[str, str]]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for name in FACETS:
        values = [value for of, value in needed if of == name]
        if values:
            rows = db.session.execute(
                select(Facet.value, Facet.code).where(Facet.name == name, Facet.value.in_(values))
            )
            found |= {(name, row.value): row.code for row in rows}
    return found


def _insert(session: Session, model: Any) -> Any:
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return dialect.insert(model)


def _upsert(session: Session) -> Insert:
    insert = _insert(session, Card)
    names = [column.name for column in Card.__table__.columns if column.name not in ("number", "stale")]
    changed = {name: insert.excluded[name] for name in names}
    upsert: Insert = insert.on_conflict_do_update(index_elements=["number"], set_=changed)
    return upsert
