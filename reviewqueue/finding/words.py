"""The full-text index of items: FTS5 on SQLite, tsvector on PostgreSQL, one interface.

An item is indexed as one bag of words of three sorts, which no text can mix up: what was submitted, what
people said about it (`_word`), and facts (`__word`). A user's text must never reach the index's query
language: only single words do, quoted. It knows no order: who asks for a phrase has to look at the texts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, TableClause, Text, cast, column, literal, literal_column
from sqlalchemy import table as named
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import TSQUERY
from sqlalchemy.orm import Session

from reviewqueue.db import db, joined
from reviewqueue.errors import Invalid
from reviewqueue.text import phrase, unspaced, words

MOST_ASKED = 12  # words of one question
SHORTEST = 3  # letters of the beginning of a word; fewer would be half of all words

_QUOTES = str.maketrans(dict.fromkeys("“”„‟″«»", '"'))
_PART = re.compile(r'"([^"]*)"?|([^"\s]+)')

# Made by a migration, in each database's own words.
_SQLITE = named("search_item", column("rowid", BigInteger), column("words"))
_POSTGRESQL = named("search_item", column("number", BigInteger), column("words"))
_PUT = {
    "sqlite": (
        "DELETE FROM search_item WHERE rowid = :number",
        "INSERT INTO search_item (rowid, words) VALUES (:number, :words)",
    ),
    "postgresql": (
        "INSERT INTO search_item (number, words)"
        " VALUES (:number, array_to_tsvector(string_to_array(:words, ' ')))"
        " ON CONFLICT (number) DO UPDATE SET words = excluded.words",
    ),
}


def bag(submitted: str, said: str, facts: Iterable[str]) -> str:
    """What is indexed for an item: the words of both texts, and facts such as `s_pending`."""
    told = {f"_{word}" for word in words(said)}
    return " ".join([*dict.fromkeys(words(submitted)), *sorted(told), *(f"__{fact}" for fact in facts)])


def put(bags: Mapping[int, str]) -> None:
    """Index items by their numbers, in the caller's transaction; known ones are indexed anew."""
    rows = [{"number": number, "words": words} for number, words in bags.items()]
    if rows:
        for statement in _PUT[_dialect(joined())]:
            joined().execute(sql(statement), rows)


@dataclass(frozen=True)
class Asked:
    """The words of a question, each once (`word*`: one that begins so), and the phrases they have to form."""

    words: tuple[str, ...] = ()
    phrases: tuple[re.Pattern[str], ...] = ()


def asked(question: str) -> Asked:
    """What a question asks for: at most twelve words, `"exact phrases"` and `begin*` among them.

    Every other sign only parts words. Invalid for too short a beginning.
    """
    wanted: dict[str, None] = {}
    phrases = []
    for quoted, bare in _PART.findall(question.translate(_QUOTES)):
        found = words(quoted or bare)
        if bare.endswith("*") and found:
            if len(found[-1]) < SHORTEST and not unspaced(found[-1]):
                raise Invalid("Write at least three letters before the *.", field="text")
            found[-1] += "*"
        pattern = phrase(quoted) if len(found) > 1 and quoted else None
        phrases += [pattern] if pattern else []
        wanted |= dict.fromkeys(found)
    return Asked(tuple(wanted)[:MOST_ASKED], tuple(phrases))


def index() -> tuple[TableClause, ColumnElement[int]]:
    """The index as something to select from, and its column of item numbers."""
    if _dialect(db.session()) == "sqlite":
        return _SQLITE, _SQLITE.c.rowid
    return _POSTGRESQL, _POSTGRESQL.c.number


def holds(question: Sequence[str], facts: Iterable[str], *, said: bool) -> ColumnElement[bool]:
    """That an indexed item holds every word of `question` (see `Asked`) and every one of `facts`.

    With `said`, a word may also stand in what people said about the item.
    """
    sqlite = _dialect(db.session()) == "sqlite"
    quote, either, both, begins = ('"{}"', " OR ", " AND ", "*") if sqlite else ("'{}'", " | ", " & ", ":*")

    def term(word: str) -> str:
        return quote.format(word.rstrip("*")) + (begins if word.endswith("*") else "")

    def one(word: str) -> str:
        return f"({term(word)}{either}{term('_' + word)})" if said else term(word)

    query = both.join([*map(one, question), *(quote.format(f"__{fact}") for fact in facts)])
    asked_for: Any = literal(query, Text)
    if sqlite:
        return literal_column("search_item").op("MATCH", is_comparison=True)(asked_for)
    return _POSTGRESQL.c.words.op("@@", is_comparison=True)(cast(asked_for, TSQUERY))


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name
