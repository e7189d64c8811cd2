"""The places of an output that an edit form gives a field, and what a text typed there means.

What the shown value and the project's JSON Schema say about a place decides its type. A schema too clever
for this gives no hint; `check` still judges the result. Must never read an untouched text as another value.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from reviewqueue.content.diff import same
from reviewqueue.content.fits import strict_json
from reviewqueue.content.schema import against
from reviewqueue.errors import Invalid

LONG = 80  # characters; longer strings get a text area

_HOPS = 16  # references followed before giving up; a circle ends here
_PLAIN = {"string", "integer", "number", "boolean"}
_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "minLength", "maxLength")
_SAYS = {"integer": "a whole number", "number": "a number", "json": "JSON", "null": "null, or other JSON"}


def places_of(schema: Any, output: Any) -> list[Place]:
    """Every scalar and empty container in `output` and what `schema` knows beside them; [] if it is one."""
    if not isinstance(output, dict | list):
        return []
    found = list(_places(schema, output, (), hint_of(schema, schema)))
    return [] if found and not found[0].path else found


def as_typed(posted: str, shown: str) -> str:
    """`posted` with the line ends of `shown`: browsers send every line end of a text area as CRLF."""
    text, plain = (one.replace("\r\n", "\n").replace("\r", "\n") for one in (posted, shown))
    if text == plain:
        return shown
    only_crlf = "\r" in shown and shown == plain.replace("\n", "\r\n")
    return text.replace("\n", "\r\n") if only_crlf else text


@dataclass(frozen=True)
class Place:
    """One place of an output; not `present`: the schema knows it and the output lacks it."""

    path: tuple[str | int, ...]
    value: Any
    present: bool
    hint: dict[str, Any]
    required: bool

    @cached_property
    def name(self) -> str:
        """The name of the field in the form."""
        # A key may itself hold dots; control characters would not survive the form.
        odd = re.compile(r"[.%\x00-\x1f\x7f]")
        steps = (odd.sub(lambda char: f"%{ord(char[0]):02X}", str(step)) for step in self.path)
        return ".".join(("output", *steps))

    @cached_property
    def type(self) -> str:
        """What the field asks for, by the schema's word; a value at odds with it is edited as JSON."""
        value, types = self.value, types_of(self.hint)
        if self._offered:
            offered = any(same(choice, value) for choice in self._offered.values())
            odd_text = isinstance(value, str) and value not in self._offered
            return "enum" if offered or odd_text or not self.present else "json"
        if not self.present:
            wanted = types - {"null"}
            return wanted.pop() if len(wanted) == 1 and wanted <= _PLAIN else "json"
        if value is None:
            return "null"
        if isinstance(value, bool):
            return "boolean" if not types or "boolean" in types else "json"
        if isinstance(value, int | float):
            if types and not types & {"integer", "number"}:
                return "json"
            return "integer" if "integer" in types and "number" not in types else "number"
        if isinstance(value, str) and (not types or "string" in types):
            return "text" if len(value) > LONG or "\n" in value or "\r" in value else "string"
        return "json"

    @cached_property
    def text(self) -> str:
        """What the field holds at first."""
        if not self.present:
            return ""
        if self.type == "enum":
            chosen = (text for text, choice in self._offered.items() if same(choice, self.value))
            return next(chosen, self.value)
        return self.value if self.type in ("string", "text") else json.dumps(self.value, ensure_ascii=False)

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts to choose from; what the model wrote comes first when it is none of them."""
        choices: tuple[str, ...] = ()
        if self.type == "boolean":
            choices = ("true", "false", *(("null",) if "null" in types_of(self.hint) else ()))
        elif self.type == "enum":
            choices = tuple(self._offered)
        return choices if not choices or self.text in choices else (self.text, *choices)

    @property
    def limits(self) -> dict[str, Any]:
        """What the schema asks of the value, as far as a browser can tell while it is being typed."""
        wanted = {name: self.hint[name] for name in _LIMITS if name in self.hint}
        return {name: limit for name, limit in wanted.items() if isinstance(limit, int | float)}

    @property
    def help(self) -> str:
        """A word on what to type, the schema's own where it has one."""
        if self._text_or_null:
            return "null, or the text as it is"
        described = self.hint.get("description")
        return described if isinstance(described, str) else _SAYS.get(self.type, "")

    def read(self, posted: str) -> Any:
        """The value that `posted`, typed over `text`, means; Invalid names the field."""
        text = posted.strip()
        if self.type in ("string", "text"):
            return as_typed(posted, self.text)
        if self.type == "enum":
            if posted not in self._offered:
                raise Invalid("Choose one of the values offered.", field=self.name)
            return self._offered[posted]
        if text == "null" and "null" in types_of(self.hint):
            return None
        if self.type == "boolean":
            if text not in ("true", "false"):
                raise Invalid("Must be true or false.", field=self.name)
            return text == "true"
        if self.type in ("integer", "number"):
            return self._number(text)
        if self.type == "null" and not text:
            return None
        return as_typed(posted, "") if self._text_or_null else strict_json(posted, self.name)

    def _number(self, text: str) -> Any:
        if self.type == "integer" and not _INTEGER.fullmatch(text):
            raise Invalid("Must be a whole number such as 12.", field=self.name)
        if not _NUMBER.fullmatch(text):
            raise Invalid("Must be a number such as 12 or 12.5.", field=self.name)
        number = strict_json(text, self.name)
        # 3 typed over 2.5 stays a float, unless a float could not hold it.
        was_float = isinstance(self.value, float) and self.type == "number"
        return float(number) if was_float and abs(number) <= 2**53 else number

    @cached_property
    def _offered(self) -> dict[str, Any]:
        return _choices(self.hint)

    @property
    def _text_or_null(self) -> bool:
        return self.type == "null" and types_of(self.hint) == {"string", "null"}


def _places(
    root: Any, value: Any, path: tuple[str | int, ...], here: dict[str, Any], required: bool = True
) -> Iterator[Place]:
    members: list[tuple[str | int, Any]] = []
    known: dict[str, Any] = {}
    here = narrowed(root, here, value)
    if isinstance(value, dict):
        members = list(value.items())
        known = here["properties"] if isinstance(here.get("properties"), dict) else {}
    elif isinstance(value, list):
        members = list(enumerate(value))
    if not members and not known:
        yield Place(path, value, True, here, required)
    wanted = here["required"] if isinstance(here.get("required"), list) else []
    for key, inner in members:
        yield from _places(root, inner, (*path, key), inner_hint(root, here, key), key in wanted)
    for key in known:
        if key not in value:
            yield Place((*path, key), None, False, inner_hint(root, here, key), key in wanted)


def narrowed(root: Any, here: dict[str, Any], value: Any) -> dict[str, Any]:
    """`here` with what its `if … then … else` say of an object like `value`."""
    conditions = [part for part in (here, *(here.get("allOf") or ())) if isinstance(part, dict)]
    if not isinstance(value, dict) or len(conditions) > _HOPS:
        return here
    for part in conditions:
        chosen: Any = part if part is not here and "if" not in part else None
        if "if" in part:
            named = {"$defs": root.get("$defs", {}), "allOf": [part["if"]]}
            chosen = part.get("else") if against(named, value) else part.get("then")
        chosen = hint_of(root, chosen)
        if not isinstance(chosen.get("properties"), dict):
            continue
        known = here["properties"] if isinstance(here.get("properties"), dict) else {}
        both = {
            name: {**hint_of(root, known.get(name)), **hint_of(root, said)}
            for name, said in chosen["properties"].items()
        }
        wanted = [*(here.get("required") or ()), *(chosen.get("required") or ())]
        here = {**here, "properties": {**known, **both}, "required": wanted}
    return here


def hint_of(root: Any, schema: Any, hops: int = _HOPS) -> dict[str, Any]:
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
        inner = hint_of(root, others[0], left - 1)
        return {**inner, **rest, "type": [*sorted(types_of(inner)), "null"]} if types_of(inner) else {}
    return {}


def inner_hint(root: Any, here: dict[str, Any], step: str | int) -> dict[str, Any]:
    """The hint for the member or entry `step` of a place whose own hint is `here`."""
    if isinstance(step, str):
        properties = here.get("properties")
        if isinstance(properties, dict) and step in properties:
            return hint_of(root, properties[step])
        return hint_of(root, here.get("additionalProperties"))
    first = here.get("prefixItems")
    if isinstance(first, list) and step < len(first):
        return hint_of(root, first[step])
    return hint_of(root, here.get("items"))


def types_of(here: dict[str, Any]) -> set[str]:
    """The JSON types a hint allows; empty when it does not say."""
    types = here.get("type")
    if isinstance(types, str):
        return {types}
    return {one for one in types if isinstance(one, str)} if isinstance(types, list) else set()


def _choices(here: dict[str, Any]) -> dict[str, Any]:
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
