"""Statements compiled once: what every submission and claim runs, at little more than the driver's cost.

Building a Core statement and looking it up in SQLAlchemy's cache costs several times what SQLite needs to
run it. Values are bound as always; nothing of them may ever become part of the SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from sqlalchemy import Dialect, Executable
from sqlalchemy.engine import Connection, CursorResult
from sqlalchemy.types import TypeEngine

Values = Mapping[str, Any]
_Process = Callable[[Any], Any] | None


class _Compiled(NamedTuple):
    sql: str
    fixed: Values
    bind: Sequence[tuple[str, _Process]]
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

    def run(self, connection: Connection, values: Values) -> CursorResult[Any]:
        """Run it with these values; rows come as the driver gives them."""
        made = self._made(connection)
        return connection.exec_driver_sql(made.sql, _bound(made, values))

    def run_many(self, connection: Connection, rows: Sequence[Values]) -> None:
        """Run it for each of `rows`, which may be none."""
        made = self._made(connection)
        if rows:
            connection.exec_driver_sql(made.sql, [_bound(made, row) for row in rows])

    def rows(self, connection: Connection, values: Values) -> list[tuple[Any, ...]]:
        """Run it; its rows, each value of the type its column has."""
        made, result = self._made(connection), self.run(connection, values)
        if not made.read and result.cursor is not None:
            codes = [column[1] for column in result.cursor.description]
            made.read[:] = map(partial(_reader, connection.dialect), made.types, codes)
        return [tuple(map(_as_read, made.read, row)) for row in result]

    def row(self, connection: Connection, values: Values) -> tuple[Any, ...] | None:
        """Run it; its first row, or None."""
        return next(iter(self.rows(connection, values)), None)

    def _made(self, connection: Connection) -> _Compiled:
        return self._compiled.get(connection.dialect.name) or self._compile(connection.dialect)

    def _compile(self, dialect: Dialect) -> _Compiled:
        statement: Any = self._build(dialect.name)
        compiled = statement.compile(dialect=dialect, column_keys=self._columns)
        types = {name: bind.type for bind, name in compiled.bind_names.items()}
        names = compiled.positiontup or list(types)
        made = _Compiled(
            sql=str(compiled),
            fixed={name: bind.value for bind, name in compiled.bind_names.items() if not bind.required},
            bind=[(name, _kind(types[name], dialect).bind_processor(dialect)) for name in names],
            types=[column.type for column in statement.exported_columns],
            read=[],
            positional=compiled.positional,
        )
        self._compiled[dialect.name] = made
        return made


def _kind(type_: TypeEngine[Any], dialect: Dialect) -> TypeEngine[Any]:
    return type_.dialect_impl(dialect)


def _reader(dialect: Dialect, type_: TypeEngine[Any], code: Any) -> _Process:
    return _kind(type_, dialect).result_processor(dialect, code)


def _as_read(process: _Process, given: Any) -> Any:
    return given if process is None else process(given)


def _bound(made: _Compiled, values: Values) -> Any:
    given = {**made.fixed, **values} if made.fixed else values
    if made.positional:
        return tuple(given[name] if process is None else process(given[name]) for name, process in made.bind)
    return {name: given[name] if process is None else process(given[name]) for name, process in made.bind}
