"""The edit form of an output: fields out of it, and the output back from what a browser posts.

A field is named by its path (`output.items.0.qty`), and the shown output decides what each text means, so
types survive. Must never let an untouched field change the output.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from reviewqueue.errors import Invalid
from reviewqueue.review.diff import same
from reviewqueue.review.fits import check, strict_json
from reviewqueue.review.hints import choices_of, hint, inner_hint, types_of
from reviewqueue.review.schema import check_schema
from reviewqueue.review.show import pretty_json

__all__ = ["Field", "check", "check_schema", "from_form", "strict_json", "to_fields"]

MAX_FIELDS = 300  # beyond this an output is edited as raw JSON
LONG = 80  # characters; longer strings get a text area

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]*)")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_CHAT_JSON = re.compile(r'\s*\[\s*\{\s*"(?:role|content)"\s*:')

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Field:
    """One control of the edit form. `type`: string, integer, number, boolean, null, enum, text or json.

    `value` is what the control holds at first. Strings need `<textarea>` or `<input type="text">` as `type`
    says; numbers a text input too, since a number input would drop what it cannot read.
    """

    name: str
    label: str
    type: str
    value: str
    choices: tuple[str, ...] = ()
    required: bool = False
    help: str = ""


@dataclass(frozen=True)
class _Leaf:
    """A place in the output that gets a field; not `present`: the schema knows it and the output lacks it."""

    path: Path
    value: Any
    present: bool
    hint: dict[str, Any]
    required: bool


def to_fields(kind: str, schema: Any, output: Any, posted: Mapping[str, str] | None = None) -> list[Field]:
    """The fields that edit `output`; with `posted` they hold what was typed, as a refused form comes back.

    Text kinds and chat (its last assistant turn) have one field `output`, and so has what is too large or
    too plain for typed fields: then it is raw JSON.
    """
    fields = _fields(kind, schema, output)
    if posted is None:
        return fields
    return [replace(field, value=posted.get(field.name, field.value)) for field in fields]


def from_form(kind: str, schema: Any, shown_output: Any, form: Mapping[str, str]) -> Any:
    """The output as `form` leaves it; fields that are not posted stay as shown. Invalid names the field.

    Whether the result fits the schema is for `check` to say.
    """
    text = form.get("output")
    if kind in ("json", "tool_call"):
        return _from_typed(schema, shown_output, form)
    _refuse_unknown(form, set())
    if text is None:
        return shown_output
    if kind == "chat":
        return _from_chat(shown_output, text)
    if kind == "label":
        return _from_label(schema, shown_output, text)
    return _newlines(text, shown_output)


def _fields(kind: str, schema: Any, output: Any) -> list[Field]:
    if kind == "label":
        return [Field("output", "label", "enum", output, _label_choices(schema, output), True)]
    if kind == "chat":
        turn = _last_assistant(output)
        if turn is not None:
            return [Field("output", "last assistant turn", "text", output[turn]["content"])]
    if kind not in ("json", "tool_call", "chat"):
        return [Field("output", "output", "text", output)]
    leaves = [] if kind == "chat" else _leaves_of(schema, output)
    if not leaves or len(leaves) > MAX_FIELDS:
        return [Field("output", "output", "json", pretty_json(output), (), True, "JSON")]
    return [_field(leaf) for leaf in leaves]


def _from_typed(schema: Any, shown: Any, form: Mapping[str, str]) -> Any:
    leaves = {_name(leaf.path): leaf for leaf in _leaves_of(schema, shown)}
    _refuse_unknown(form, leaves.keys())
    by_fields = copy.deepcopy(shown)
    for name, leaf in leaves.items():
        if name in form and not _untouched(leaf, form[name]):
            _put(by_fields, leaf.path, _read(leaf, form[name], name))
    raw = form.get("output", "")
    if not raw.strip() or _newlines(raw, "\n") == pretty_json(shown):
        return by_fields
    by_json = strict_json(raw)
    if same(by_json, shown) or same(by_json, by_fields):
        return by_fields
    # A page may offer both ways; taking one silently would lose what was typed the other way.
    if not same(by_fields, shown):
        raise Invalid("Change either the fields or the raw JSON, not both.", field="output")
    return by_json


def _from_chat(shown: list[dict[str, str]], text: str) -> Any:
    turn = _last_assistant(shown)
    content = shown[turn]["content"] if turn is not None else pretty_json(shown)
    edited = _newlines(text, content)
    if edited == content:
        return shown
    if turn is None or (_CHAT_JSON.match(edited) and not _CHAT_JSON.match(content)):
        turns = strict_json(text)
        faults = check("chat", None, turns)
        if faults:
            raise Invalid("This is no conversation.", field="output", errors=faults)
        return turns
    return [{**said, "content": edited} if at == turn else said for at, said in enumerate(shown)]


def _from_label(schema: Any, shown: str, text: str) -> str:
    text = _newlines(text, shown)
    if text not in _label_choices(schema, shown):
        raise Invalid("Choose one of the labels.", field="output")
    return text


def _label_choices(schema: Any, shown: str) -> tuple[str, ...]:
    labels = tuple(schema.get("enum", ())) if isinstance(schema, dict) else ()
    # A model may answer outside the list: its own answer must survive an untouched form.
    return labels if shown in labels else (shown, *labels)


def _last_assistant(turns: Any) -> int | None:
    if check("chat", None, turns):
        return None
    return next((at for at in reversed(range(len(turns))) if turns[at]["role"] == "assistant"), None)


def _refuse_unknown(form: Mapping[str, str], known: Any) -> None:
    for name in form:
        if name.startswith("output.") and name not in known:
            raise Invalid("This field is not part of the output that was shown.", field=name)


def _newlines(posted: str, shown: str) -> str:
    """`posted` with the line ends of `shown`: browsers send every line end of a text area as CRLF."""
    text, plain = (one.replace("\r\n", "\n").replace("\r", "\n") for one in (posted, shown))
    if text == plain:
        return shown
    only_crlf = "\r" in shown and shown == plain.replace("\n", "\r\n")
    return text.replace("\n", "\r\n") if only_crlf else text


def _leaves_of(schema: Any, output: Any) -> list[_Leaf]:
    found: list[_Leaf] = []
    if isinstance(output, dict | list):
        for leaf in _leaves(schema, output, (), hint(schema, schema), True):
            found.append(leaf)
            if not leaf.path:
                return []
    return found


def _leaves(root: Any, value: Any, path: Path, here: dict[str, Any], required: bool) -> Iterator[_Leaf]:
    members: list[tuple[str | int, Any]] = []
    known: dict[str, Any] = {}
    if isinstance(value, dict):
        members = list(value.items())
        known = here["properties"] if isinstance(here.get("properties"), dict) else {}
    elif isinstance(value, list):
        members = list(enumerate(value))
    if not members and not known:
        yield _Leaf(path, value, True, here, required)
    wanted = here.get("required") if isinstance(here.get("required"), list) else []
    for key, inner in members:
        yield from _leaves(root, inner, (*path, key), inner_hint(root, here, key), key in (wanted or ()))
    for key in known:
        if key not in value:
            yield _Leaf((*path, key), None, False, inner_hint(root, here, key), key in (wanted or ()))


def _name(path: Path) -> str:
    # A key may itself hold dots; control characters would not survive the form.
    parts = (re.sub(r"[.%\x00-\x1f\x7f]", lambda odd: f"%{ord(odd[0]):02X}", str(step)) for step in path)
    return ".".join(("output", *parts))


def _field(leaf: _Leaf) -> Field:
    steps = [str(step + 1) if isinstance(step, int) else step for step in leaf.path]
    kind = _type(leaf)
    choices: tuple[str, ...] = ()
    if kind == "boolean":
        choices = ("true", "false", *(("null",) if "null" in types_of(leaf.hint) else ()))
    elif kind == "enum":
        choices = tuple(choices_of(leaf.hint))
    value = _text(leaf)
    # What the model wrote comes first when it is none of the choices, and nothing when it wrote nothing.
    choices = choices if not choices or value in choices else (value, *choices)
    help_text = "null, or the text as it is" if _text_or_null(leaf) else leaf.hint.get("description")
    help_text = help_text if isinstance(help_text, str) else _SAYS.get(kind, "")
    return Field(_name(leaf.path), " › ".join(steps), kind, value, choices, leaf.required, help_text)


_SAYS = {"integer": "a whole number", "number": "a number", "json": "JSON", "null": "null, or other JSON"}


def _type(leaf: _Leaf) -> str:
    """What the field asks for: by the schema's word; a value at odds with it is edited as JSON."""
    types, value = types_of(leaf.hint), leaf.value
    choices = choices_of(leaf.hint)
    if choices:
        offered = any(same(choice, value) for choice in choices.values())
        odd_text = isinstance(value, str) and value not in choices
        return "enum" if offered or odd_text or not leaf.present else "json"
    if not leaf.present:
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


_PLAIN = {"string", "integer", "number", "boolean"}


def _text(leaf: _Leaf) -> str:
    if not leaf.present:
        return ""
    if _type(leaf) == "enum":
        chosen = (text for text, choice in choices_of(leaf.hint).items() if same(choice, leaf.value))
        return next(chosen, leaf.value)
    return leaf.value if _type(leaf) in ("string", "text") else _json(leaf.value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _untouched(leaf: _Leaf, posted: str) -> bool:
    shown = _text(leaf)
    return _newlines(posted, shown) == shown


def _read(leaf: _Leaf, posted: str, name: str) -> Any:
    """What `posted` means where `leaf` is, or Invalid naming the field."""
    kind, text = _type(leaf), posted.strip()
    if kind in ("string", "text"):
        return _newlines(posted, _text(leaf))
    if kind == "enum":
        choices = choices_of(leaf.hint)
        if posted not in choices:
            raise Invalid("Choose one of the values offered.", field=name)
        return choices[posted]
    if text == "null" and "null" in types_of(leaf.hint):
        return None
    if kind == "boolean":
        if text not in ("true", "false"):
            raise Invalid("Must be true or false.", field=name)
        return text == "true"
    if kind in ("integer", "number"):
        return _read_number(leaf, kind, text, name)
    if kind == "null" and not text:
        return None
    if _text_or_null(leaf):
        return _newlines(posted, "")
    return strict_json(posted, name)


def _text_or_null(leaf: _Leaf) -> bool:
    return leaf.present and leaf.value is None and types_of(leaf.hint) == {"string", "null"}


def _read_number(leaf: _Leaf, kind: str, text: str, name: str) -> int | float:
    if kind == "integer" and not _INTEGER.fullmatch(text):
        raise Invalid("Must be a whole number such as 12.", field=name)
    if not _NUMBER.fullmatch(text):
        raise Invalid("Must be a number such as 12 or 12.5.", field=name)
    number = strict_json(text, name)
    was_float = isinstance(leaf.value, float) and kind == "number"
    # 3 typed over 2.5 stays a float, unless a float could not hold it.
    if was_float and isinstance(number, int) and abs(number) <= 2**53:
        return float(number)
    return number  # type: ignore[no-any-return]


def _put(output: Any, path: Path, value: Any) -> None:
    for step in path[:-1]:
        output = output[step]
    output[path[-1]] = value
