"""The form of a JSON output as it is drawn: groups in groups, and what can be added to or taken from them.

Entries come and go in the value itself, and the form is drawn anew from what that gives. Must never
change anything but the one place it was asked to.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reviewqueue.content.fields import Field, field_of, plain_steps
from reviewqueue.content.places import Place, hint_of, inner_hint, narrowed, places_of, types_of
from reviewqueue.errors import Invalid

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Missing:
    """An object or list that the schema knows and the output lacks: a button adds it."""

    name: str
    label: str


@dataclass(frozen=True)
class Group:
    """An object or a list in the form. `adds`: another entry may come; `removes`: it may go itself."""

    name: str
    label: str
    many: bool
    parts: tuple[Group | Field | Missing, ...]
    adds: bool = False
    removes: bool = False


def tree_of(schema: Any, output: Any, typed: Mapping[str, str] | None = None) -> Group | None:
    """`output` in groups, its fields holding what was `typed`; None for what has no typed form."""
    places = {place.path: place for place in places_of(schema, output)}
    if not places:
        return None
    fields = {path: _field(place, typed or {}) for path, place in places.items()}
    return _group(schema, output, (), hint_of(schema, schema), fields, False)


def reshaped(schema: Any, output: Any, wish: str) -> Any:
    """`output` with one entry more or less: `add NAME` or `remove NAME`, a name as the form's fields have.

    Anything else leaves it as it is; Invalid when there is nothing of that name to add to or remove.
    """
    verb, _, name = wish.partition(" ")
    if verb not in ("add", "remove"):
        return output
    changed = copy.deepcopy(output)
    holder, here, steps = changed, hint_of(schema, schema), plain_steps(name)
    try:
        for step in steps[:-1]:
            here = inner_hint(schema, narrowed(schema, here, holder), _step(holder, step))
            holder = holder[_step(holder, step)]
        here = narrowed(schema, here, holder)
        last = _step(holder, steps[-1]) if steps else None
        if verb == "remove":
            del holder[last]
        elif last is None:
            changed.append(_another(schema, here, changed))
        elif isinstance(holder, dict) and last not in holder:
            holder[last] = blank(schema, inner_hint(schema, here, last))
        else:
            inner = holder[last]
            inner.append(_another(schema, inner_hint(schema, here, last), inner))
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Invalid("There is no such place in the output.", field="output") from None
    return changed


def blank(root: Any, here: dict[str, Any]) -> Any:
    """What a new entry begins with: its objects and lists are there, other members are empty fields."""
    for known in ("default", "const"):
        if known in here:
            return copy.deepcopy(here[known])
    if isinstance(here.get("enum"), list) and here["enum"]:
        return here["enum"][0]
    types = types_of(here)
    if "object" in types or (not types and "properties" in here):
        inside = {name: inner_hint(root, here, name) for name in here.get("required") or ()}
        return {name: blank(root, hint) for name, hint in inside.items() if _holds(hint)}
    empty: dict[str, Any] = {"array": [], "string": "", "integer": 0, "number": 0, "boolean": False}
    return next((value for kind, value in empty.items() if kind in types), None if types else "")


def _group(
    root: Any, value: Any, path: Path, here: dict[str, Any], fields: dict[Path, Field], removes: bool
) -> Group:
    here = narrowed(root, here, value)
    many = isinstance(value, list)
    steps: list[str | int] = list(range(len(value))) if many else list(value)
    parts: list[Group | Field | Missing] = []
    for step in steps:
        at, inner = (*path, step), inner_hint(root, here, step)
        goes = len(value) > here.get("minItems", 0) if many else _optional(here, step)
        draws = isinstance(value[step], dict | list) and (value[step] or _holds(inner))
        if draws:
            parts.append(_group(root, value[step], at, inner, fields, goes))
        elif at in fields:
            parts.append(replace(fields[at], label=_label(step, inner), removes=goes))
    known = here.get("properties") if isinstance(here.get("properties"), dict) else {}
    for name in () if many else known or {}:
        if name in value:
            continue
        inner = inner_hint(root, here, name)
        at = (*path, name)
        if _holds(inner):
            parts.append(Missing(Place(at, None, False, inner, False).name, _label(name, inner)))
        elif at in fields:
            parts.append(replace(fields[at], label=_label(name, inner)))
    name = Place(path, value, True, here, True).name
    adds = many and here.get("items") is not False and len(value) < here.get("maxItems", len(value) + 1)
    return Group(name, _label(path[-1], here) if path else "", many, tuple(parts), adds, removes)


def _field(place: Place, typed: Mapping[str, str]) -> Field:
    field = field_of(place)
    return replace(field, value=typed.get(field.name, field.value))


def _label(step: str | int, here: dict[str, Any]) -> str:
    if isinstance(step, int):
        return str(step + 1)
    title = here.get("title")
    return title if isinstance(title, str) and title.strip() else step


def _optional(here: dict[str, Any], step: str | int) -> bool:
    """Whether a member may go: the schema does not ask for it, or there is no schema to ask."""
    return bool(here) and step not in (here.get("required") or ())


def _holds(here: dict[str, Any]) -> bool:
    """Whether the schema wants an object or a list here, and nothing else."""
    types = types_of(here) - {"null"}
    return bool(types) and types <= {"object", "array"} and ("properties" in here or "items" in here)


def _another(root: Any, here: dict[str, Any], entries: list[Any]) -> Any:
    """A new entry: as the schema says, else like the last one with its values emptied."""
    hint = inner_hint(root, here, len(entries))
    return blank(root, hint) if hint or not entries else _emptied(entries[-1])


def _emptied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _emptied(inner) for name, inner in value.items()}
    return type(value)() if isinstance(value, list | str | int | float | bool) else None


def _step(holder: Any, step: str) -> str | int:
    return int(step) if isinstance(holder, list) else step
