"""What a policy may say: parsed and checked when it is published, evaluated when an item comes in.

Must never raise on an item: a condition that cannot be evaluated answers with its reason instead.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Annotated, Any, Literal

import re2
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from reviewqueue.errors import Fault, Invalid
from reviewqueue.people.access import ADJUDICATION
from reviewqueue.routing.wording import Place, faults

MAIN = "main"
SLUG = r"[a-z0-9]+(?:-[a-z0-9]+)*"

Op = Literal["eq", "ne", "lt", "lte", "gt", "gte", "in", "not_in", "contains", "matches", "exists"]
_RE2 = re2.Options()
_RE2.log_errors = False
_PATH = re.compile(r"[^.\s]+(?:\.[^.]+)*")


class _Missing:
    """What a path that leads nowhere gives; null counts as nowhere too."""


MISSING = _Missing()


class CannotTell(Exception):
    """A condition does not apply to the value it found; the message says why without quoting the value."""


class _Table(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


Share = Annotated[float, Field(ge=0, le=1)]
Reviews = Annotated[int, Field(ge=1, le=9)]
Slug = Annotated[str, Field(max_length=64, pattern=f"^{SLUG}$")]


class Condition(_Table):
    """One comparison of a rule: the value at `field` against `value`."""

    field: Annotated[str, Field(min_length=1, max_length=200)]
    op: Op
    value: Any = None

    @field_validator("field")
    @classmethod
    def _check_path(cls, path: str) -> str:
        if not _PATH.fullmatch(path):
            raise ValueError("must be a dotted path into the item, for example output.arguments.amount")
        return path

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, table: Any) -> Any:
        if isinstance(table, Mapping) and table.get("op") == "exists":
            return {"value": True, **table}
        return table

    @model_validator(mode="after")
    def _check_value(self) -> Condition:
        wanted = _VALUES[self.op]
        if self.value is None:
            raise ValueError(f"op {self.op} needs a value: {wanted}")
        if not _fits(self.op, self.value):
            raise ValueError(f"op {self.op} takes {wanted}")
        if self.op == "matches":
            _pattern(self.value)
        return self


class Rule(_Table):
    """A rule: when all its conditions hold, its route is taken."""

    name: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")]
    when: Annotated[list[Condition], Field(min_length=1, max_length=50)]
    route: Literal["review", "release", "block"]
    queue: Slug = MAIN
    reviews: Reviews | None = None  # None: as many as the policy says
    priority: Literal["low", "normal", "high", "urgent"] = "normal"

    @field_validator("queue")
    @classmethod
    def _check_queue(cls, queue: str) -> str:
        if queue == ADJUDICATION:
            raise ValueError("the queue adjudication is for reviews that disagree; name another one")
        return queue


class PolicyBody(_Table):
    """A whole policy with its defaults filled in. With neither threshold everything is reviewed."""

    confidence_below: Share | None = None
    risk_above: Share | None = None
    missing_confidence: Literal["review", "pass"] = "review"
    control_rate: Share = 0.0
    reviews: Reviews = 1
    due_minutes: Annotated[int, Field(ge=1, le=525_600)] = 1440
    on_timeout: Literal["wait", "reject", "release"] = "wait"
    undo_seconds: Annotated[int, Field(ge=0, le=86_400)] = 10
    rules: Annotated[list[Rule], Field(max_length=200)] = []

    @field_validator("rules")
    @classmethod
    def _check_names(cls, rules: list[Rule]) -> list[Rule]:
        names = [rule.name for rule in rules]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f'two rules are named "{name}"; a reason must tell them apart')
        return rules


def parse_policy(table: Any) -> PolicyBody:
    """The policy that a `[policy]` table says; Invalid lists every fault by its place in the table."""
    try:
        return PolicyBody.model_validate(table)
    except ValidationError as error:
        found = list(faults(error, PolicyBody))
        errors: list[Fault] = [
            {
                "pointer": "policy" + "".join(f".{step}" for step in place),
                "message": _named(table, place) + said,
            }
            for place, said in found
        ]
        first = errors[0]
        raise Invalid(f"{first['pointer']}: {first['message']}", "policy_invalid", errors=errors) from None


def _named(table: Any, place: Place) -> str:
    """`rule "large refund": ` when the fault stands in a rule that has a name."""
    if len(place) < 2 or place[0] != "rules" or not isinstance(place[1], int):
        return ""
    rule = table["rules"][place[1]]
    name = rule.get("name") if isinstance(rule, Mapping) else None
    return f'rule "{name}": ' if isinstance(name, str) else f"rule {place[1] + 1}: "


def policy_body(stored: Mapping[str, Any]) -> PolicyBody:
    """A published policy, as it stands in the database."""
    return PolicyBody.model_validate(stored)


def value_at(item: Mapping[str, Any], path: str) -> Any:
    """What `item` has at a dotted path (`output.lines.0.price`), or MISSING."""
    value: Any = item
    for step in path.split("."):
        if isinstance(value, Mapping):
            value = value.get(step, MISSING)
        elif isinstance(value, list) and step.isascii() and step.isdigit() and int(step[:9]) < len(value):
            value = value[int(step[:9])]
        else:
            return MISSING
    return MISSING if value is None else value


def holds(condition: Condition, item: Mapping[str, Any]) -> bool:
    """Whether the condition holds for `item` as submitted; CannotTell when its op cannot take the value."""
    found = value_at(item, condition.field)
    if condition.op == "exists":
        return (found is not MISSING) is bool(condition.value)
    if found is MISSING:
        return False
    try:
        return _OPS[condition.op](found, condition.value)
    except _Unfit:
        raise CannotTell(
            f"{condition.field} is {_kind(found)}, which {condition.op} cannot compare with "
            f"{_kind(condition.value)}"
        ) from None


class _Unfit(Exception):
    """The op does not apply to what it was given."""


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same(found: Any, wanted: Any) -> bool:
    """Equality of JSON: true is not 1, 1 is 1.0."""
    if isinstance(found, bool) or isinstance(wanted, bool):
        return found is wanted
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(_same, found, wanted))
    if isinstance(found, Mapping) and isinstance(wanted, Mapping):
        return found.keys() == wanted.keys() and all(_same(found[key], wanted[key]) for key in found)
    return bool(found == wanted)


def _ordered(compare: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def check(found: Any, wanted: Any) -> bool:
        if (_number(found) and _number(wanted)) or (isinstance(found, str) and isinstance(wanted, str)):
            return compare(found, wanted)
        raise _Unfit

    return check


def _contains(found: Any, wanted: Any) -> bool:
    if isinstance(found, str) and isinstance(wanted, str):
        return wanted in found
    if isinstance(found, Mapping) and isinstance(wanted, str):
        return wanted in found
    if isinstance(found, list):
        return any(_same(entry, wanted) for entry in found)
    raise _Unfit


def _matches(found: Any, wanted: str) -> bool:
    if not isinstance(found, str):
        raise _Unfit
    return _pattern(wanted).search(found) is not None


_OPS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": _same,
    "ne": lambda found, wanted: not _same(found, wanted),
    "lt": _ordered(operator.lt),
    "lte": _ordered(operator.le),
    "gt": _ordered(operator.gt),
    "gte": _ordered(operator.ge),
    "in": lambda found, wanted: any(_same(found, one) for one in wanted),
    "not_in": lambda found, wanted: not any(_same(found, one) for one in wanted),
    "contains": _contains,
    "matches": _matches,
}

_VALUES = {
    "eq": "a value to be equal to",
    "ne": "a value to differ from",
    "in": "a list of values",
    "not_in": "a list of values",
    "contains": "a text, number or true/false to look for",
    "matches": "a regular expression",
    "exists": "true or false",
} | dict.fromkeys(("lt", "lte", "gt", "gte"), "a number or a text")


def _fits(op: str, value: Any) -> bool:
    plain = isinstance(value, str | bool) or _number(value)
    if op in ("in", "not_in"):
        return isinstance(value, list) and 0 < len(value) <= 1000 and all(map(_json, value))
    if op in ("lt", "lte", "gt", "gte"):
        return isinstance(value, str) or _number(value)
    if op == "contains":
        return plain
    if op == "matches":
        return isinstance(value, str)
    if op == "exists":
        return isinstance(value, bool)
    return _json(value)


def _json(value: Any) -> bool:
    """Whether TOML's value can stand in JSON: no dates, no infinities."""
    if isinstance(value, list):
        return all(map(_json, value))
    if isinstance(value, Mapping):
        return all(map(_json, value.values()))
    return isinstance(value, str | bool) or (_number(value) and math.isfinite(value))


@lru_cache(maxsize=1000)
def _pattern(text: str) -> Any:
    """`text` compiled by RE2, which takes time linear in what it searches; ValueError says what is wrong."""
    try:
        return re2.compile(text, _RE2)
    except (re2.error, UnicodeError) as error:
        reason = error.args[0].decode() if error.args and isinstance(error.args[0], bytes) else str(error)
        raise ValueError(
            f"the pattern cannot be used: {reason}; write it without look-around and back-references"
        ) from None


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if _number(value):
        return "a number"
    return "a text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
