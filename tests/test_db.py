"""The schema that migrations make is the one the models describe, and transactions keep their word."""

from __future__ import annotations

import sqlite3
from datetime import UTC, datetime

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import CheckConstraint, delete, func, insert, inspect, select, text

from reviewqueue import schema
from reviewqueue.db import (
    Base,
    after_commit,
    committed,
    connected,
    db,
    in_transaction,
    joined,
    reading,
    transaction,
)
from reviewqueue.models import Leader

MOMENT = datetime(2026, 11, 20, 10, 0, 0, 123456, tzinfo=UTC)


def _leader(duty: str = "relay") -> Leader:
    return Leader(duty=duty, holder="h", expires_at=MOMENT)


def test_migrate_makes_what_the_models_describe(base):
    with db.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=schema.options())
        assert compare_metadata(context, Base.metadata) == []


def test_migrate_makes_every_named_check(base):
    inspector = inspect(db.engine)
    for table in Base.metadata.tables.values():
        wanted = {str(c.name) for c in table.constraints if isinstance(c, CheckConstraint) and c.name}
        assert wanted == {c["name"] for c in inspector.get_check_constraints(table.name)}, table.name


def test_migrate_a_second_time_changes_nothing(base):
    assert schema.version() == schema.head()
    assert schema.migrate() is False


@pytest.mark.sqlite
def test_migrate_that_fails_in_the_middle_leaves_the_old_schema(base, tmp_path, monkeypatch):
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    for name in ("env.py", "script.py.mako"):
        (folder / name).write_text((schema.FOLDER / name).read_text())
    for file in (schema.FOLDER / "versions").glob("*.py"):
        (folder / "versions" / file.name).write_text(file.read_text())
    (folder / "versions" / "9999_broken.py").write_text(
        f"from alembic import op\nrevision = '9999'\ndown_revision = {schema.head()!r}\n"
        "def upgrade():\n    op.execute('CREATE TABLE half (a INTEGER)')\n    op.execute('CREATE nonsense')\n"
    )
    before = schema.version()
    monkeypatch.setattr(schema, "FOLDER", folder)
    with pytest.raises(Exception, match="nonsense"):
        schema.migrate()
    assert schema.version() == before
    assert not inspect(db.engine).has_table("half")


def test_transaction_commits_and_times_come_back_aware(base):
    with transaction() as session:
        session.add(_leader())
    db.session.expire_all()
    assert db.session.get(Leader, "relay").expires_at == MOMENT


def test_transaction_rolls_back_on_an_exception_and_rings_nothing(base):
    rung = []
    with pytest.raises(RuntimeError, match="no"), transaction() as session:
        session.add(_leader())
        after_commit(lambda: rung.append(1))
        raise RuntimeError("no")
    assert db.session.scalars(select(Leader)).all() == []
    assert rung == []


def test_transaction_rings_after_the_commit(base):
    seen = []

    def look() -> None:
        with db.engine.connect() as other:
            seen.append(other.execute(text("SELECT count(*) FROM leader")).scalar())

    with transaction() as session:
        session.add(_leader())
        after_commit(look)
        assert seen == []
    assert seen == [1]


def test_transaction_does_not_nest(base):
    with transaction():
        assert in_transaction()
        with pytest.raises(RuntimeError, match="nest"), transaction():
            pass
    assert not in_transaction()


def test_joined_refuses_outside_a_transaction(base):
    with pytest.raises(RuntimeError, match="inside"):
        joined()


def test_a_time_without_a_zone_is_refused(base):
    with pytest.raises(Exception, match="without a zone"), transaction() as session:
        session.add(Leader(duty="relay", holder="h", expires_at=MOMENT.replace(tzinfo=None)))


@pytest.mark.sqlite
def test_a_writing_transaction_takes_the_write_lock_at_once(base, settings):
    path = settings.database_url.removeprefix("sqlite:///")
    with transaction():
        other = sqlite3.connect(path, timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


@pytest.mark.postgresql  # a file does not restart
def test_a_connection_that_died_while_idle_is_replaced_before_a_statement_finds_out(base):
    with connected() as killer:
        with reading() as connection:
            pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        killer.execute(text("SELECT pg_terminate_backend(:pid, 2000)"), {"pid": pid})
        with reading() as connection:
            assert connection.execute(text("SELECT pg_backend_pid()")).scalar_one() != pid


@pytest.mark.postgresql
def test_a_connection_that_dies_at_the_end_of_a_request_undoes_no_answer(base):
    with base.app_context():
        pid = db.session.execute(text("SELECT pg_backend_pid()")).scalar_one()
        with connected() as killer:
            killer.execute(text("SELECT pg_terminate_backend(:pid, 2000)"), {"pid": pid})
    with base.app_context():
        assert db.session.execute(text("SELECT pg_backend_pid()")).scalar_one() != pid


def test_committed_commits_rolls_back_and_does_not_nest(base):
    with connected() as connection, committed(connection):
        connection.execute(insert(Leader).values(duty="a", holder="x", expires_at=MOMENT))
    with pytest.raises(KeyError), connected() as connection, committed(connection):
        connection.execute(insert(Leader).values(duty="b", holder="x", expires_at=MOMENT))
        raise KeyError
    assert db.session.scalars(select(Leader.duty)).all() == ["a"]
    with transaction(), connected() as connection, pytest.raises(RuntimeError), committed(connection):
        pass


def test_connected_sees_what_others_commit_until_it_writes_and_holds_nothing_up(base):
    count = select(func.count()).select_from(Leader)
    with connected() as connection:
        assert connection.execute(count).scalar_one() == 0
        with transaction() as session:
            session.add(_leader())
        assert connection.execute(count).scalar_one() == 1
        with committed(connection):
            connection.execute(delete(Leader))
        assert db.session.scalars(select(Leader.duty)).all() == []
