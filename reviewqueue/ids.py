"""Identifiers: a prefix that says what it names, then 26 characters that sort by time of birth."""

from __future__ import annotations

import os
import re
import secrets
import time
from contextvars import ContextVar
from datetime import datetime

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [one + other for one in _ALPHABET for other in _ALPHABET]
_SHAPE = re.compile(r"[a-z]{3}_[0-9a-hjkmnp-tv-z]{26}")

# Of the request that is being answered; what it causes elsewhere carries it on.
request_id: ContextVar[str | None] = ContextVar("request_id", default=None)


def new_id(prefix: str) -> str:
    """`prefix` + "_" + 48 bits of milliseconds and 80 random bits in Crockford's base 32, lower case.

    Ids of later milliseconds sort after earlier ones, so a page "newest first" needs no second column.
    """
    return _written(prefix, time.time_ns() // 1_000_000, int.from_bytes(os.urandom(10)))


def first_id(prefix: str, moment: datetime) -> str:
    """The least id of those made at `moment` or later: an index by id then finds what is that young."""
    return _written(prefix, max(0, int(moment.timestamp() * 1000)), 0)


def _written(prefix: str, milliseconds: int, rest: int) -> str:
    number = milliseconds << 80 | rest
    return prefix + "_" + "".join([_PAIRS[(number >> shift) & 1023] for shift in range(120, -1, -10)])


def is_id(prefix: str, text: str) -> bool:
    """Whether `text` has the shape of an id with this prefix."""
    return text.startswith(prefix + "_") and _SHAPE.fullmatch(text) is not None


def new_token() -> str:
    """An unguessable URL-safe token of 256 bits."""
    return secrets.token_urlsafe(32)
