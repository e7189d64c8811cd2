"""The form of a JSON output as it is drawn: groups in groups, and what can be added to or taken from them.

Entries and keys come and go in the value itself, and the form is drawn anew from what that gives. Must
never change anything but the one place it was asked to.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from reviewqueue.content.fields import Field, field_of, plain_steps
from reviewqueue.content.places import Place, hint_of, inner_hint, narrowed, places_of, types_of
from reviewqueue.content.schema import against
from reviewqueue.errors import Invalid

Path = tuple[str | int, ...]

LONGEST_KEY = 200  # characters

# What a new member can be, in words, and what it begins with.
_KINDS: dict[str, tuple[str, Any]] = {
    "text": ("string", ""), "number": ("number", 0), "true or false": ("boolean", False),
    "null": ("null", None), "list": ("array", []), "object": ("object", {}),
}  # fmt: skip


@dataclass(frozen=True)
class Missing:
    """An object or list that the schema knows and the output lacks: a button adds it."""

    name: str
    label: str


@dataclass(frozen=True)
class Group:
    """An object or a list in the form. `adds`: another entry may come; `removes`: it may go itself.

    `kinds`: what a new key, or the first entry of a list, may be; `renames`: its own key may change.
    """

    name: str
    label: str
    many: bool
    parts: tuple[Group | Field | Missing, ...]
    adds: bool = False
    removes: bool = False
    kinds: tuple[str, ...] = ()
    renames: bool = False


def tree_of(schema: Any, output: Any, typed: Mapping[str, str] | None = None) -> Group | None:
    """`output` in groups, its fields holding what was `typed`; None for what has no typed form."""
    places = {place.path: place for place in places_of(schema, output)}
    if not places:
        return None
    fields = {path: _field(place, typed or {}) for path, place in places.items()}
    return _group(schema, output, (), hint_of(schema, schema), fields, (False, False))


def reshaped(schema: Any, output: Any, wish: str, key: str = "", kind: str = "") -> Any:
    """`output` with one entry or key more, less, or of another name; a name as the form's fields have.

    `add NAME` (to a list, or what the schema knows; `kind` is that of the first entry of a list), `remove
    NAME`, `new NAME` (the object gets `key`, of `kind`), `rename NAME` (it is called `key`). Anything else
    leaves it as it is; Invalid names the field of a key that cannot be, or when there is no such place.
    """
    verb, _, name = wish.partition(" ")
    if verb not in ("add", "remove", "new", "rename"):
        return output
    changed = copy.deepcopy(output)
    steps = plain_steps(name)
    try:
        holder, here = _led(schema, changed, steps if verb == "new" else steps[:-1])
        if verb == "new":
            _add_key(schema, here, holder, _key(schema, here, holder, key, f"new.{name}"), kind)
        elif verb == "rename":
            _rename(schema, here, holder, steps[-1], key, f"name.{name}")
        elif verb == "remove":
            del holder[_step(holder, steps[-1])]
        else:
            _add(schema, here, holder, _step(holder, steps[-1]) if steps else None, kind)
    except (LookupError, TypeError, ValueError, AttributeError):
        raise Invalid("There is no such place in the output.", field="output") from None
    return changed


def _led(schema: Any, value: Any, steps: list[str]) -> tuple[Any, dict[str, Any]]:
    """What stands at the end of `steps` inside `value`, and the hint for it."""
    here = hint_of(schema, schema)
    for step in steps:
        here = inner_hint(schema, narrowed(schema, here, value), _step(value, step))
        value = value[_step(value, step)]
    return value, narrowed(schema, here, value)


def _add(schema: Any, here: dict[str, Any], holder: Any, last: str | int | None, kind: str) -> None:
    if isinstance(holder, dict) and last is not None and last not in holder:
        holder[last] = blank(schema, inner_hint(schema, here, last))
        return
    entries = holder if last is None else holder[last]
    inner = here if last is None else inner_hint(schema, here, last)
    chosen = not entries and kind in _kinds(schema, inner, entries)
    entries.append(copy.deepcopy(_KINDS[kind][1]) if chosen else _another(schema, inner, entries))


def _add_key(schema: Any, here: dict[str, Any], holder: dict[str, Any], key: str, kind: str) -> None:
    hint = inner_hint(schema, here, key)
    said = hint.keys() & {"enum", "const", "default", "properties"} or kind not in _fitting(hint)
    holder[key] = blank(schema, hint) if said else copy.deepcopy(_KINDS[kind][1])


def _rename(
    schema: Any, here: dict[str, Any], holder: dict[str, Any], old: str, key: str, field: str
) -> None:
    """Another name for a key, in its place."""
    if key == old:
        return
    new = _key(schema, here, holder, key, field)
    members = {new if name == old else name: value for name, value in holder.items()}
    if old not in holder:
        raise KeyError(old)
    holder.clear()
    holder.update(members)


def _key(schema: Any, here: dict[str, Any], holder: dict[str, Any], key: str, field: str) -> str:
    """`key` as the name of a new member of `holder`; Invalid says why it cannot be one."""
    key = key.strip()
    if not isinstance(holder, dict) or not _kinds(schema, here, holder):
        raise TypeError
    if not key:
        raise Invalid("Write a name.", field=field)
    if len(key) > LONGEST_KEY or not key.isprintable():
        raise Invalid(f"A name is one line of at most {LONGEST_KEY} visible characters.", field=field)
    if key in holder:
        raise Invalid("There is a key of this name already.", field=field)
    if "propertyNames" in here:
        defined = schema.get("$defs", {}) if isinstance(schema, dict) else {}
        if against({"$defs": defined, "allOf": [here["propertyNames"]]}, key):
            raise Invalid("The project's schema does not allow this name.", field=field)
    return key


def _kinds(root: Any, here: dict[str, Any], value: Any) -> tuple[str, ...]:
    """What a new key of an object, or the first entry of a list, may be; () where the schema says it all."""
    if isinstance(value, list):
        return () if value or "items" in here or "prefixItems" in here else tuple(_KINDS)
    closed = here.get("additionalProperties") is False and not here.get("patternProperties")
    if closed or here.get("unevaluatedProperties") is False:
        return ()
    return _fitting(hint_of(root, here.get("additionalProperties")))


def _fitting(hint: dict[str, Any]) -> tuple[str, ...]:
    """The kinds that a hint allows."""
    types = types_of(hint)
    types |= {"number"} if "integer" in types else set()
    return tuple(word for word, (name, _) in _KINDS.items() if not types or name in types)


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
    root: Any, value: Any, path: Path, here: dict[str, Any], fields: dict[Path, Field], own: tuple[bool, bool]
) -> Group:
    """The group of `value`; `own` is whether it may go, and be called otherwise."""
    here = narrowed(root, here, value)
    many = isinstance(value, list)
    kinds = _kinds(root, here, value)
    known = here["properties"] if not many and isinstance(here.get("properties"), dict) else {}
    steps: list[str | int] = list(range(len(value))) if many else list(value)
    parts: list[Group | Field | Missing] = []
    for step in steps:
        at, inner = (*path, step), inner_hint(root, here, step)
        goes = len(value) > here.get("minItems", 0) if many else step not in (here.get("required") or ())
        renames = bool(kinds) and goes and not many and step not in known
        if _draws(value[step], inner):
            parts.append(_group(root, value[step], at, inner, fields, (goes, renames)))
        elif at in fields:
            label = str(step) if renames else _label(step, inner)
            parts.append(replace(fields[at], label=label, removes=goes, renames=renames))
    for name in known:
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
    room = many or len(value) < here.get("maxProperties", len(value) + 1)
    label = "" if not path else str(path[-1]) if own[1] else _label(path[-1], here)
    return Group(name, label, many, tuple(parts), adds, own[0], kinds if room else (), own[1])


def _draws(value: Any, here: dict[str, Any]) -> bool:
    """Whether a value is drawn as a group: it is an object or a list, and if empty, rightly so."""
    types, kind = types_of(here), "object" if isinstance(value, dict) else "array"
    return isinstance(value, dict | list) and (bool(value) or not types or kind in types)


def _field(place: Place, typed: Mapping[str, str]) -> Field:
    field = field_of(place)
    return replace(field, value=typed.get(field.name, field.value))


def _label(step: str | int, here: dict[str, Any]) -> str:
    if isinstance(step, int):
        return str(step + 1)
    title = here.get("title")
    return title if isinstance(title, str) and title.strip() else step


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
