"""Statements compiled once: what every submission and claim runs, at little more than the driver's cost.

Building a Core statement, looking it up in SQLAlchemy's cache and wrapping its rows costs several times what
SQLite needs to run it. Values are bound as always; nothing of them may ever become part of the SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Dialect, Executable
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

Values = Mapping[str, Any]
_Process = Callable[[Any], Any] | None


class _Compiled(NamedTuple):
    sql: str
    fixed: Values
    names: Sequence[str]  # of what is bound, in the order the driver wants
    written: Sequence[tuple[Any, Callable[[Any], Any]]]  # which of it the driver gets in another form
    types: Sequence[TypeEngine[Any]]  # of the columns of its rows
    read: list[_Process]  # known when the first rows are
    positional: bool


class Prepared:
    """A Core statement, compiled when it first runs on a kind of database.

    `build` gets the dialect's name and gives the statement; `columns` are those an INSERT names, bound under
    their own names.
    """

    def __init__(self, build: Callable[[str], Executable], columns: Sequence[str] | None = None) -> None:
        self._build, self._columns = build, columns
        self._compiled: dict[str, _Compiled] = {}

    def run(self, connection: Connection, values: Values) -> int:
        """Run it with these values inside the connection's transaction; how many rows it changed."""
        made = self._made(connection)
        with _cursor(connection, made.sql, bound := _bound(made, values)) as cursor:
            cursor.execute(made.sql, bound)
            return int(cursor.rowcount)

    def run_many(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Run it for each of `rows`, which may be none."""
        made = self._made(connection)
        if len(rows) == 1:  # PostgreSQL's driver does much more for many
            self.run(connection, rows[0])
        elif rows:
            with _cursor(connection, made.sql, bound := [_bound(made, row) for row in rows]) as cursor:
                cursor.executemany(made.sql, bound)

    def rows(self, connection: Connection, values: Values) -> list[tuple[Any, ...]]:
        """Run it; its rows, each value of the type its column has."""
        made = self._made(connection)
        with _cursor(connection, made.sql, bound := _bound(made, values)) as cursor:
            cursor.execute(made.sql, bound)
            if not made.read:
                codes = [column[1] for column in cursor.description]
                made.read[:] = map(partial(_reader, connection.dialect), made.types, codes)
            return [tuple(map(_as_read, made.read, row)) for row in cursor.fetchall()]

    def row(self, connection: Connection, values: Values) -> tuple[Any, ...] | None:
        """Run it; its first row, or None."""
        return next(iter(self.rows(connection, values)), None)

    def _made(self, connection: Connection) -> _Compiled:
        alone = "reviewqueue_reading" in connection.get_execution_options()
        if not alone and not connection.in_transaction():
            connection.begin()
        return self._compiled.get(connection.dialect.name) or self._compile(connection.dialect)

    def _compile(self, dialect: Dialect) -> _Compiled:
        statement: Any = self._build(dialect.name)
        compiled = statement.compile(dialect=dialect, column_keys=self._columns)
        types = {name: bind.type for bind, name in compiled.bind_names.items()}
        names = compiled.positiontup or list(types)
        places = enumerate(names) if compiled.positional else ((name, name) for name in names)
        processes = ((place, _kind(types[name], dialect).bind_processor(dialect)) for place, name in places)
        made = _Compiled(
            sql=str(compiled),
            fixed={name: bind.value for bind, name in compiled.bind_names.items() if not bind.required},
            names=names,
            written=[(place, process) for place, process in processes if process is not None],
            types=[column.type for column in statement.exported_columns],
            read=[],
            positional=compiled.positional,
        )
        if any(process(None) is not None for _, process in made.written):
            raise TypeError("a type that stores None as something else cannot be prepared")
        self._compiled[dialect.name] = made
        return made


def as_it_stands(connection: Connection, sql: str) -> None:
    """Run SQL that has no values, whether or not there is a transaction."""
    with _cursor(connection, sql, ()) as cursor:
        cursor.execute(sql)


@contextmanager
def _cursor(connection: Connection, sql: str, bound: Any) -> Iterator[Any]:
    """The driver's own cursor: its errors become SQLAlchemy's, and who listens hears of the statement."""
    driver: Any = connection.dialect.dbapi
    cursor = connection.connection.cursor()
    many = isinstance(bound, list)
    try:
        for listener in connection.dispatch.before_cursor_execute:
            listener(connection, cursor, sql, bound, None, many)
        yield cursor
    except driver.Error as error:
        if connection.dialect.is_disconnect(error, connection.connection, cursor):
            connection.invalidate(error)
        raise DBAPIError.instance(
            sql, None, error, driver.Error, hide_parameters=True, dialect=connection.dialect
        ) from error
    finally:
        cursor.close()


def _kind(type_: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    return type_.dialect_impl(dialect)


def _reader(dialect: Dialect, type_: TypeEngine[Any], code: Any) -> _Process:
    return _kind(type_, dialect).result_processor(dialect, code)


def _as_read(process: _Process, given: Any) -> Any:
    return given if process is None else process(given)


def _bound(made: _Compiled, values: Values) -> Any:
    given = {**made.fixed, **values} if made.fixed else values
    row: Any = [given[name] for name in made.names] if made.positional else dict(given)
    for place, process in made.written:
        if row[place] is not None:
            row[place] = process(row[place])
    return tuple(row) if made.positional else row
