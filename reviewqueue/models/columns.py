"""Column shorthands the tables share."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import JSON, BigInteger, CheckConstraint, Integer

# JSON kept as text on both databases, SQL NULL for None.
Json = JSON(none_as_null=True)

# Counts upwards by itself on both databases (SQLite only does so for INTEGER).
Counter = BigInteger().with_variant(Integer(), "sqlite")


def one_of(column: str, words: Sequence[str]) -> CheckConstraint:
    """A named CHECK that `column` holds one of `words` (or NULL where the column allows it)."""
    listed = ", ".join(f"'{word}'" for word in words)
    return CheckConstraint(f"{column} IN ({listed})", name=column)
