"""The full-text index: FTS5 on SQLite, tsvector on PostgreSQL, one interface.

A document belongs to a scope ("example:prj_…"). Scope and owner are indexed as words of their own, so that
one lookup finds them. Its tables are made by a migration in each database's own words. A user's text must
never reach the index's query language: only single words do, quoted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from reviewqueue.db import db, dumps, joined
from reviewqueue.text import words

RAREST = 12  # words of the question that are asked for; the common ones tell little and cost most
LOOKED_AT = 2000  # documents, over all these words
CANDIDATES = 50


@dataclass(frozen=True)
class Hit:
    """A document near to the question; `score` is 0..1, 1 when both hold the same words."""

    owner: str
    score: float
    words: frozenset[str]


def add(scope: str, owner: str, content: str) -> None:
    """Index `content` under `owner` in the caller's transaction; a known owner is indexed anew."""
    remove(scope, owner)
    session = joined()
    found = words(content)
    session.execute(
        text("INSERT INTO search_document (owner, body) VALUES (:owner, :body)"),
        {"owner": owner, "body": " ".join([_word(scope), _word(owner), *found])},
    )
    _count(session, scope, found, 1)


def remove(scope: str, owner: str) -> None:
    """Take `owner` out of the index, in the caller's transaction; nothing happens when it is not there."""
    session = joined()
    for key, _, body in _best(session, _word(scope), {_word(owner): (1.0, 1)}):
        column = "rowid" if _sqlite(session) else "owner"
        session.execute(text(f"DELETE FROM search_document WHERE {column} = :key"), {"key": key})
        _count(session, scope, body.split(" ")[2:], -1)


def nearest(scope: str, content: str, limit: int = CANDIDATES) -> list[Hit]:
    """The documents of `scope` that share the rarest words of `content`, nearest first, at most 50.

    The score is the weighted Jaccard index of both word sets, a word weighing ln(1 + N/n) by the number n
    of documents it stands in (inverse document frequency: Spaerck Jones 1972). Of a word that stands in very
    many documents only the newest are looked at, so that the time does not grow with their number.
    """
    asked = frozenset(words(content))
    session = db.session()
    weights = _weights(session, scope, asked)
    if not weights:
        return []
    usual = sum(weight for weight, _ in weights.values()) / len(weights)
    worth = {word: weights[word][0] if word in weights else usual for word in asked}
    whole = sum(worth.values())
    hits = []
    for _, owner, body in _best(session, _word(scope), _rarest(weights)):
        held = frozenset(body.split(" ")[2:])
        shared = sum(worth[word] for word in held & asked)
        hits.append(Hit(owner, shared / (whole + usual * len(held - asked)), held))
    return sorted(hits, key=lambda hit: (-hit.score, hit.owner))[:limit]


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """The Jaccard index of two word sets, 0..1."""
    return len(one & other) / len(one | other) if one | other else 1.0


def _word(name: str) -> str:
    """A scope or an id as one word that no text contains: ids are long and random."""
    return "".join(character for character in name if character.isalnum())


def _sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"


def _weights(session: Session, scope: str, asked: frozenset[str]) -> dict[str, tuple[float, int]]:
    """The weight of each asked word that some document holds, and how many do."""
    if not asked:
        return {}
    terms: object = [*sorted(asked), ""]
    if _sqlite(session):
        listed, terms = "IN (SELECT value FROM json_each(:terms))", dumps(terms)
    else:
        listed = "= ANY(:terms)"
    rows = session.execute(
        text(f"SELECT term, documents FROM search_term WHERE scope = :scope AND term {listed}"),
        {"scope": scope, "terms": terms},
    )
    counts = {term: count for term, count in rows if count > 0}
    total = counts.pop("", 0)  # the empty word counts the documents
    return {term: (math.log1p(total / count), count) for term, count in counts.items()}


def _rarest(weights: dict[str, tuple[float, int]]) -> dict[str, tuple[float, int]]:
    """The words to ask for, each with its weight and how many documents holding it are looked at."""
    chosen, left = {}, LOOKED_AT
    for word, (weight, count) in sorted(weights.items(), key=lambda pair: (pair[1][1], pair[0]))[:RAREST]:
        chosen[word] = weight, min(count, left)
        left -= min(count, left)
        if not left:
            break
    return chosen


def _best(session: Session, scope: str, asked: dict[str, tuple[float, int]]) -> list[Row[str, str, str]]:
    """(key to delete by, owner, body) of the documents of `scope` whose words weigh most, best first."""
    sqlite = _sqlite(session)
    key = "rowid" if sqlite else "owner"
    one = (
        "SELECT rowid AS key, :w{0} AS weight FROM search_document WHERE search_document MATCH :q{0}"
        " ORDER BY rowid DESC LIMIT :n{0}"
        if sqlite
        else "SELECT owner AS key, CAST(:w{0} AS float) AS weight FROM search_document"
        " WHERE words @@ CAST(:q{0} AS tsquery) LIMIT :n{0}"
    )
    values: dict[str, object] = {}
    for number, (word, (weight, count)) in enumerate(asked.items()):
        query = f'"{scope}" AND "{word}"' if sqlite else f"'{scope}' & '{word}'"
        values |= {f"q{number}": query, f"w{number}": weight, f"n{number}": count}
    each = " UNION ALL ".join(
        f"SELECT * FROM ({one.format(number)}) AS t{number}" for number in range(len(asked))
    )
    found = text(
        f"WITH best AS (SELECT key, sum(weight) AS weight FROM ({each}) AS every"
        f" GROUP BY key ORDER BY 2 DESC, key DESC LIMIT {CANDIDATES})"
        f" SELECT best.key, owner, body FROM best JOIN search_document ON search_document.{key} = best.key"
    )
    return list(session.execute(found, values).all())


def _count(session: Session, scope: str, found: list[str], change: int) -> None:
    """Count one document more or less for each word; in one order, so that writers never deadlock."""
    session.execute(
        text(
            "INSERT INTO search_term (scope, term, documents) VALUES (:scope, :term, :change)"
            " ON CONFLICT (scope, term) DO UPDATE SET documents = search_term.documents + excluded.documents"
        ),
        [{"scope": scope, "term": term, "change": change} for term in ["", *sorted(set(found))]],
    )
