"""A project's JSON Schema: whether it can be used, and whether a value fits it.

JSON Schema 2020-12 on jsonschema with everything that reaches out or backtracks taken away. Messages
speak of the schema, never of the value: they end up in answers and logs. Must never fetch a `$ref`, run a
pattern through a backtracking engine, or raise on a value.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import islice
from typing import Any

import re2
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, ValidationError
from jsonschema.validators import extend
from referencing import Registry
from referencing._core import Resolver
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT202012

from reviewqueue.errors import Fault

MAX_FAULTS = 20

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_RE2_OPTIONS = re2.Options()
_RE2_OPTIONS.log_errors = False


def check_schema(schema: Any, kind: str = "json") -> list[Fault]:
    """What keeps `schema` from being used for a project of `kind`, with pointers into it; empty when nothing.

    A label project's schema must list its labels in `enum`.
    """
    try:
        faults = list(_compiled(json.dumps(schema))[1])
    except (TypeError, ValueError, RecursionError):
        return [{"pointer": "", "message": "must be JSON"}]
    if faults or kind != "label":
        return faults
    labels = schema.get("enum") if isinstance(schema, dict) else None
    if not labels or not all(isinstance(label, str) and label for label in labels):
        return [{"pointer": "/enum", "message": "must list the labels, each a text that is not empty"}]
    return []


def against(schema: Any, value: Any) -> list[Fault]:
    """Where `value` does not fit `schema`, at most `MAX_FAULTS` places; an unusable schema fits nothing."""
    validator, unusable = _compiled(json.dumps(schema))
    if validator is None:
        message = unusable[0]["message"]
        return [{"pointer": "", "message": f"the project's schema cannot be used: {message}"}]
    try:
        return _distinct(fault for error in validator.iter_errors(value) for fault in _told(error))
    except (RecursionError, ArithmeticError, ValueError, TypeError, Unresolvable):
        return [{"pointer": "", "message": "could not be checked against the project's schema"}]


def pointer_to(pointer: str, place: str | int) -> str:
    """The JSON pointer (RFC 6901) of the member or entry `place` of what `pointer` points to."""
    return f"{pointer}/{str(place).replace('~', '~0').replace('/', '~1')}"


@lru_cache(maxsize=128)
def _compiled(schema_text: str) -> tuple[Any, tuple[Fault, ...]]:
    """A validator for the schema, or None and what is wrong with it."""
    schema = json.loads(schema_text)
    # jsonschema picks its stock validator, with `re`, for any schema that names its draft: take the name out.
    if isinstance(schema, dict) and schema.pop("$schema", _DRAFT) not in (_DRAFT, f"{_DRAFT}#"):
        return None, ({"pointer": "/$schema", "message": f"must be {_DRAFT}"},)
    try:
        faults = tuple(islice(_unusable(schema), MAX_FAULTS))
    except RecursionError:
        faults = ({"pointer": "", "message": "is nested too deep"},)
    return (None, faults) if faults else (_Validator(schema, registry=Registry()), ())


def _unusable(schema: Any) -> Iterator[Fault]:
    """What is wrong with `schema`, its parts and whatever they refer to."""
    wrong = list(_against_meta_schema("", schema))
    yield from wrong
    if wrong:
        return
    root = DRAFT202012.create_resource(schema)
    waiting: list[tuple[str, Any, Resolver[Any]]] = [("", root, Registry().resolver_with_root(root))]
    seen: set[int] = set()
    keywords: set[str] = set()
    while waiting:
        pointer, resource, resolver = waiting.pop()
        part = resource.contents
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        keywords.update(part)
        yield from _bad_keywords(pointer, part)
        for keyword in {"$ref", "$dynamicRef"} & part.keys():
            at = pointer_to(pointer, keyword)
            try:
                target = resolver.lookup(part[keyword])
            except (Unresolvable, ValueError, LookupError):
                yield {"pointer": at, "message": "must point into this very schema"}
                continue
            wrong = list(_against_meta_schema(at, target.contents))
            yield from wrong
            if not wrong:
                waiting.append((at, DRAFT202012.create_resource(target.contents), target.resolver))
        waiting += [(pointer, inner, resolver.in_subresource(inner)) for inner in resource.subresources()]
    if {"unevaluatedProperties", "patternProperties"} <= keywords:
        # jsonschema runs the patterns through `re` here, deep inside a function we cannot replace.
        yield {
            "pointer": "",
            "message": "unevaluatedProperties together with patternProperties is not supported",
        }


def _against_meta_schema(pointer: str, schema: Any) -> Iterator[Fault]:
    try:
        Draft202012Validator.check_schema(schema, format_checker=None)  # type: ignore[arg-type]  # None: formats are not checked
    except SchemaError as error:
        at = pointer + "".join(pointer_to("", place) for place in error.absolute_path)
        yield {"pointer": at, "message": error.message[:200]}


def _bad_keywords(pointer: str, part: dict[str, Any]) -> Iterator[Fault]:
    if "$schema" in part:
        yield {"pointer": pointer_to(pointer, "$schema"), "message": "may stand at the top alone"}
    patterns = [part["pattern"]] if isinstance(part.get("pattern"), str) else []
    if isinstance(part.get("patternProperties"), dict):
        patterns += part["patternProperties"]
    for pattern in patterns:
        try:
            re2.compile(pattern, _RE2_OPTIONS)
        except (re2.error, UnicodeError):
            cannot = "cannot be used: write it without look-around and back-references"
            yield {"pointer": pointer, "message": f"the pattern {pattern[:80]} {cannot}"}


def _matches(pattern: str, text: str) -> bool:
    return re2.search(pattern, text, _RE2_OPTIONS) is not None


def _pattern(validator: Any, pattern: str, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if isinstance(instance, str) and not _matches(pattern, instance):
        yield ValidationError("pattern")


def _pattern_properties(
    validator: Any, patterns: Any, instance: Any, schema: Any
) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for pattern, part in patterns.items():
            for key in filter(lambda key: _matches(pattern, key), instance):
                yield from validator.descend(instance[key], part, path=key, schema_path=pattern)


def _additional(validator: Any, part: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    if not isinstance(instance, dict):
        return
    patterns = schema.get("patternProperties", {})
    for key in instance.keys() - schema.get("properties", {}).keys():
        if any(_matches(pattern, key) for pattern in patterns):
            continue
        if part is False:
            yield ValidationError("additional", path=[key])
        else:
            yield from validator.descend(instance[key], part, path=key)


def _unique_items(validator: Any, wanted: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    # The stock check compares every pair when the items cannot be sorted: hours for a list of a megabyte.
    if wanted and isinstance(instance, list):
        texts = {json.dumps(_as_compared(item), sort_keys=True) for item in instance}
        if len(texts) < len(instance):
            yield ValidationError("unique")


def _as_compared(value: Any) -> Any:
    """1 and 1.0 are one number to JSON Schema."""
    if isinstance(value, dict):
        return {key: _as_compared(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_as_compared(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


_Validator: Any = extend(  # type: ignore[no-untyped-call]  # jsonschema leaves it untyped
    Draft202012Validator,
    {
        "pattern": _pattern,
        "patternProperties": _pattern_properties,
        "additionalProperties": _additional,
        "uniqueItems": _unique_items,
    },
)

_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}


def _listed(values: list[Any]) -> str:
    shown = ", ".join(value if isinstance(value, str) else json.dumps(value) for value in values[:20])
    return shown[:300] + (", …" if len(values) > 20 else "")


_MESSAGES: dict[str, Callable[[Any], str]] = {
    "type": lambda wanted: (
        "must be " + " or ".join(_TYPES[name] for name in ([wanted] if isinstance(wanted, str) else wanted))
    ),
    "enum": lambda wanted: f"must be one of: {_listed(wanted)}",
    "const": lambda wanted: f"must be {_listed([wanted])}",
    "pattern": lambda wanted: f"must match the pattern {wanted[:200]}",
    "minimum": lambda wanted: f"must be at least {wanted}",
    "maximum": lambda wanted: f"must be at most {wanted}",
    "exclusiveMinimum": lambda wanted: f"must be more than {wanted}",
    "exclusiveMaximum": lambda wanted: f"must be less than {wanted}",
    "multipleOf": lambda wanted: f"must be a multiple of {wanted}",
    "minLength": lambda wanted: f"must have at least {wanted} characters",
    "maxLength": lambda wanted: f"must have at most {wanted} characters",
    "minItems": lambda wanted: f"must have at least {wanted} entries",
    "maxItems": lambda wanted: f"must have at most {wanted} entries",
    "uniqueItems": lambda wanted: "must not have the same entry twice",
    "additionalProperties": lambda wanted: "is not a field the schema knows",
    "unevaluatedProperties": lambda wanted: "has a field the schema does not know",
    "anyOf": lambda wanted: "fits none of the shapes the schema allows",
    "oneOf": lambda wanted: "must fit exactly one of the shapes the schema allows",
}


def _told(error: Any) -> Iterator[Fault]:
    pointer = "".join(pointer_to("", place) for place in error.absolute_path)
    if error.validator == "required":
        for name in error.validator_value:
            if name not in error.instance:
                yield {"pointer": pointer_to(pointer, name), "message": "is missing"}
        return
    tell = _MESSAGES.get(error.validator)
    yield {
        "pointer": pointer,
        "message": tell(error.validator_value) if tell else f"does not keep the schema's {error.validator}",
    }


def _distinct(faults: Iterator[Fault]) -> list[Fault]:
    found: dict[tuple[str, str], Fault] = {}
    for fault in faults:
        found.setdefault((fault["pointer"], fault["message"]), fault)
        if len(found) >= MAX_FAULTS:
            break
    return list(found.values())
