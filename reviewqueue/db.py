"""The database: session, transaction(), after_commit(), the clock, column types.

Every write of the product happens inside `transaction()`. Nothing slow may happen there: no HTTP, no
Redis, no rendering; what must happen outside is a row first and a bell rung by `after_commit`.
"""

from __future__ import annotations

import json
import logging
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar, cast

from flask import current_app
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import JSON, DateTime, Dialect, Engine, MetaData, event
from sqlalchemy.engine import Connection, CursorResult, Result
from sqlalchemy.exc import DBAPIError, InvalidatePoolError
from sqlalchemy.orm import DeclarativeBase, Session
from sqlalchemy.types import TypeDecorator

from reviewqueue import writer
from reviewqueue.seams import clock

log = logging.getLogger("reviewqueue.db")

TRUSTED = 1.0  # seconds since a connection was used
WRITING = {"reviewqueue_writing": True}
_READING = {"reviewqueue_reading": True}
_HOOKS = "reviewqueue_after_commit"

SQLITE_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",
    "busy_timeout=10000",
    "mmap_size=0",
)


class Time(TypeDecorator[datetime]):
    """An instant: stored in UTC, given back aware, on both databases."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a zone reached the database")
        value = value.astimezone(UTC)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Tables name every constraint, so that a migration can find them on both databases."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # JSON as text, not JSONB: what was submitted comes back with its key order and its numbers.
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        datetime: Time,
        dict[str, Any]: JSON(none_as_null=True),
    }


# Tables derive from the typed Base itself: the extension's own model class would drop its type map.
db = SQLAlchemy(metadata=Base.metadata)


_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def dumps(value: object) -> str:
    """JSON for the database's JSON columns: as given, never NaN."""
    return _ENCODER.encode(value)


def engine_options(url: str) -> dict[str, Any]:
    """What `create_engine` gets for this URL."""
    options: dict[str, Any] = {"json_serializer": dumps}
    if url.startswith("postgresql"):
        settings = "statement_timeout=5000 lock_timeout=3000 synchronous_commit=on timezone=UTC"
        options["connect_args"] = {"options": " ".join(f"-c {setting}" for setting in settings.split())}
    else:
        options["connect_args"] = {"timeout": 10}
    return options


def attach(engine: Engine) -> None:
    """Give a SQLite engine its pragmas and explicit BEGINs; PostgreSQL needs neither, but it may go away."""
    if engine.dialect.name != "sqlite":
        _replace_dead(engine)
        return

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: object) -> None:
        connection.isolation_level = None
        for pragma in SQLITE_PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")

    writer.attach(engine)

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if "reviewqueue_writing" in options:
            # A deferred transaction that turns into a writer fails at once when another one wrote meanwhile.
            writer.begin(connection)
        elif "reviewqueue_reading" not in options:
            connection.exec_driver_sql("BEGIN")


def _replace_dead(engine: Engine) -> None:
    """Ask whether the server is still there before a connection is used, unless it was used a moment ago and
    has nothing to tell, as it does when its server ends: asking costs as much as a statement."""
    driver: Any = engine.dialect.dbapi

    @event.listens_for(engine, "connect")
    @event.listens_for(engine, "checkin")
    def _used(_connection: Any, record: Any) -> None:
        record.info["reviewqueue_used"] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def _ask(connection: Any, record: Any, _proxy: object) -> None:
        quiet = time.monotonic() - record.info["reviewqueue_used"]
        try:
            if quiet > TRUSTED or _tells(connection):
                engine.dialect.do_ping(connection)
        except driver.Error:
            raise InvalidatePoolError from None


def _tells(connection: Any) -> bool:
    """Whether the server sent what nobody asked for, or nothing more will come."""
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


@contextmanager
def transaction() -> Iterator[Session]:
    """One writing transaction: commits at the end, rolls back on any exception, then rings what was asked.

    What was read before is read again inside. Raises RuntimeError when nested: a verb that opens a
    transaction is never called by another one.
    """
    session: Session = db.session()
    if in_transaction():
        raise RuntimeError("transaction() does not nest")
    if session.new or session.dirty or session.deleted:
        raise RuntimeError("something was changed outside transaction()")
    session.rollback()
    hooks: list[Callable[[], object]] = []
    try:
        session.connection(execution_options=WRITING)
        session.info[_HOOKS] = hooks
        yield session
        session.commit()
    except BaseException:
        session.rollback()
        raise
    finally:
        session.info.pop(_HOOKS, None)
    for hook in hooks:
        hook()


@contextmanager
def connected() -> Iterator[Connection]:
    """A connection for a verb that needs no objects, at a fraction of a session's cost: it reads, each
    statement seeing what is committed by then, and may write once, inside `committed`."""
    with _engine("connected").connect() as connection:
        yield connection


@contextmanager
def committed(connection: Connection) -> Iterator[None]:
    """`transaction()` on a connection of `connected`: commits at the end, rolls back on any exception.

    Nothing that adds to a caller's transaction may be called inside.
    """
    if in_transaction():
        raise RuntimeError("committed() does not nest")
    if db.session.registry.has():
        db.session.rollback()  # what was read before is read again
    if connection.dialect.name == "sqlite":
        connection.rollback()  # reading began nothing, even where SQLAlchemy thinks so
        connection.execution_options(**WRITING).begin()
    try:
        yield
        connection.commit()
    except BaseException:
        connection.rollback()
        raise


@contextmanager
def reading() -> Iterator[Connection]:
    """A connection for single statements that only read, each of which sees what is committed by then."""
    with _engine("reading").connect() as connection:
        yield connection


def _engine(purpose: str) -> Engine:
    known: dict[str, Engine] = current_app.extensions.setdefault("reviewqueue_engines", {})
    if purpose not in known:
        options: dict[str, Any] = dict(_READING)
        if db.engine.dialect.name == "postgresql":
            # Its driver can leave out BEGIN and ROLLBACK; SQLite's begins in `attach`.
            options = options | {"isolation_level": "AUTOCOMMIT"} if purpose == "reading" else {}
        known[purpose] = db.engine.execution_options(**options)
    return known[purpose]


def let_go(_error: BaseException | None) -> None:
    """End the session of a request: a connection that died meanwhile must not undo what was answered."""
    try:
        db.session.remove()
    except DBAPIError:
        log.warning("a connection died before it was given back")
        db.session.registry.clear()


def hits(done: Result[Any]) -> int:
    """How many rows an UPDATE, INSERT or DELETE touched. Zero is an answer: somebody else was there first."""
    return cast("CursorResult[Any]", done).rowcount


def in_transaction() -> bool:
    """Whether the caller runs inside `transaction()`."""
    return db.session.registry.has() and _HOOKS in db.session().info


def joined() -> Session:
    """The session of the caller's transaction, for helpers that add rows to it; RuntimeError outside one."""
    if not in_transaction():
        raise RuntimeError("this must run inside the caller's transaction()")
    return db.session()


def after_commit(hook: Callable[[], object]) -> None:
    """Run `hook` once the transaction has committed; never when it rolls back."""
    joined().info[_HOOKS].append(hook)


def now() -> datetime:
    """The time, aware, in UTC."""
    return clock()


def stamp(moment: datetime) -> str:
    """RFC 3339 in UTC with six decimals and a Z, as everywhere in the API, callbacks and ledger."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"
