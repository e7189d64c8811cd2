"""Whether an output is one of its project's kind; JSON read strictly.

Messages never quote the output: they end up in answers and logs. Must never raise on an output.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

from reviewqueue.content.schema import MAX_FAULTS, against, pointer_to
from reviewqueue.errors import Fault, Invalid

MAX_DEPTH = 32  # containers in containers
ROLES = ("system", "developer", "user", "assistant", "tool")

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def check(kind: str, schema: Any, output: Any) -> list[Fault]:
    """What keeps `output` from being one of `kind` under `schema`, with pointers into it; empty: it fits.

    `schema` counts for json, tool_call (the whole call) and label alone; None asks nothing.
    """
    faults = list(islice(_unfit_values(output), MAX_FAULTS)) or list(_misshapen(kind, output))[:MAX_FAULTS]
    if faults or schema is None or kind not in ("json", "tool_call", "label"):
        return faults
    return against(schema, output)


def strict_json(text: str, field: str = "output") -> Any:
    """`text` as JSON, or Invalid naming `field`: no repeated keys, NaN, infinities, NUL, lone surrogates."""
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise Invalid(f"This is not JSON: {error.msg} ({where}).", field=field) from None
    except RecursionError:
        raise Invalid(f"This JSON is nested deeper than {MAX_DEPTH}.", field=field) from None
    except ValueError as error:
        raise Invalid(f"This JSON cannot be used: {_reason(error)}.", field=field) from None
    for fault in _unfit_values(value):
        raise Invalid(
            f"This JSON cannot be used: {fault['pointer'] or 'it'} {fault['message']}.", field=field
        )
    return value


class _Refused(ValueError):
    """A reason of our own; other ValueErrors may quote the text."""


def _reason(error: ValueError) -> str:
    return str(error) if isinstance(error, _Refused) else "it holds a number with too many digits"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Refused("an object has the same key twice")
    return found


def _no_constant(name: str) -> Any:
    raise _Refused(f"{name} is no JSON number")


def _unfit_values(output: Any) -> Iterator[Fault]:
    """What no store and no receiver takes: NUL, lone surrogates, numbers without end, bottomless nesting."""
    waiting: list[tuple[str, Any, int]] = [("", output, 0)]
    while waiting:
        pointer, value, depth = waiting.pop()
        if depth >= MAX_DEPTH and isinstance(value, dict | list):
            yield {"pointer": pointer, "message": f"is nested deeper than {MAX_DEPTH}"}
        elif isinstance(value, str) and not _storable(value):
            yield {"pointer": pointer, "message": "holds a NUL character or half a character"}
        elif isinstance(value, float) and not math.isfinite(value):
            yield {"pointer": pointer, "message": "is no finite number"}
        elif isinstance(value, dict):
            if not all(map(_storable, value)):
                yield {"pointer": pointer, "message": "has a key with a NUL character or half a character"}
            else:
                waiting += [(pointer_to(pointer, key), inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(pointer_to(pointer, place), inner, depth + 1) for place, inner in enumerate(value)]


def _storable(text: str) -> bool:
    # Looking through a text for a set of characters takes longer than all else that is asked of it.
    return "\x00" not in text if text.isascii() else _UNSTORABLE.search(text) is None


def _misshapen(kind: str, output: Any) -> Iterator[Fault]:
    if kind in ("text", "markdown", "label"):
        if not isinstance(output, str):
            yield {"pointer": "", "message": "must be text"}
    elif kind == "json":
        if not isinstance(output, dict | list):
            yield {"pointer": "", "message": "must be an object or a list"}
    elif kind == "tool_call":
        yield from _misshapen_call(output)
    elif kind == "chat":
        yield from _misshapen_chat(output)


def _misshapen_call(output: Any) -> Iterator[Fault]:
    if not isinstance(output, dict):
        yield {"pointer": "", "message": 'must be an object {"name", "arguments"}'}
        return
    if not isinstance(output.get("name"), str) or not output["name"].strip():
        yield {"pointer": "/name", "message": "must be the name of the tool"}
    if not isinstance(output.get("arguments"), dict):
        yield {"pointer": "/arguments", "message": "must be an object"}
    for key in output.keys() - {"name", "arguments"}:
        yield {"pointer": pointer_to("", key), "message": "is not a field of a tool call"}


def _misshapen_chat(output: Any) -> Iterator[Fault]:
    if not isinstance(output, list) or not output:
        yield {"pointer": "", "message": 'must be a list of turns [{"role", "content"}]'}
        return
    for place, turn in enumerate(output):
        at = f"/{place}"
        if not isinstance(turn, dict) or turn.keys() != {"role", "content"}:
            yield {"pointer": at, "message": 'must be an object {"role", "content"}'}
            continue
        if turn["role"] not in ROLES:
            yield {"pointer": f"{at}/role", "message": "must be one of: " + ", ".join(ROLES)}
        if not isinstance(turn["content"], str):
            yield {"pointer": f"{at}/content", "message": "must be text"}
