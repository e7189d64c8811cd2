"""What pydantic found wrong, in our words: for project files here, for submissions in intake.

Messages name fields and limits, never the value that was sent: they end up in answers and logs.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

Place = tuple[str | int, ...]

_TEXT = "must be text"
_LIST = "must be a list"
_OBJECT = "must be an object"
_NUMBER = "must be a number"
_WORDS = {
    "missing": "is required",
    "string_type": _TEXT,
    "list_type": _LIST,
    "dict_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "float_type": _NUMBER,
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "literal_error": "must be one of: {expected}",
}


def faults(error: ValidationError, shape: type[BaseModel]) -> Iterator[tuple[Place, str]]:
    """(place, message) of everything wrong with what was checked against `shape`.

    Unknown fields come first: a misspelt name is why another one is missing.
    """
    every = error.errors(include_url=False, include_input=False)
    for found in sorted(every, key=lambda one: one["type"] != "extra_forbidden"):
        # Branches of a union are tagged "<…>"; they are no part of what was sent. A field's name may be that.
        unknown = found["type"] == "extra_forbidden"
        named = found["loc"][-1:] if unknown else ()
        within = found["loc"][:-1] if unknown else found["loc"]
        place = (*(step for step in within if not str(step).startswith("<")), *named)
        context: dict[str, Any] = found.get("ctx", {})
        if unknown:
            yield place, _unknown(shape, place)
        elif found["type"] == "value_error":
            yield place, str(context["error"])
        else:
            yield place, _WORDS.get(found["type"], found["msg"]).format(**_plain(context))


def _plain(context: dict[str, Any]) -> dict[str, Any]:
    if "expected" in context:
        context = context | {"expected": str(context["expected"]).replace("'", "").replace(" or ", ", ")}
    return context


def _unknown(shape: type[BaseModel], place: Place) -> str:
    for step in place[:-1]:
        if isinstance(step, str) and step in shape.model_fields:
            shape = next(iter(_models(shape.model_fields[step].annotation)), shape)
    names = list(shape.model_fields)
    close = difflib.get_close_matches(str(place[-1]), names, 1)
    meant = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(names)}"
    return f"is not a field; {meant}"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
