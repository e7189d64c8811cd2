"""What a project's JSON Schema says about one place of an output, as far as an edit form needs it.

Only a help for drawing fields: a schema too clever for it gives no hint, and `check` still judges.
"""

from __future__ import annotations

import json
from typing import Any

_HOPS = 16  # references followed before giving up; a circle ends here


def hint(root: Any, schema: Any, hops: int = _HOPS) -> dict[str, Any]:
    """`schema` with local references followed and a "this or null" choice folded into `type`; else {}."""
    for left in range(hops, 0, -1):
        if not isinstance(schema, dict):
            return {}
        ref = schema.get("$ref")
        if isinstance(ref, str):
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            target = _pointed(root, ref)
            schema = {**target, **rest} if isinstance(target, dict) else rest
            continue
        branches = schema.get("anyOf") or schema.get("oneOf")
        if not isinstance(branches, list):
            return schema
        others = [one for one in branches if one != {"type": "null"}]
        if len(others) != 1 or len(branches) == 1 or not isinstance(others[0], dict):
            return {key: value for key, value in schema.items() if key not in ("type", "enum", "const")}
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
        inner = hint(root, others[0], left - 1)
        return {**inner, **rest, "type": [*sorted(types_of(inner)), "null"]} if types_of(inner) else {}
    return {}


def inner_hint(root: Any, here: dict[str, Any], step: str | int) -> dict[str, Any]:
    """The hint for the member or entry `step` of a place whose own hint is `here`."""
    if isinstance(step, str):
        properties = here.get("properties")
        if isinstance(properties, dict) and step in properties:
            return hint(root, properties[step])
        return hint(root, here.get("additionalProperties"))
    first = here.get("prefixItems")
    if isinstance(first, list) and step < len(first):
        return hint(root, first[step])
    return hint(root, here.get("items"))


def types_of(here: dict[str, Any]) -> set[str]:
    """The JSON types a hint allows; empty when it does not say."""
    types = here.get("type")
    if isinstance(types, str):
        return {types}
    return {one for one in types if isinstance(one, str)} if isinstance(types, list) else set()


def choices_of(here: dict[str, Any]) -> dict[str, Any]:
    """The values of an `enum` by the text a form shows for each; {} when it lists none or odd ones."""
    values = here.get("enum")
    if not isinstance(values, list) or any(isinstance(value, dict | list) for value in values):
        return {}
    taken = {json.dumps(value) for value in values if not isinstance(value, str)}

    # The text "1" beside the number 1 keeps its quotes, or the two could not be told apart.
    def shown(value: Any) -> str:
        plain = isinstance(value, str) and value not in taken
        return value if plain else json.dumps(value, ensure_ascii=False)

    return {shown(value): value for value in values}


def _pointed(root: Any, ref: str) -> Any:
    if ref != "#" and not ref.startswith("#/"):
        return None
    place = root
    for step in ref.split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list) and step.isdecimal() and int(step) < len(place):
            place = place[int(step)]
        elif isinstance(place, dict) and step in place:
            place = place[step]
        else:
            return None
    return place
