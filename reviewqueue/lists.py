"""What the pages with long lists share: filters in the address, and the next page by key, never by number.

A filter is one of the names a page allows; nothing else in the address may reach a query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

from flask import request
from sqlalchemy import Select

from reviewqueue.db import db
from reviewqueue.errors import Invalid
from reviewqueue.ids import is_id

Row = TypeVar("Row")
PAGE = 50
LONGEST = 200  # characters of a filter; nothing that is filtered by is longer


@dataclass(frozen=True)
class Listed(Generic[Row]):
    """One page of a list: its rows, and the addresses of the next page and of the first one."""

    rows: Sequence[Row]
    next: str | None
    first: str | None


def asked(*names: str) -> dict[str, str]:
    """The filters in the address among `names`, one value each; blank ones are left out."""
    given = {name: request.args.get(name, "").strip()[:LONGEST] for name in names}
    return {name: value for name, value in given.items() if value and value.isprintable()}


def chosen(given: Mapping[str, str], name: str, words: Sequence[str]) -> str | None:
    """The word chosen for filter `name`; None when it is not set, Invalid when it is none of `words`."""
    word = given.get(name)
    if word is not None and word not in words:
        raise Invalid(f"{name} is one of {', '.join(words)}.", field=name)
    return word


def day(given: Mapping[str, str], name: str, *, end: bool = False) -> datetime | None:
    """The instant at which the day in filter `name` (YYYY-MM-DD, UTC) begins, or with `end` is over."""
    if name not in given:
        return None
    try:
        begins = datetime.combine(date.fromisoformat(given[name]), datetime.min.time(), UTC)
        return begins + timedelta(days=1) if end else begins
    except (ValueError, OverflowError):
        raise Invalid(f"{name} is a day such as 2026-11-20.", field=name) from None


def listed(
    query: Select[*tuple[Any, ...]],
    key: Any,
    given: Mapping[str, str],
    read: Callable[[str], Any],
) -> Listed[Any]:
    """The page of `query` that the address asks for, greatest `key` first.

    `key` is the unique column, first in each row, that the list is ordered by; `read` turns the address's
    cursor into a value of it, or raises ValueError.
    """
    cursor = request.args.get("cursor")
    if cursor is not None:
        try:
            query = query.where(key < read(cursor))
        except (ValueError, OverflowError):
            raise Invalid("This page does not exist; begin at the first.", field="cursor") from None
    found = db.session.execute(query.order_by(key.desc()).limit(PAGE + 1)).all()
    rows = found[:PAGE]
    more = len(found) > PAGE
    return Listed(
        rows,
        address(given, cursor=str(getattr(rows[-1][0], key.key))) if more else None,
        address(given) if cursor is not None else None,
    )


def address(given: Mapping[str, str], **more: str) -> str:
    """This page's address with these filters and no others."""
    return address_of(request.path, {**given, **more})


def address_of(path: str, given: Mapping[str, str]) -> str:
    """The address of the list at `path` with these filters."""
    return f"{path}?{urlencode(given)}" if given else path


@dataclass(frozen=True)
class Chip:
    """A filter in force, in words, and this page's address without it."""

    label: str
    value: str
    without: str


def chips(given: Mapping[str, str], labels: Mapping[str, str], told: Callable[[str, str], str]) -> list[Chip]:
    """The filters in force that have a label; `told` puts a filter's value into words."""
    return [
        Chip(labels[name], told(name, value), address({n: v for n, v in given.items() if n != name}))
        for name, value in given.items()
        if name in labels
    ]


def id_cursor(prefix: str) -> Callable[[str], str]:
    """Reads a cursor that is an id with this prefix."""

    def read(text: str) -> str:
        if not is_id(prefix, text):
            raise ValueError
        return text

    return read


def number_cursor(text: str) -> int:
    """Reads a cursor that is a whole number."""
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise ValueError
    return int(text)
