"""Fails every statement of a state change in turn, or ends the process there: the database must be as before.

The change is run once for each of its statements, BEGIN and COMMIT among them, and each time whole tables
are compared. Then it is run undisturbed, and must make its change in one COMMIT.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import event
from sqlalchemy.engine import make_url

from reviewqueue import seams
from reviewqueue.db import db
from tests.fire.halves import half_done

Act = Callable[[], object]
Rows = dict[str, list[str]]


class Broken(AssertionError):
    """A state change left something behind, or was answered although nothing was stored."""


class Tables:
    """Reads all tables of a database through a connection of its own."""

    def __init__(self, url: str, without: Iterable[str] = ()) -> None:
        self.without = set(without)
        self.live: Any
        if url.startswith("sqlite"):
            self.live = sqlite3.connect(make_url(url).database or "", isolation_level=None)
            names = "SELECT name FROM sqlite_master WHERE type = 'table'"
        else:
            self.live = psycopg.connect(url.replace("+psycopg", ""), autocommit=True)
            names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        self.names = sorted(name for (name,) in self.live.execute(names) if name not in self.without)

    def read(self) -> Rows:
        """Every row of every table."""
        if isinstance(self.live, psycopg.Connection):  # all in one journey
            one = "SELECT '{0}', array(SELECT t::text FROM \"{0}\" t ORDER BY 1)"
            return dict(self.live.execute(" UNION ALL ".join(one.format(name) for name in self.names)))  # type: ignore[call-overload]
        return {name: sorted(map(repr, self.live.execute(f'SELECT * FROM "{name}"'))) for name in self.names}

    def close(self) -> None:
        self.live.close()


def before_or_after(
    act: Act,
    tables: Tables,
    acknowledged: Callable[[Any], object] | None = None,
    every: int = 1,
    commits: int = 1,
) -> int:
    """Interrupt `act` at each of its statements; Broken says where it is neither before nor after.

    `acknowledged` tells of what `act` returned whether it says yes; without it returning is a yes. The
    process is ended at every `every`-th statement. Undisturbed it makes `commits` COMMITs, of which the first
    one matters. Returns how many statements there are.
    """
    says_yes: Callable[[Any], object] = acknowledged or (lambda _answer: True)
    before = tables.read()
    _statements(act, tables)  # from now on the process knows what it keeps in memory
    count = _statements(act, tables)
    for number in range(1, count + 1):
        if _failing(act, number, says_yes):
            raise Broken(f"statement {number} of {count} failed, and it was answered as done")
        _same(before, tables.read(), f"after statement {number} of {count} failed")
        if number % every == 0 or number == count:
            _dying(act, number)
            _same(before, tables.read(), f"after the process ended at statement {number} of {count}")
    with _commits() as made:
        if not says_yes(act()):
            raise Broken("undisturbed it does not succeed")
    if made() != commits or tables.read() == before:
        raise Broken(f"undisturbed it changes nothing, or not at once: {made()} COMMITs")
    if left := half_done():
        raise Broken(f"undisturbed it is half done: {left}")
    return count


def _statements(act: Act, tables: Tables) -> int:
    """How many statements `act` sends up to its COMMIT, which is kept from happening."""
    before = tables.read()
    reached: list[int] = []
    with seams.fault(db.engine, "fail", 0) as count:

        def refuse(_connection: object) -> None:
            reached.append(count())
            raise seams.Fault

        event.listen(db.engine, "commit", refuse)
        try:
            _, answer = _try(act)
        finally:
            event.remove(db.engine, "commit", refuse)
    if not reached:
        raise Broken(f"it commits nothing: {answer!r}")
    _same(before, tables.read(), "without a COMMIT")
    return reached[0]


def _failing(act: Act, number: int, says_yes: Callable[[Any], object]) -> bool:
    with seams.fault(db.engine, "fail", number) as seen:
        answered, answer = _try(act)
        if seen() < number:
            raise Broken(f"it did not come to statement {number}")
    return answered and bool(says_yes(answer))


def _try(act: Act) -> tuple[bool, Any]:
    try:
        return True, act()
    except Exception as error:
        return False, error
    finally:
        db.session.remove()


def _dying(act: Act, number: int) -> None:
    """Run `act` in a process that ends at this statement, without a word to the database."""
    db.session.remove()
    db.engine.dispose()
    child = os.fork()
    if child == 0:
        try:
            with seams.fault(db.engine, "exit", number):
                act()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != seams.EXIT_STATUS:
        raise Broken(f"the process did not reach statement {number}")


@contextmanager
def _commits() -> Iterator[Callable[[], int]]:
    """Count the COMMITs of this block."""
    done = 0

    def count(_connection: object) -> None:
        nonlocal done
        done += 1

    event.listen(db.engine, "commit", count)
    try:
        yield lambda: done
    finally:
        event.remove(db.engine, "commit", count)


def _same(before: Rows, after: Rows, when: str) -> None:
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        raise Broken(f"{when} these tables are not as before: {', '.join(changed)}")
