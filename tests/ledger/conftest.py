"""A ledger with a story in it, and the means to forge it as somebody with the database could."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text

from reviewqueue.db import db, dumps, now, transaction
from reviewqueue.ids import new_id
from reviewqueue.ledger.entries import decision_facts, decision_parts, undo_facts
from reviewqueue.ledger.record import Recorded, record
from reviewqueue.models import Decision, Item, LedgerEntry
from reviewqueue.models.ledger import LedgerHead


class Story:
    """Items of one project and what was decided for them; remembers the seq of every decision's entry."""

    def __init__(self, make: Any) -> None:
        self.project = make.project().id
        self.backend = make.backend_actor_id
        self.ada, self.cleo = make.person("ada"), make.person("cleo")
        self.seq: dict[str, int] = {}

    def item(self) -> Item:
        """An item that waits."""
        with transaction() as session:
            item = Item(
                id=new_id("itm"), project_id=self.project, backend_id=self.backend, content_sha256="0" * 64,
                created_at=now(), status="pending", output="It left on Monday.", input="Where is it?",
                policy_version=1, route="review", route_reasons=[], eligible=True, passed=False,
                review_probability=1.0, floor_probability=0.1, coin=0.5, sampled=False,
            )  # fmt: skip
            session.add(item)
        return item

    def decide(self, item: Item | None = None, **fields: Any) -> Decision:
        """A decision with its entry, as settling writes it."""
        item = item or self.item()
        with transaction() as session:
            item = session.merge(item)
            moment = now()
            given: dict[str, Any] = {
                "id": new_id("dec"), "item_id": item.id, "project_id": self.project, "round": item.round,
                "source": "review", "verdict": "approve", "released": True, "output": item.output,
                "edited": False, "decided_by": self.ada.id, "decided_at": moment,
                "final_at": moment + timedelta(seconds=10), "policy_version": 1, "sequence": 1,
            }  # fmt: skip
            decision = Decision(**(given | fields))
            if decision.supersedes:
                session.get_one(Decision, decision.supersedes).superseded_at = decision.decided_at
                session.flush()
            session.add(decision)
            parts = {"in": dumps(item.input), "shown": dumps(item.output)} | decision_parts(decision)
            facts = {"backend": item.backend_id, "queue": "main", "token": 1, "dwell_ms": 8421}
            recorded = record("decision", decision_facts(decision) | facts, parts=parts)
            self.seq[decision.id] = recorded.seq
        return decision

    def override(self, earlier: Decision, **fields: Any) -> Decision:
        """A lead's decision over an earlier one."""
        item = db.session.query(Item).filter_by(id=earlier.item_id).one()
        fields = {"source": "override", "supersedes": earlier.id, "decided_by": self.cleo.id} | fields
        return self.decide(item, round=earlier.round + 1, sequence=2, **fields)

    def undo(self, decision: Decision) -> Recorded:
        """Take a decision back; one that it superseded holds again."""
        with transaction() as session:
            decision = session.merge(decision)
            decision.undone_at = now()
            session.flush()
            if decision.supersedes:
                session.get_one(Decision, decision.supersedes).superseded_at = None
            return record("undo", undo_facts(decision), actor=decision.decided_by)

    def end(self) -> int:
        """The seq of the last entry."""
        db.session.rollback()
        return db.session.get_one(LedgerHead, 1).size - 1


@pytest.fixture
def story(make: Any) -> Story:
    backend = make.backend(make.project()).backend
    make.backend_actor_id = backend.id
    return Story(make)


TABLES = ("item", "decision", "ledger_head", "ledger_entry", "ledger_part")


class Forger:
    """Somebody with all rights on the database and without the ledger key."""

    def __init__(self) -> None:
        self.engine = create_engine(db.engine.url)  # plain: on SQLite without foreign keys

    def drop_guards(self) -> None:
        """Remove what protects the tables first, as such a person would."""
        if self.engine.dialect.name == "sqlite":
            names = self.rows("SELECT name FROM sqlite_master WHERE type = 'trigger'")
            self.run(*(f"DROP TRIGGER {row.name}" for row in names))
            return
        names = self.rows(
            "SELECT tgname AS name, tgrelid::regclass AS place FROM pg_trigger WHERE tgname LIKE 'ledger_%'"
        )
        assert names
        self.run(*(f"DROP TRIGGER {row.name} ON {row.place}" for row in names))
        keys = self.rows(
            "SELECT conname AS name FROM pg_constraint "
            "WHERE contype = 'f' AND conrelid = 'ledger_part'::regclass"
        )
        self.run(*(f"ALTER TABLE ledger_part DROP CONSTRAINT {row.name}" for row in keys))

    def run(self, *statements: str, **values: Any) -> None:
        """Change the database behind the application's back."""
        db.session.rollback()
        with self.engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement), values)

    def keep(self) -> None:
        """Remember how things are now, for `restore`."""
        self.run(*(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}" for table in TABLES))

    def restore(self) -> None:
        """Put everything back as it was."""
        self.run(
            *(f"DELETE FROM {table}" for table in reversed(TABLES)),
            *(f"INSERT INTO {table} SELECT * FROM kept_{table}" for table in TABLES),
        )

    def rows(self, statement: str, **values: Any) -> list[Any]:
        """What the database holds."""
        db.session.rollback()
        return list(db.session.execute(text(statement), values).all())

    def body(self, seq: int) -> bytes:
        db.session.rollback()
        return db.session.get_one(LedgerEntry, seq).body


@pytest.fixture
def forger(story: Story) -> Iterator[Forger]:
    forger = Forger()
    yield forger
    forger.engine.dispose()


@pytest.fixture
def stopping() -> Any:
    """`for n in stopping(verb)`: the verb was stopped at its n-th statement; ends once it got through."""

    def run(verb: Callable[[], Any]) -> Iterator[int]:
        for number in itertools.count(1):
            numbers = itertools.count(1)

            def stop(*_: Any, numbers: Iterator[int] = numbers, number: int = number) -> None:
                if next(numbers) == number:
                    raise ConnectionError("stopped here")

            event.listen(db.engine, "before_cursor_execute", stop)
            try:
                verb()
                return
            except ConnectionError:
                pass
            finally:
                event.remove(db.engine, "before_cursor_execute", stop)
            yield number

    return run
