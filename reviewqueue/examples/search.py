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

from reviewqueue.db import db, joined
from reviewqueue.text import words

RAREST = 12  # words of the question that are asked for; the common ones tell little and cost most
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
    for key, _, body in _matching(session, _word(scope), {_word(owner): 1.0}):
        column = "rowid" if _sqlite(session) else "owner"
        session.execute(text(f"DELETE FROM search_document WHERE {column} = :key"), {"key": key})
        _count(session, scope, body.split(" ")[2:], -1)


def nearest(scope: str, content: str, limit: int = CANDIDATES) -> list[Hit]:
    """The documents of `scope` that share the rarest words of `content`, nearest first, at most 50.

    The score is the weighted Jaccard index of both word sets, a word weighing ln(1 + N/n) by the number n
    of documents it stands in (inverse document frequency: Spaerck Jones 1972).
    """
    asked = frozenset(words(content))
    session = db.session()
    weights = _weights(session, scope, asked)
    if not weights:
        return []
    rarest = dict(sorted(weights.items(), key=lambda pair: (-pair[1], pair[0]))[:RAREST])
    usual = sum(weights.values()) / len(weights)
    hits = []
    for _, owner, body in _matching(session, _word(scope), rarest):
        held = frozenset(body.split(" ")[2:])
        shared = sum(weights[word] for word in asked & held)
        every = sum(weights.get(word, usual) for word in asked) + usual * len(held - asked)
        hits.append(Hit(owner, shared / every, held))
    return sorted(hits, key=lambda hit: (-hit.score, hit.owner))[:limit]


def likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """The Jaccard index of two word sets, 0..1."""
    return len(one & other) / len(one | other) if one | other else 1.0


def _word(name: str) -> str:
    """A scope or an id as one word that no text contains: ids are long and random."""
    return "".join(character for character in name if character.isalnum())


def _sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"


def _weights(session: Session, scope: str, asked: frozenset[str]) -> dict[str, float]:
    """The weight of each asked word that some document holds."""
    if not asked:
        return {}
    names = {f"t{number}": word for number, word in enumerate(sorted(asked))}
    listed = ", ".join(f":{name}" for name in names)
    rows = session.execute(
        text(f"SELECT term, documents FROM search_term WHERE scope = :scope AND term IN ({listed}, '')"),
        {"scope": scope, **names},
    )
    counts = {term: count for term, count in rows if count > 0}
    total = counts.pop("", 0)  # the empty word counts the documents
    return {term: math.log1p(total / count) for term, count in counts.items()}


def _matching(session: Session, scope: str, weights: dict[str, float]) -> list[Row[str, str, str]]:
    """(key to delete by, owner, body) of the best candidates holding `scope` and any of the words."""
    quoted = {word: f'"{word}"' if _sqlite(session) else f"'{word}'" for word in weights}
    if _sqlite(session):
        query = f'"{scope}" AND ({" OR ".join(quoted.values())})'
        found = text(
            "SELECT rowid, owner, body FROM search_document WHERE search_document MATCH :query"
            f" ORDER BY rank LIMIT {CANDIDATES}"
        )
        return list(session.execute(found, {"query": query}).all())
    values: dict[str, object] = {"query": f"'{scope}' & ({' | '.join(quoted.values())})"}
    terms = []
    for number, (word, weight) in enumerate(weights.items()):
        values |= {f"q{number}": quoted[word], f"w{number}": weight}
        terms.append(f"CASE WHEN words @@ CAST(:q{number} AS tsquery) THEN :w{number} ELSE 0 END")
    found = text(
        "SELECT owner AS key, owner, body FROM search_document WHERE words @@ CAST(:query AS tsquery)"
        f" ORDER BY {' + '.join(terms)} DESC, owner LIMIT {CANDIDATES}"
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
