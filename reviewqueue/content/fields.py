"""The edit form of an output: fields out of it, and the output back from what a browser posts.

A field is named by its path (`output.items.0.qty`), and the shown output decides what each text means, so
types survive. Must never let an untouched field change the output.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import unquote

from reviewqueue.content.diff import same
from reviewqueue.content.fits import check, strict_json
from reviewqueue.content.places import Place, as_typed, places_of
from reviewqueue.content.schema import check_schema
from reviewqueue.content.show import pretty_json
from reviewqueue.errors import Invalid

__all__ = [
    "Field",
    "check",
    "check_schema",
    "field_of",
    "from_form",
    "plain_steps",
    "shape_of",
    "strict_json",
    "to_fields",
]

SHAPE = "shape"  # the hidden field that holds the value after entries came or went
MAX_FIELDS = 300  # beyond this an output is edited as raw JSON

_CHAT_JSON = re.compile(r'\s*\[\s*\{\s*"(?:role|content)"\s*:')


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
    limits: Mapping[str, Any] = field(default_factory=dict)  # by the schema's word: minimum, maxLength …
    removes: bool = False  # it may be taken out of the output
    renames: bool = False  # its key may be called otherwise


def to_fields(kind: str, schema: Any, output: Any, posted: Mapping[str, str] | None = None) -> list[Field]:
    """The fields that edit `output`; with `posted` they hold what was typed, as a refused form comes back.

    Text kinds and chat (its last assistant turn) have one field `output`, and so has what is too large or
    too plain for typed fields: then it is raw JSON.
    """
    if posted is None:
        return _fields(kind, schema, output)
    fields = _fields(kind, schema, shape_of(kind, output, posted))
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
    return as_typed(text, shown_output)


def shape_of(kind: str, output: Any, form: Mapping[str, str]) -> Any:
    """The value the fields of `form` stand in: `output`, or what it became when entries came or went."""
    shape = form.get(SHAPE, "")
    return strict_json(shape) if shape.strip() and kind in ("json", "tool_call") else output


def plain_steps(name: str) -> list[str]:
    """The steps of a field's name, its `output` left out."""
    return [unquote(step) for step in name.split(".")[1:]]


def _fields(kind: str, schema: Any, output: Any) -> list[Field]:
    if kind == "label":
        return [Field("output", "label", "enum", output, _label_choices(schema, output), True)]
    if kind == "chat":
        turn = _last_assistant(output)
        if turn is not None:
            return [Field("output", "last assistant turn", "text", output[turn]["content"])]
    if kind not in ("json", "tool_call", "chat"):
        return [Field("output", "output", "text", output)]
    places = [] if kind == "chat" else places_of(schema, output)
    if not places or len(places) > MAX_FIELDS:
        return [Field("output", "output", "json", pretty_json(output), (), True, "JSON")]
    return [field_of(place) for place in places]


def _from_typed(schema: Any, shown: Any, form: Mapping[str, str]) -> Any:
    shown = shape_of("json", shown, form)
    places = {place.name: place for place in places_of(schema, shown)}
    _refuse_unknown(form, places.keys())
    by_fields = copy.deepcopy(shown)
    for name, place in places.items():
        if name in form and as_typed(form[name], place.text) != place.text:
            _put(by_fields, place.path, place.read(form[name]))
    raw = form.get("output", "")
    if not raw.strip() or as_typed(raw, "\n") == pretty_json(shown):
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
    edited = as_typed(text, content)
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
    text = as_typed(text, shown)
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


def _refuse_unknown(form: Mapping[str, str], known: Collection[str]) -> None:
    for name in form:
        if name.startswith("output.") and name not in known:
            raise Invalid("This field is not part of the output that was shown.", field=name)


def field_of(place: Place) -> Field:
    """The control that edits one place."""
    steps = [str(step + 1) if isinstance(step, int) else step for step in place.path]
    label = " › ".join(steps)
    return Field(
        place.name, label, place.type, place.text, place.choices, place.required, place.help, place.limits
    )


def _put(output: Any, path: Sequence[str | int], value: Any) -> None:
    for step in path[:-1]:
        output = output[step]
    output[path[-1]] = value
