"""The audit pages: who may read them, what the filters find, and that a changed entry is seen."""

from __future__ import annotations

import re
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text

from reviewqueue.db import db, transaction
from reviewqueue.models import LedgerEntry
from tests.make import Make

pytestmark = pytest.mark.usefixtures("app")


def numbers(page: str) -> list[int]:
    return [int(number) for number in re.findall(r'data-row href="/audit/(\d+)"', page)]


def tamper(seq: int, column: str, value: str) -> None:
    """Change an entry as somebody with full rights in the database could."""
    with transaction() as session:
        if session.get_bind().dialect.name == "sqlite":
            names = session.scalars(
                text("SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'ledger_entry'")
            ).all()
            for name in names:
                session.execute(text(f'DROP TRIGGER "{name}"'))
        else:
            session.execute(text("ALTER TABLE ledger_entry DISABLE TRIGGER USER"))
        session.execute(
            text(f"UPDATE ledger_entry SET {column} = :value WHERE seq = :seq"), {"value": value, "seq": seq}
        )


def test_audit_is_for_those_who_oversee(client: Any, make: Make) -> None:
    make.project()
    assert client(make.person("aud")).get("/audit").status_code == 200
    assert client(make.person("cleo")).get("/audit").status_code == 200
    assert client(make.person("ada")).get("/audit").status_code == 403
    assert client().get("/audit").status_code == 303


def test_audit_lists_every_entry_newest_first_page_by_page(
    client: Any, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make.project()
    for name in ("one", "two", "three", "four"):
        make.backend(project, name)
    visitor = client(make.person("aud"))
    monkeypatch.setattr("reviewqueue.lists.PAGE", 3)
    every = db.session.scalars(select(LedgerEntry.seq).order_by(LedgerEntry.seq.desc())).all()
    seen: list[int] = []
    address: str | None = "/audit"
    while address:
        page = visitor.get(address).text
        seen += numbers(page)
        found = re.search(r'href="([^"]+)" rel="next"', page)
        address = found[1].replace("&amp;", "&") if found else None
    assert seen == list(every)
    assert len(seen) > 6


def test_audit_filters_by_kind_project_person_and_item(client: Any, make: Make) -> None:
    one, two = make.project("one"), make.project("two")
    make.backend(two)
    visitor = client(make.person("aud"))
    of_two = set(db.session.scalars(select(LedgerEntry.seq).where(LedgerEntry.project_id == two.id)))
    assert of_two
    assert set(numbers(visitor.get("/audit?project=two").text)) == of_two
    assert of_two.isdisjoint(numbers(visitor.get(f"/audit?project={one.name}").text))
    begun = numbers(visitor.get("/audit?kind=ledger.created").text)
    assert begun == [0]
    assert numbers(visitor.get("/audit?person=usr_nobody").text) == []
    assert "No entry fits" in visitor.get("/audit?item=itm_none").text


def test_audit_filters_by_day(client: Any, make: Make) -> None:
    make.project()
    visitor = client(make.person("aud"))
    day = db.session.scalars(select(LedgerEntry.time).limit(1)).one().date().isoformat()
    every = numbers(visitor.get("/audit").text)
    assert numbers(visitor.get(f"/audit?since={day}").text) == every
    assert numbers(visitor.get("/audit?since=2999-01-01").text) == []
    assert numbers(visitor.get("/audit?until=2001-01-01").text) == []
    assert numbers(visitor.get(f"/audit?since={day}&until=2999-01-01").text) == every


@pytest.mark.parametrize(
    "query",
    ["since=yesterday", "kind=nonsense", "cursor=x", "cursor=-1", "cursor=" + "9" * 30, "project=none"],
)
def test_audit_refuses_a_filter_it_cannot_read(client: Any, make: Make, query: str) -> None:
    assert client(make.person("aud")).get(f"/audit?{query}").status_code == 422


def test_audit_entry_shows_its_body_and_that_it_holds(client: Any, make: Make) -> None:
    make.project()
    page = client(make.person("aud")).get("/audit/1").text
    entry = db.session.get_one(LedgerEntry, 1)
    assert entry.leaf in page
    assert entry.prev in page
    assert page.count("badge-ok") == 3
    assert client(make.person("aud")).get("/audit/99999").status_code == 404


def test_audit_entry_that_was_changed_is_seen_there_and_by_verifying(
    app: Flask, client: Any, make: Make
) -> None:
    make.project()
    visitor = client(make.person("aud"))
    whole = visitor.send("/audit/verification", page="/audit").text
    assert "are as they were recorded" in whole
    tamper(1, "mac", "0" * 64)
    assert "badge-failed" in visitor.get("/audit/1").text
    found = visitor.send("/audit/verification", page="/audit").text
    assert "The ledger was changed" in found
    assert 'href="/audit/1"' in found


def test_audit_leaves_a_long_ledger_to_the_command(
    client: Any, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    make.project()
    monkeypatch.setattr("reviewqueue.ledger.pages.VERIFIED_HERE", 1)
    visitor = client(make.person("aud"))
    assert "python -m reviewqueue ledger verify" in visitor.get("/audit").text
    assert "are as they were recorded" not in visitor.send("/audit/verification", page="/audit").text
