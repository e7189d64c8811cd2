"""The decision form: what it holds at first, what was typed into it, which output that makes.

A draft is the form's fields as they were typed. Must never let an approval carry off text that was changed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from reviewqueue.content.diff import same
from reviewqueue.content.fields import SHAPE, Field, from_form, shape_of, to_fields
from reviewqueue.content.shape import Group, reshaped, tree_of
from reviewqueue.content.show import as_text, pretty_json
from reviewqueue.db import now
from reviewqueue.errors import Fault, Invalid
from reviewqueue.models import Item, Project

_LATER = re.compile(r"\+(\d{1,4})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
SNOOZES = (("+30m", "30 minutes"), ("+1h", "1 hour"), ("+4h", "4 hours"), ("+1d", "1 day"), ("+3d", "3 days"),
           ("+7d", "1 week"))  # fmt: skip
REMARKS = ("reason", "cause", "note")
KEYS = ("new.", "kind.", "name.")  # fields for a key that comes or is called otherwise: never part of a draft


@dataclass(frozen=True)
class Form:
    """Everything the form shows. `raw` is the JSON of the output when it has typed fields beside it.

    `shape` is the value the fields stand in once entries came or went, `tree` the fields in their groups.
    """

    fields: Sequence[Field]
    tree: Group | None
    shape: str | None
    raw: str | None
    raw_changed: bool
    top: Sequence[str]  # labels that the model itself came up with, its own first
    reason: str
    cause: str
    note: str
    faults: Mapping[str, str] = field(default_factory=dict)  # by the name of the field
    elsewhere: Sequence[str] = ()  # faults of places that have no field
    keys: Mapping[str, str] = field(default_factory=dict)  # what was typed for keys that could not be


def fill(
    project: Project, item: Item, typed: Mapping[str, str] | None = None, faults: Sequence[Fault] = ()
) -> Form:
    """The form over the item's output, holding what was `typed`, with each fault beside its field."""
    plain = {name: _newlines(text) for name, text in (typed or {}).items()}
    typed = _as_fields(project, item, plain)
    try:
        base = shape_of(project.kind, item.output, typed)
    except Invalid:
        typed, base = {name: text for name, text in typed.items() if name != SHAPE}, item.output
    fields = to_fields(project.kind, project.schema, item.output, typed)
    pretty = pretty_json(base)
    beside = any(one.name != "output" for one in fields)
    raw = typed.get("output") or pretty
    named = {one.name for one in fields} | set(REMARKS) | {"output", "verdict"}
    by_field: dict[str, str] = {}
    for fault in faults:
        if fault["pointer"] in named or fault["pointer"].startswith(KEYS):
            by_field.setdefault(fault["pointer"], fault["message"])
    return Form(
        fields=fields,
        tree=tree_of(_schema(project), base, typed) if beside else None,
        shape=None if same(base, item.output) else pretty,
        raw=raw if beside else None,
        raw_changed=beside and raw != pretty,
        top=_top_labels(item, fields) if project.kind == "label" else (),
        reason=typed.get("reason", ""),
        cause=typed.get("cause", ""),
        note=typed.get("note", ""),
        faults=by_field,
        elsewhere=[
            f"{fault['pointer'].removeprefix('output').lstrip('.')}: {fault['message']}"
            for fault in faults
            if fault["pointer"] not in named and not fault["pointer"].startswith(KEYS)
        ],
        keys={name: text for name, text in plain.items() if name.startswith(KEYS)},
    )


def reshape(project: Project, item: Item, typed: Mapping[str, str], wish: str) -> dict[str, str]:
    """What was `typed`, with one entry or key more, less, or of another name (see `reshaped`)."""
    verb, _, name = wish.partition(" ")
    key, kind = (
        typed.get(f"{'name' if verb == 'rename' else 'new'}.{name}", ""),
        typed.get(f"kind.{name}", ""),
    )
    output = reshaped(_schema(project), output_of(project, item, typed), wish, key, kind)
    kept = {name: text for name, text in typed.items() if name in REMARKS}
    return kept | {SHAPE: pretty_json(output)}


def keys_of(form: Mapping[str, str]) -> dict[str, str]:
    """What was typed for keys that come or are called otherwise."""
    return {name: form[name] for name in form if name.startswith(KEYS)}


def draft_of(form: Mapping[str, str]) -> dict[str, str] | None:
    """What was typed, as it is kept with a claim; None when the form has none of its fields."""
    typed = {name: form[name] for name in form if _is_ours(name)}
    return typed or None


def says_nothing(project: Project, item: Item, draft: Mapping[str, str]) -> bool:
    """Whether a draft only repeats what the form holds at first."""
    first = {one.name: one.value for one in to_fields(project.kind, project.schema, item.output)}
    first.setdefault("output", pretty_json(item.output))
    return all(_newlines(text) == _newlines(first.get(name, "")) for name, text in draft.items())


def output_of(project: Project, item: Item, form: Mapping[str, str]) -> Any:
    """The output as the form leaves it; Invalid names the field that cannot be read."""
    return from_form(project.kind, project.schema, item.output, {n: form[n] for n in form if _is_output(n)})


def outcome(project: Project, item: Item, verdict: str, form: Mapping[str, str]) -> Any:
    """The correction that goes with `verdict`, None when there is none.

    Invalid when the output was changed and approved all the same: one of the two was a slip.
    """
    if verdict == "edit":
        return output_of(project, item, form)
    if verdict == "approve":
        typed = {name: form[name] for name in form if _is_output(name)}
        if not typed.get("output", "x"):
            del typed["output"]  # a program that approves need not send the output back
        if not same(output_of(project, item, typed), item.output):
            message = (
                "You have changed the output. Press Edit to release your version, or take the change back."
            )
            raise Invalid(message, "changed", field="output")
    return None


def until_of(text: str, zone: str = "") -> datetime | None:
    """A time to be offered the review again: "+4h" from now, or RFC 3339.

    One without a zone is in the reader's: `zone` minutes west of UTC, as browsers count, else UTC itself.
    """
    text = text.strip()
    if not text:
        return None
    later = _LATER.fullmatch(text)
    if later:
        return now() + timedelta(**{_UNITS[later[2]]: int(later[1])})
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Invalid("Choose a time such as 2026-11-20T14:00Z.", field="until") from None
    if moment.tzinfo:
        return moment
    west = int(zone) if re.fullmatch(r"-?\d{1,3}", zone, re.ASCII) else 0
    return moment.replace(tzinfo=UTC) + timedelta(minutes=west)


def _schema(project: Project) -> Any:
    """What the form is drawn by: a call has a name and arguments, whatever its schema leaves open."""
    if project.kind != "tool_call":
        return project.schema
    whole = {"required": ["name", "arguments"], "additionalProperties": False}
    return {**(project.schema if isinstance(project.schema, dict) else {}), **whole}


def _is_output(name: str) -> bool:
    return name in ("output", SHAPE) or name.startswith("output.")


def _is_ours(name: str) -> bool:
    return _is_output(name) or name in REMARKS


def _newlines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _as_fields(project: Project, item: Item, typed: dict[str, str]) -> dict[str, str]:
    """A correction that was kept as one text (a verdict taken back) in the fields that edit it."""
    if project.kind not in ("chat", "json", "tool_call") or "output" not in typed:
        return typed
    if SHAPE in typed or any(name.startswith("output.") for name in typed):
        return typed
    try:
        output = output_of(project, item, typed)
    except Invalid:
        return typed
    before = to_fields(project.kind, project.schema, item.output)
    after = to_fields(project.kind, project.schema, output)
    if project.kind != "chat" and [one.name for one in before] != [one.name for one in after]:
        return reshape(project, item, typed, "")
    if [one.name for one in before] != [one.name for one in after]:
        return typed
    rest = {name: text for name, text in typed.items() if name != "output"}
    return rest | {one.name: one.value for one in after}


def _top_labels(item: Item, fields: Sequence[Field]) -> list[str]:
    offered = fields[0].choices
    answers = [as_text(item.output), *(as_text(sample) for sample in item.samples or ()), *_ranked(item)]
    return [label for label in dict.fromkeys(answers) if label in offered]


def _ranked(item: Item) -> list[str]:
    """Labels the backend listed in its metadata: texts or objects in its order, or scores by label."""
    found: list[Any] = []
    for name, listed in (item.details or {}).items():
        if not name.startswith(("top", "alternatives", "candidates")):
            continue
        if isinstance(listed, dict) and all(isinstance(score, int | float) for score in listed.values()):
            found += sorted(listed, key=lambda label: -listed[label])
        for one in listed if isinstance(listed, list) else ():
            found.append(one.get("label") or one.get("name") if isinstance(one, dict) else one)
    return [label for label in found if isinstance(label, str)]
