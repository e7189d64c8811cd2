"""The API's description, OpenAPI 3.1, made of the same shapes that check what comes in.

What stands here must be what `api` does: schemathesis compares the two in every build.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from reviewqueue.config import current
from reviewqueue.examples.export import FORMATS
from reviewqueue.examples.shapes import ExampleSearch
from reviewqueue.intake.items import LONGEST_PAGE
from reviewqueue.intake.shapes import JSON_SCHEMA, NO_NUL, Batch, Event, Submission
from reviewqueue.intake.told import BatchTold, ItemsTold, ItemTold, ProblemTold
from reviewqueue.models.intake import STATUSES
from reviewqueue.strict_json import MAX_DEPTH, MAX_KEYS, MAX_NUMBER

KEY_PATTERN = r"^[!-~]{1,255}$"
CURSOR_PATTERN = r"^[0-9]{1,15}$"

_REF = "#/components/schemas/{model}"
_ITEM_ID = {"type": "string", "pattern": "^itm_[0-9a-hjkmnp-tv-z]{26}$"}
_TEXT = {"type": "string", "minLength": 1, "maxLength": 200, "pattern": NO_NUL}
_SLUG = {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$", "maxLength": 64}
_REFUSALS = {
    401: "The key or the signature does not hold.",
    403: "The key lacks the scope.",
    404: "Not there, or not yours.",
    409: "Somebody was there first.",
    413: "Larger than 1 MiB (a batch: 16 MiB).",
    415: "Not JSON.",
    422: "Something in the body, a header or the query is not right; `errors` says where.",
    429: "Too many at once; `Retry-After` says how long to wait.",
    503: "Cannot be done now; `Retry-After` says how long to wait.",
}


@dataclass(frozen=True)
class Operation:
    """One thing the API does.

    `also` are parameters that a generated request must not have: one key under two bodies is refused as it
    should be, and a wait outlasts the patience of tools. They are told in words and under `x-parameters`.
    """

    method: str
    path: str
    summary: str
    scope: str | None  # None: signed with the backend's inbound secret
    answers: dict[int, tuple[str, type[BaseModel] | None]]
    body: type[BaseModel] | None = None
    parameters: tuple[dict[str, Any], ...] = ()
    also: tuple[dict[str, Any], ...] = ()
    says: str = ""
    refusals: tuple[int, ...] = (401, 403, 404, 422, 503)
    media: tuple[str, ...] = ("application/json",)


def _parameter(name: str, where: str, schema: dict[str, Any], says: str) -> dict[str, Any]:
    return {"name": name, "in": where, "required": where == "path", "schema": schema, "description": says}


_KEY = _parameter(
    "Idempotency-Key", "header", {"type": "string", "pattern": KEY_PATTERN},
    "One key names one item for ever: repeat a request with it and get the same answer.",
)  # fmt: skip
_ITEM = _parameter("item_id", "path", _ITEM_ID, "The item's id.")
_PROJECT = _parameter("project", "path", _SLUG, "The project's name.")
_WRITES = (401, 403, 404, 409, 413, 415, 422, 429, 503)

_OPERATIONS = (
    Operation(
        "post", "/api/v1/items", "Submit an item", "items:write",
        {201: ("Stored.", ItemTold), 200: ("A repeat: the first answer again.", ItemTold)},
        Submission, also=(_KEY,), refusals=_WRITES,
    ),
    Operation(
        "post", "/api/v1/items/batch", "Submit up to 1,000 items", "items:write",
        {200: ("One result for each item, in order.", BatchTold)}, Batch, also=(_KEY,), refusals=_WRITES,
        says="The good ones are kept; each bad one says why.",
    ),
    Operation(
        "get", "/api/v1/items", "List items, newest first", "items:read", {200: ("A page.", ItemsTold)},
        parameters=(
            _parameter("project", "query", _TEXT, "Of this project."),
            _parameter("status", "query", {"type": "string", "enum": list(STATUSES)}, "With this status."),
            _parameter("external_id", "query", _TEXT, "With this id of your own."),
            _parameter("since", "query", {"type": "string", "format": "date-time"}, "Not submitted earlier."),
            _parameter("cursor", "query", {"type": "string", "pattern": CURSOR_PATTERN},
                       "The `next_cursor` of the page before."),
            _parameter("limit", "query", {"type": "integer", "minimum": 1, "maximum": LONGEST_PAGE,
                       "default": 50}, "Items on a page."),
        ),
    ),
    Operation(
        "get", "/api/v1/items/{item_id}", "Look at an item, or wait for its decision", "items:read",
        {200: ("The item.", ItemTold)},
        parameters=(_ITEM,),
        also=(_parameter("wait", "query", {"type": "integer", "minimum": 0, "maximum": 30, "default": 0},
              "Hold the answer up to this many seconds, until the decision is final."),),
    ),
    Operation(
        "post", "/api/v1/items/{item_id}/withdrawal", "Withdraw a pending item", "items:write",
        {200: ("Withdrawn.", ItemTold)}, parameters=(_ITEM,), refusals=(401, 403, 404, 409, 503),
    ),
    Operation(
        "post", "/webhooks/{backend}", "Submit an item by a signed message", None,
        {201: ("Stored.", ItemTold), 200: ("A repeat: the first answer again.", ItemTold)}, Event,
        (
            _parameter("backend", "path", _SLUG, "The backend's name."),
            _parameter("webhook-id", "header", {"type": "string"}, "The message's id; the idempotency key."),
            _parameter("webhook-timestamp", "header", {"type": "string"}, "Seconds since 1970."),
        ),
        says="Signed with the inbound secret as in the Standard Webhooks specification.",
        refusals=(401, 404, 409, 413, 415, 422, 429, 503),
    ),
    Operation(
        "post", "/api/v1/projects/{project}/examples/search", "Find examples for a prompt",
        "examples:read", {200: ("The nearest active examples.", None)}, ExampleSearch, (_PROJECT,),
        refusals=(401, 403, 404, 413, 415, 422, 503),
    ),
    Operation(
        "get", "/api/v1/projects/{project}/example-sets/{number}", "Look at an example set",
        "examples:read", {200: ("The set, the same for ever.", None)},
        parameters=(_PROJECT, _parameter("number", "path", {"type": "integer", "minimum": 0,
                    "maximum": 2**31 - 1}, "The set's number.")),
        refusals=(401, 403, 404, 503),
    ),
    Operation(
        "get", "/api/v1/projects/{project}/examples/export", "Export the examples", "export:read",
        {200: ("Row by row.", None)},
        parameters=(_PROJECT, _parameter("format", "query", {"type": "string", "enum": list(FORMATS),
                    "default": "jsonl"}, "What a row is.")),
        media=("application/x-ndjson", "text/csv"),
    ),
)  # fmt: skip


def operations() -> tuple[Operation, ...]:
    """Everything the API does."""
    return _OPERATIONS


def document() -> dict[str, Any]:
    """The whole description; the same object for the life of the process."""
    return _document(current().public_url)


@cache
def _document(address: str) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for operation in _OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "reviewqueue",
            "version": "1",
            "description": "Submit LLM outputs, learn what was decided. JSON is read strictly: UTF-8, no "
            f"repeated keys, no NUL, no number beyond ±{MAX_NUMBER}, at most {MAX_DEPTH} levels.",
        },
        "servers": [{"url": address}],
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "The backend's API key."},
                "signature": {"type": "apiKey", "in": "header", "name": "webhook-signature"},
            },
        },
    }  # fmt: skip


def _or_empty(parameter: dict[str, Any]) -> dict[str, Any]:
    """A parameter of the query may be left empty: that counts as left out."""
    if parameter["in"] != "query":
        return parameter
    return parameter | {"schema": {"anyOf": [parameter["schema"], {"const": ""}]}}


def _operation(operation: Operation) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": f"{operation.method} {operation.path}".replace("/", " ").replace("  ", " "),
        "summary": operation.summary,
        "parameters": [_or_empty(one) for one in operation.parameters],
        "security": [{"key": []} if operation.scope else {"signature": []}],
        "responses": dict(_responses(operation)),
    }
    scope = f"Key scope: `{operation.scope}`." if operation.scope else ""
    also = [f"`{one['name']}` ({one['in']}): {one['description']}" for one in operation.also]
    told["description"] = " ".join(filter(None, [operation.says, *also, scope])) or operation.summary
    if operation.also:
        told["x-parameters"] = list(operation.also)
    if operation.body:
        schema = {"$ref": _REF.format(model=operation.body.__name__)}
        told["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    return told


def _responses(operation: Operation) -> Iterator[tuple[str, dict[str, Any]]]:
    for status, (says, shape) in operation.answers.items():
        schema = {"$ref": _REF.format(model=shape.__name__)} if shape else {}
        content = {media: {"schema": schema} for media in operation.media}
        answer: dict[str, Any] = {"description": says, "content": content}
        if status == 200 and operation.body in (Submission, Event, Batch):
            replayed = {"description": "true for a repeat", "schema": {"type": "string", "enum": ["true"]}}
            answer["headers"] = {"Idempotency-Replayed": replayed}
        yield str(status), answer
    problem = {"application/problem+json": {"schema": {"$ref": _REF.format(model=ProblemTold.__name__)}}}
    for status in operation.refusals:
        yield str(status), {"description": _REFUSALS[status], "content": problem}
    yield "default", {"description": "Any other refusal.", "content": problem}


def _schemas() -> dict[str, Any]:
    taken = (Submission, Batch, Event, ExampleSearch)
    told = (ItemTold, ItemsTold, BatchTold, ProblemTold)
    _, made = models_json_schema(
        [*((shape, "validation") for shape in taken), *((shape, "serialization") for shape in told)],
        ref_template=_REF,
    )
    number = {"type": "number", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER}
    text = {"type": "string", "pattern": NO_NUL}
    any_json = [
        {"type": "null"}, {"type": "boolean"}, number, text, {"type": "array", "items": JSON_SCHEMA},
        {"$ref": _REF.format(model="JsonObject")},
    ]  # fmt: skip
    schemas: dict[str, Any] = _tidied(made["$defs"])
    schemas["ExampleSearch"]["properties"]["input"]["anyOf"] = any_json[1:]
    return schemas | {
        "Json": {"anyOf": any_json},
        "JsonObject": {
            "type": "object",
            "propertyNames": text,
            "additionalProperties": JSON_SCHEMA,
            "maxProperties": MAX_KEYS,
        },
    }


def _tidied(schema: Any) -> Any:
    """Without the titles pydantic makes up, and with what it let through put in its place."""
    if isinstance(schema, list):
        return [_tidied(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    tidy = {
        key: _tidied(part)
        for key, part in schema.items()
        if key != "x-schema" and (key != "title" or isinstance(part, dict))
    }
    return tidy | json.loads(schema.get("x-schema", "{}"))


_TYPES = {
    "string": "text", "integer": "whole number", "number": "number", "boolean": "true or false",
    "array": "list", "object": "object", "null": "null",
}  # fmt: skip
_UNITS = {"string": ("Length", " characters"), "array": ("Items", " entries"), "number": ("imum", "")}


def in_words(schema: dict[str, Any]) -> str:
    """What a field takes, for people: "text, 1 to 200 characters"."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return {"Json": "any JSON", "JsonObject": "object"}.get(name, name)
    choices = [part for word in ("anyOf", "oneOf") for part in schema.get(word, [])]
    if choices:
        return " or ".join(in_words(part) for part in choices if part != {"type": "null"})
    if "enum" in schema or "const" in schema:
        return " · ".join(map(str, schema.get("enum", [schema.get("const")])))
    kind = schema.get("type")
    words = _TYPES.get(str(kind), "any JSON")
    if kind == "array":
        words += f" of {in_words(schema.get('items', {}))}"
    suffix, unit = _UNITS.get("number" if kind == "integer" else str(kind), ("", ""))
    least, most = schema.get(f"min{suffix}"), schema.get(f"max{suffix}")
    if most is None or abs(most) == MAX_NUMBER:
        return words + (f", at least {least:,}{unit}" if least and abs(least) != MAX_NUMBER else "")
    return (
        f"{words}, {least:,} to {most:,}{unit}" if least is not None else f"{words}, at most {most:,}{unit}"
    )


def described(schema: dict[str, Any]) -> str:
    """What a field means, wherever in its schema that stands."""
    inner = (described(part) for word in ("anyOf", "oneOf") for part in schema.get(word, []))
    return str(schema.get("description") or next(filter(None, inner), ""))
