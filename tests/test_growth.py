"""What works through everything takes no more memory for more of it: exports, verifying the ledger."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from bench import fill
from reviewqueue.db import db
from reviewqueue.examples import export as export_file
from reviewqueue.intake import bulk
from reviewqueue.ledger import verify as verify_file
from reviewqueue.models import Project
from reviewqueue.people.access import SYSTEM

FEW, MANY = 200, 1000


@pytest.fixture
def grow(base: Flask, make: Any) -> Callable[[int, int], None]:
    """`grow(first, last)`: decided items with examples and ledger entries."""
    project = make.project()
    make.backend(project)
    where = fill.place(project.name, make.person("ada").id, make.person("cleo").id)

    def more(first: int, last: int) -> None:
        fill.items(where, first, last, "decided")
        fill.decided(where, first, last)
        fill.examples(where, first, last)
        fill.ledger(where, first, last)

    return more


def _items() -> int:
    return sum(1 for _ in bulk.export_lines(SYSTEM, "support-replies"))


def _examples() -> int:
    project = db.session.scalars(select(Project)).one()
    return sum(1 for _ in export_file.export(SYSTEM, project, "jsonl"))


def _ledger() -> int:
    report = verify_file.verify()
    assert report.ok, report.problem
    return report.entries // 2


def _peak(work: Callable[[], int], count: int) -> int:
    """The most bytes that were in use at once while it worked."""
    work()  # what is compiled and cached the first time is none of its own
    db.session.rollback()
    gc.collect()
    gc.freeze()  # what is there already would keep the collector from looking at what is new
    tracemalloc.start()
    try:
        assert work() >= count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
        gc.unfreeze()
        db.session.rollback()


def test_exports_and_verifying_take_the_same_memory_for_more(grow, monkeypatch):
    # Several batches fit into what there is few of; what is garbage waits some of them for its collector.
    monkeypatch.setattr(verify_file, "BATCH", 250)
    monkeypatch.setattr(export_file, "BATCH", 100)
    works = (_items, _examples, _ledger)
    grow(1, FEW)
    few = [_peak(work, FEW) for work in works]
    grow(FEW + 1, MANY)
    many = [_peak(work, MANY) for work in works]
    grew = {
        work.__name__: round(after / before, 2) for work, before, after in zip(works, few, many, strict=True)
    }
    assert max(grew.values()) < 2, grew


@pytest.mark.sqlite
def test_memory_that_grows_is_noticed(grow):
    """The same measure, of an export that keeps what it has read."""

    def keeps() -> int:
        return len(list(bulk.export_lines(SYSTEM, "support-replies")))

    grow(1, FEW)
    before = _peak(keeps, FEW)
    grow(FEW + 1, MANY)
    assert _peak(keeps, MANY) > 2 * before
