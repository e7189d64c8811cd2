"""JSON as everybody reads it alike: what parsers disagree about is refused, with a pointer to it.

Refused are repeated keys, NaN and infinities, numbers beyond ±(2^53 - 1), NUL, halves of surrogate pairs,
more than 32 levels and more than 1,000 keys in an object. Must never quote what was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice, takewhile
from typing import Any

from reviewqueue.errors import Fault, Invalid

MAX_DEPTH = 32
MAX_KEYS = 1000
MAX_NUMBER = 2**53 - 1
MAX_FAULTS = 20

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")


class _Bad:
    """Stands in the parsed value where something must not be; a walk finds its pointer."""

    def __init__(self, message: str) -> None:
        self.message = message


def loads(data: bytes) -> Any:
    """The value of a JSON text in UTF-8; Invalid with a JSON pointer to each fault."""
    value, doubtful = _read(data)
    if doubtful:
        _refuse(value)
    return value


def loads_entries(data: bytes, name: str) -> tuple[Any, dict[int, Invalid]]:
    """`loads` for an object whose list `name` holds entries that stand for themselves.

    Returns the object, and the refusal of each entry that has faults, with pointers into the entry; those
    entries are null. Faults anywhere else refuse the whole.
    """
    value, doubtful = _read(data)
    refusals: dict[int, Invalid] = {}
    if doubtful:
        entries = value.get(name) if isinstance(value, dict) else None
        for place, entry in enumerate(entries if isinstance(entries, list) else ()):
            # Two levels deeper than by itself: what is too deep here is counted from where it stands.
            faults = list(islice(_faults(entry, (), MAX_DEPTH - 2), MAX_FAULTS))
            if faults:
                refusals[place] = _refused(faults, "it")
                entries[place] = None  # type: ignore[index]  # it is a list: it was counted
        _refuse(value)
    return value, refusals


def _read(data: bytes) -> tuple[Any, bool]:
    """The parsed text, and whether there may be faults in it: most bodies have nothing to look for, and
    looking costs more than parsing."""
    reader = _Reader()
    try:
        text = data.decode()
        value = reader.read(text)
    except UnicodeDecodeError:
        raise _refused([{"pointer": "", "message": "is not UTF-8"}]) from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise _refused([{"pointer": "", "message": f"is not JSON: {error.msg} ({where})"}]) from None
    except RecursionError:
        raise _refused([{"pointer": "", "message": f"is nested deeper than {MAX_DEPTH}"}]) from None
    deep = text.count("[") + text.count("{") > MAX_DEPTH and _too_deep(value)
    return value, bool(reader.found or deep or _ESCAPED.search(text))


def _refuse(value: Any) -> None:
    faults = list(islice(_faults(value, ()), MAX_FAULTS))
    if faults:
        raise _refused(faults)


def _refused(faults: list[Fault], whole: str = "the body") -> Invalid:
    first = faults[0]
    where = first["pointer"] or whole
    return Invalid(f"{where} {first['message']}", "invalid_json", errors=faults)


class _Reader:
    """Parses one text and plants a `_Bad` wherever the parser itself sees a fault."""

    def __init__(self) -> None:
        self.found = False

    def read(self, text: str) -> Any:
        return json.loads(
            text,
            object_pairs_hook=self._object,
            parse_int=self._integer,
            parse_float=self._float,
            parse_constant=lambda _name: self._bad("is no finite number"),
        )

    def _bad(self, message: str) -> _Bad:
        self.found = True
        return _Bad(message)

    def _object(self, pairs: list[tuple[str, Any]]) -> Any:
        if len(pairs) > MAX_KEYS:
            return self._bad(f"has more than {MAX_KEYS} keys")
        value = dict(pairs)
        if len(value) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    value[key] = self._bad("stands there twice")
                seen.add(key)
        return value

    def _integer(self, text: str) -> Any:
        if len(text) < 16:
            return int(text)
        if len(text) > 17 or abs(int(text)) > MAX_NUMBER:
            return self._bad(f"is beyond ±{MAX_NUMBER}; send it as a text")
        return int(text)

    def _float(self, text: str) -> Any:
        number = float(text)
        if not -MAX_NUMBER <= number <= MAX_NUMBER:
            return self._bad(f"is beyond ±{MAX_NUMBER}; send it as a text")
        return number


def _too_deep(value: Any) -> bool:
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


def _faults(value: Any, place: tuple[str | int, ...], depth: int = MAX_DEPTH) -> Iterator[Fault]:
    if isinstance(value, _Bad):
        yield _fault(place, value.message)
    elif isinstance(value, str):
        if _UNSTORABLE.search(value):
            yield _fault(place, "holds a NUL character or half a character")
    elif isinstance(value, dict | list):
        if len(place) >= depth:
            yield _fault(place, f"is nested deeper than {MAX_DEPTH}")
            return
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            if isinstance(step, str) and _UNSTORABLE.search(step):
                yield _fault(place, "has a key with a NUL character or half a character")
            yield from _faults(inner, (*place, step), depth)


def _fault(place: tuple[str | int, ...], message: str) -> Fault:
    return {"pointer": pointer(place), "message": message}


def pointer(place: Iterable[str | int]) -> str:
    """The JSON pointer (RFC 6901) of a place.

    It stops short of a key that is no plain name: what was sent is not repeated in an answer.
    """
    plain = takewhile(_PLAIN_KEY.fullmatch, map(str, place))
    return "".join(f"/{step}" for step in plain)
