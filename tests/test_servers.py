"""The servers the tests run on: what a restart of PostgreSQL takes away, and what it leaves."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import func, select

from reviewqueue.db import db
from reviewqueue.models import Item
from tests.make import Make
from tests.servers import Postgres


@pytest.mark.postgresql
def test_a_restarted_postgresql_has_all_that_was_committed(base: Any, make: Make, postgres: Postgres) -> None:
    postgres.emptied("test", template="template")  # through a connection that is kept
    item = make.item(make.project()).id
    before = postgres.admin("SELECT pg_postmaster_start_time()")
    held = dict(postgres.kept)
    db.session.rollback()
    postgres.restart()
    assert postgres.admin("SELECT pg_postmaster_start_time()") > before
    assert held.keys() == {"test"}
    assert all(connection.closed for connection in held.values())
    assert db.session.scalars(select(Item.id)).all() == [item]
    db.session.rollback()
    postgres.emptied("test", template="template")
    assert db.session.scalar(select(func.count()).select_from(Item)) == 0
