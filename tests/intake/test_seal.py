from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select, text

from reviewqueue.db import db, transaction
from reviewqueue.intake import seal as sealing
from reviewqueue.intake.seal import root, seal, seal_due
from reviewqueue.intake.submit import submit, submit_batch
from reviewqueue.ledger import canonical
from reviewqueue.models import Item, LedgerEntry
from tests.make import Make


@pytest.fixture
def backend(base: Flask, make: Make) -> Any:
    """The Actor of a backend of the project support-replies."""
    return make.backend_actor(make.project())


def one(**fields: Any) -> dict[str, Any]:
    return {"project": "support-replies", "output": "x", **fields}


def sealed() -> list[dict[str, Any]]:
    entries = db.session.scalars(
        select(LedgerEntry).where(LedgerEntry.type == "submissions.sealed").order_by(LedgerEntry.seq)
    )
    return [json.loads(entry.body) for entry in entries]


def covered() -> list[int]:
    """The numbers of the items that the entries speak of, checked against each entry's root."""
    numbers: list[int] = []
    for entry in sealed():
        rows = db.session.execute(
            select(Item.number, Item.content_sha256)
            .where(Item.number.between(entry["first"], entry["last"]))
            .order_by(Item.number)
        ).all()
        assert (len(rows), root(row.content_sha256 for row in rows)) == (entry["n"], entry["root"])
        numbers += [row.number for row in rows]
    return numbers


def test_seal_takes_each_item_once(backend: Any) -> None:
    assert (seal_due(), seal(), sealed()) == (False, 0, [])
    submit_batch([one(output=str(n)) for n in range(5)], backend)
    assert seal_due()
    assert seal() == 5
    assert (seal_due(), seal()) == (False, 0)
    submit(one(), backend)
    assert seal() == 1
    assert [entry["n"] for entry in sealed()] == [5, 1]
    assert covered() == db.session.scalars(select(Item.number).order_by(Item.number)).all()


def test_seal_writes_an_entry_for_every_thousand(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sealing, "BATCH", 10)
    submit_batch([one(output=str(n)) for n in range(25)], backend)
    assert seal() == 25
    assert [entry["n"] for entry in sealed()] == [10, 10, 5]
    assert len(covered()) == 25


def test_root_is_that_of_rfc_6962() -> None:
    a, b, c = (bytes([n]) * 32 for n in (1, 2, 3))
    leaves = [canonical.leaf_hash(digest) for digest in (a, b, c)]
    expected = canonical.node_hash(canonical.node_hash(leaves[0], leaves[1]), leaves[2])
    assert root(digest.hex() for digest in (a, b, c)) == expected.hex()


def test_a_changed_item_no_longer_fits_its_seal(backend: Any) -> None:
    submit(one(), backend)
    seal()
    with transaction() as session:
        session.execute(text("UPDATE item SET content_sha256 = :other"), {"other": "0" * 64})
    with pytest.raises(AssertionError):
        covered()


@pytest.mark.postgresql
def test_seal_waits_for_numbers_that_are_taken_but_not_yet_there(base: Flask, backend: Any) -> None:
    """One submission has taken a number and not committed when a later one is there already."""
    submit(one(output="before"), backend)
    taken, go = threading.Event(), threading.Event()

    def slow() -> None:
        with base.app_context():
            from reviewqueue.intake import submit as submitting

            store = submitting.store_one

            def held(*given: Any) -> Any:
                answer = store(*given)
                taken.set()
                go.wait(10)
                return answer

            submitting.store_one = held  # type: ignore[assignment]
            try:
                submit(one(output="slow"), backend)
            finally:
                submitting.store_one = store
                db.session.remove()

    thread = threading.Thread(target=slow)
    thread.start()
    assert taken.wait(10)
    db.session.rollback()
    highest = db.session.scalar(select(func.max(Item.number)))
    assert seal() == 0  # the slow one is in the way: nothing is sealed yet, and nothing is lost
    go.set()
    thread.join()
    db.session.rollback()
    assert seal() == 2
    assert covered()[-1] > (highest or 0)


def test_sealing_while_many_submit_leaves_nobody_out(base: Flask, backend: Any) -> None:
    stop = threading.Event()

    def submitting(name: int) -> None:
        with base.app_context():
            for number in range(30):
                submit(one(output=f"{name} {number}"), backend)
            db.session.remove()

    def sealer() -> None:
        with base.app_context():
            while not stop.is_set():
                seal()
                stop.wait(0.02)
            db.session.remove()

    threads = [threading.Thread(target=submitting, args=(name,)) for name in range(6)]
    sealers = [threading.Thread(target=sealer) for _ in range(2)]
    for thread in threads + sealers:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    for thread in sealers:
        thread.join()
    db.session.rollback()
    seal()
    numbers = db.session.scalars(select(Item.number).order_by(Item.number)).all()
    assert len(numbers) == 180
    assert covered() == numbers
