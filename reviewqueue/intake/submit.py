"""submit(): recognise repeats, route, store; and withdraw().

One transaction stores an item with the reviews it wants. Two unique keys decide who was first; what was
looked up before must never be what decides.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from sqlalchemy import update
from sqlalchemy.engine import Connection

from reviewqueue.background import ring
from reviewqueue.db import committed, connected, now, transaction
from reviewqueue.errors import Busy, Conflict, Invalid, Missing, Refusal
from reviewqueue.intake.arrival import Arrival, Desk, arrive, desk_of, known_desk
from reviewqueue.intake.shapes import Submission, read
from reviewqueue.intake.store import (
    Answer,
    Named,
    Overtaken,
    answer_of,
    answers_of,
    begin,
    look,
    one_batch_at_a_time,
    store_all,
    store_one,
)
from reviewqueue.ledger.record import record
from reviewqueue.models import Item
from reviewqueue.models import Submission as Known
from reviewqueue.people.access import Actor, item_for, require
from reviewqueue.review.settle import cancel_reviews, lock_item

TRIES = 4
T = TypeVar("T")


def submit(
    data: Mapping[str, Any], actor: Actor, key: str | None = None, fingerprint: str | None = None
) -> Answer:
    """Store one item for the backend `actor`, or recognise it by `key` or external id.

    `fingerprint` is the SHA-256 of what came under `key`; the same key with another one is Invalid with code
    idempotency_key_reused, a known external id with other content a Conflict. Raises Invalid with pointers,
    Missing for a project that is not the backend's, Busy when the database is.
    """
    require(actor, "items:write")
    shape = read(Submission, data)
    fingerprint = fingerprint or _fingerprint(data)
    backend, project = _sender(actor)

    def store(trusting: bool) -> Answer:
        with connected() as connection:
            # On SQLite a look costs less than what it spares repeats: waiting for the turn to write.
            trusting = trusting and connection.dialect.name != "sqlite"
            desk = known_desk(project) if trusting else None
            if desk is None:
                edition, named = look(connection, project, backend, key)
                if named:
                    return _repeat(connection, named, fingerprint)
                desk = desk_of(connection, project, edition)
            arrival = arrive(connection, shape, desk, backend, now())
            with committed(connection):
                begin(connection, desk, backend, key, fingerprint, arrival.row["id"])
                answer = store_one(connection, desk, arrival)
                if key and answer.replayed:
                    _name(connection, backend, key, item_id=answer.id)
        if arrival.route.reviews and not answer.replayed:
            ring("prepare")
        return answer

    return _again(store)


def submit_batch(
    entries: Sequence[Any], actor: Actor, key: str | None = None, fingerprint: str | None = None
) -> tuple[list[Answer | Refusal], bool]:
    """Store many items at once: one Answer or Refusal for each, in order, and whether all of it is a repeat.

    An entry that is a Refusal already, since it could not even be read, is passed on.
    The good ones are kept whatever the others are. A repeat of `key` gives the first answer again.
    """
    require(actor, "items:write")
    fingerprint = fingerprint or _fingerprint(entries)
    backend, project = _sender(actor)

    def store(_trusting: bool) -> tuple[list[Answer | Refusal], bool]:
        with connected() as connection:
            edition, named = look(connection, project, backend, key)
            if named:
                return _repeat_batch(connection, named, fingerprint), True
            desk = desk_of(connection, project, edition)
            tried = [_try(connection, entry, desk, backend) for entry in entries]
            arrivals = [result for result in tried if isinstance(result, Arrival)]
            with committed(connection):
                one_batch_at_a_time(connection, backend)
                begin(connection, desk, backend, key, fingerprint, None)
                stored = iter(store_all(connection, desk, arrivals))
                results = [next(stored) if isinstance(result, Arrival) else result for result in tried]
                if key:
                    noted = json.dumps([_noted(result) for result in results])
                    _name(connection, backend, key, answer=noted)
        if any(arrival.route.reviews for arrival in arrivals):
            ring("prepare")
        return results, False

    return _again(store)


def withdraw(actor: Actor, item_id: str) -> Item:
    """Take a pending item back: nobody needs to decide it. Doing so again changes nothing; Conflict when
    the item is not pending any more."""
    require(actor, "items:write")
    item_for(actor, item_id)
    with transaction() as session:
        item = lock_item(item_id)
        if item.status not in ("pending", "withdrawn"):
            raise Conflict(f"the item is {item.status}; only a pending one can be withdrawn", "not_pending")
        if item.status == "pending":
            item.status = "withdrawn"
            session.flush()
            cancel_reviews(item.id)
            fields = {"rev": item.round, "backend": item.backend_id}
            record("withdrawal", fields, item_id=item.id, project_id=item.project_id, actor=actor.id)
    session.refresh(item)
    return item


def _again(store: Callable[[bool], T]) -> T:
    """Run `store` until nobody got in its way; at first it may trust in what it remembers of the project."""
    for trusting in (True, *[False] * TRIES):
        try:
            return store(trusting)
        except Overtaken:
            continue
        except (Invalid, Missing):
            if not trusting:
                raise
    raise Busy("the project is being changed; try again")


def _sender(actor: Actor) -> tuple[str, str]:
    if actor.backend_id is None or actor.project_id is None:
        raise Missing("items are submitted by backends", "project_not_found")
    return actor.backend_id, actor.project_id


def _try(connection: Connection, entry: Any, desk: Desk, backend: str) -> Arrival | Refusal:
    if isinstance(entry, Refusal):
        return entry
    try:
        return arrive(connection, read(Submission, entry), desk, backend, now())
    except Refusal as refused:
        return refused


def _fingerprint(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def _name(connection: Connection, backend: str, key: str, **values: Any) -> None:
    connection.execute(update(Known).where(Known.backend_id == backend, Known.key == key).values(**values))


def _repeat(connection: Connection, named: Named, fingerprint: str) -> Answer:
    _check(named, fingerprint)
    if named.item_id is None:
        raise Invalid("this key named a batch before; use a new one", "idempotency_key_reused")
    return answer_of(connection, named.item_id)


def _check(named: Named, fingerprint: str) -> None:
    if named.fingerprint != fingerprint:
        raise Invalid("this key came with another body before; use a new one", "idempotency_key_reused")


_REFUSALS = {word.__name__: word for word in (Invalid, Missing, Conflict)}


def _noted(result: Answer | Refusal) -> dict[str, Any]:
    """What a batch's row keeps of one result: no content, so that erasing an item needs no look here."""
    if isinstance(result, Answer):
        return {"id": result.id, "replayed": result.replayed}
    errors = result.errors if isinstance(result, Invalid) else None
    return {"word": type(result).__name__, "message": result.message, "code": result.code, "errors": errors}


def _repeat_batch(connection: Connection, named: Named, fingerprint: str) -> list[Answer | Refusal]:
    _check(named, fingerprint)
    if named.answer is None:
        raise Invalid("this key named a single item before; use a new one", "idempotency_key_reused")
    noted = json.loads(named.answer)
    answers = answers_of(connection, [note["id"] for note in noted if "id" in note])
    results: list[Answer | Refusal] = []
    for note in noted:
        if "id" in note:
            answer = answers[note["id"]]
            results.append(Answer(answer.id, answer.body, note["replayed"]))
        elif note["errors"] is not None:
            results.append(Invalid(note["message"], note["code"], errors=note["errors"]))
        else:
            results.append(_REFUSALS[note["word"]](note["message"], note["code"]))
    return results
