"""The API's shapes: the one definition behind checking what comes in and describing it in OpenAPI.

Every text has a limit. A shape that comes in must never accept a field it does not know.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    WithJsonSchema,
    field_validator,
)

from reviewqueue.errors import Fault, Invalid
from reviewqueue.intake.strict_json import MAX_FAULTS, MAX_NUMBER, pointer
from reviewqueue.routing.wording import faults

BATCH = 1000  # items
METADATA_LIMIT = 16 * 1024  # bytes of JSON
NO_NUL = r"^[^\x00]*$"

JSON_SCHEMA = {"$ref": "#/components/schemas/Json"}
_OBJECT_SCHEMA = {"$ref": "#/components/schemas/JsonObject"}
_ARRAY_SCHEMA = {"type": "array", "items": JSON_SCHEMA}


class _Shape(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def limits(most: int, least: int = 0) -> Any:
    """The limits of a text field, in characters."""
    return Field(min_length=least, max_length=most, pattern=NO_NUL)


def described(schema: dict[str, Any]) -> Any:
    """What OpenAPI says of a field that pydantic lets through."""
    # As text, since a reference pydantic does not know would make it fail; `openapi` puts it back.
    return WithJsonSchema({"x-schema": json.dumps(schema)})


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# To JSON 3.0 and 3 are one number. After the limits, or they would be missing from the description.
WHOLE = BeforeValidator(_whole)
Name = Annotated[str, limits(200, 1)]
Json = Annotated[Any, described(JSON_SCHEMA)]
Output = Annotated[
    Any, described({"anyOf": [{"type": "string", "pattern": NO_NUL}, _OBJECT_SCHEMA, _ARRAY_SCHEMA]})
]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER), WHOLE]
Amount = Annotated[float, Field(ge=0, le=MAX_NUMBER)]


class Passage(_Shape):
    """A passage that was retrieved for the prompt; reviewers see it."""

    title: Annotated[str, limits(1_000)] | None = None
    text: Annotated[str, limits(1 << 20)] | None = None
    url: Annotated[str, limits(4_000)] | None = None
    score: Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)] | None = None


class Prompt(_Shape):
    """Which prompt was used."""

    name: Name
    version: Annotated[
        Name,
        BeforeValidator(lambda given: str(whole) if type(whole := _whole(given)) is int else given),
        described({"anyOf": [{"type": "string", "minLength": 1, "maxLength": 200, "pattern": NO_NUL},
                             {"type": "integer", "minimum": -MAX_NUMBER, "maximum": MAX_NUMBER}]}),
    ] | None = None  # fmt: skip


class Usage(_Shape):
    """What the output cost."""

    input_tokens: Count | None = None
    output_tokens: Count | None = None
    cost_usd: Amount | None = None
    latency_ms: Amount | None = None


class Trace(_Shape):
    """Where the call can be looked up: W3C trace context, and an address."""

    traceparent: Annotated[str, limits(200)] | None = None
    url: Annotated[str, limits(4_000)] | None = None


def _prompt_form(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<named>"


class Submission(_Shape):
    """An item as a backend submits it. A field that is null counts as left out."""

    project: Annotated[str, limits(200, 1), Field(description="The project's name.")]
    output: Annotated[
        Output,
        Field(
            description="What the model said, as the project's kind asks: text, markdown and label a string; "
            'chat [{"role", "content"}]; tool_call {"name", "arguments"}; json an object or a list.'
        ),
    ]
    input: Annotated[Json, Field(description="What the model was asked; any JSON.")] = None
    context: Annotated[list[Passage], Field(max_length=1000)] | None = None
    confidence: Share | None = None
    logprobs: Annotated[
        list[Annotated[float, Field(le=0, ge=-MAX_NUMBER)]],
        Field(max_length=100_000, description="Of the tokens; they give a confidence when there is none."),
    ] | None = None  # fmt: skip
    samples: Annotated[
        list[Output],
        Field(max_length=100, description="Other answers to the same input; give a confidence, too."),
    ] | None = None  # fmt: skip
    risk: Share | None = None
    risk_flags: Annotated[list[Name], Field(max_length=100)] | None = None
    external_id: Annotated[
        Name, Field(description="The backend's own id; one item for ever in this backend and project.")
    ] | None = None  # fmt: skip
    model: Name | None = None
    prompt: Annotated[
        Annotated[Name, Tag("<text>")] | Annotated[Prompt, Tag("<named>")], Discriminator(_prompt_form)
    ] | None = None  # fmt: skip
    example_set: Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE] | None = None
    arm: Annotated[str, limits(32)] | None = None
    usage: Usage | None = None
    subject: Annotated[Name, Field(description="The end user it is for.")] | None = None
    feature: Annotated[Name, Field(description="The product feature it is for.")] | None = None
    trace: Trace | None = None
    metadata: Annotated[
        dict[str, Any],
        described(_OBJECT_SCHEMA),
        Field(description="Echoed back, never interpreted; at most 16 KiB of JSON."),
    ] | None = None  # fmt: skip

    @field_validator("output")
    @classmethod
    def _check_output(cls, output: Any) -> Any:
        if not isinstance(output, str | dict | list):
            raise ValueError("must be a text, an object or a list")
        return output

    @field_validator("samples")
    @classmethod
    def _check_samples(cls, samples: list[Any] | None) -> list[Any] | None:
        if not all(isinstance(sample, str | dict | list) for sample in samples or []):
            raise ValueError("must be a list of texts, objects or lists")
        return samples

    @field_validator("metadata")
    @classmethod
    def _check_metadata(cls, metadata: dict[str, Any] | None) -> dict[str, Any] | None:
        if metadata and len(json.dumps(metadata, ensure_ascii=False).encode()) > METADATA_LIMIT:
            raise ValueError(f"must be at most {METADATA_LIMIT} bytes of JSON")
        return metadata


class Batch(_Shape):
    """Many items at once; each is checked and answered on its own."""

    items: Annotated[
        list[Any],
        described({"type": "array", "items": JSON_SCHEMA, "minItems": 1, "maxItems": BATCH}),
        Field(min_length=1, max_length=BATCH, description="Each as it would be submitted alone."),
    ]


class Event(_Shape):
    """A signed message in the form of the Standard Webhooks specification."""

    type: Literal["item.submit"]
    timestamp: Annotated[str, limits(64)] | None = None
    backend: Annotated[str, limits(64), Field(description="When given, the name in the address.")] | None = (
        None
    )
    data: Annotated[Any, described({"$ref": "#/components/schemas/Submission"})]


S = TypeVar("S", bound=BaseModel)


def read(shape: type[S], value: Any) -> S:
    """`value` in this shape; Invalid with a pointer to each fault."""
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        told = islice(faults(error, shape), MAX_FAULTS)
        found: list[Fault] = [{"pointer": pointer(place), "message": said} for place, said in told]
    first = found[0]
    raise Invalid(f"{first['pointer'] or 'the body'} {first['message']}", "invalid_request", errors=found)


# What goes out. These describe; the code that makes them is items.py.


class _Told(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Reason(_Told):
    """Why an item went where it went; `code` is for programs."""

    code: str
    message: str


class RouteTold(_Told):
    """The policy's answer for an item."""

    decision: Literal["release", "review", "block"]
    queue: str | None
    policy_version: int
    reasons: list[Reason]


class DecisionTold(_Told):
    """What was settled. Until `final_at` it can be taken back and is not `final`."""

    id: str
    verdict: Literal["approve", "edit", "reject"] | None = Field(description="null: a timeout, no verdict.")
    source: Literal["review", "control", "adjudication", "override", "timeout"]
    released: bool = Field(description="Whether the output may be used.")
    output: Json
    edited: bool
    reason: str | None
    cause: str | None
    note: str | None
    decided_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    decided_by: str | None
    policy_version: int
    final: bool
    final_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]


class ItemTold(_Told):
    """An item as it stands. `output` is what may be used now, else null."""

    id: str
    status: Literal["released", "pending", "decided", "blocked", "withdrawn", "expired", "erased"]
    project: str
    external_id: str | None
    created_at: Annotated[str, Field(json_schema_extra={"format": "date-time"})]
    confidence: float | None
    confidence_source: Literal["given", "logprobs", "samples"] | None
    route: RouteTold
    output: Json
    decision: DecisionTold | None
    sequence: int = Field(description="Of the last event that was called back.")
    metadata: Annotated[dict[str, Any], described(_OBJECT_SCHEMA)]
    page: str = Field(description="Where people see it.")


class ItemsTold(_Told):
    """One page of items, newest first."""

    items: list[ItemTold]
    next_cursor: str | None = Field(description="For the next page; null on the last one.")


class FaultTold(_Told):
    """One thing wrong with what was sent."""

    pointer: str
    message: str


class ErrorTold(_Told):
    """Why one item of a batch was refused."""

    code: str
    detail: str
    errors: list[FaultTold] | None = None


class ResultTold(_Told):
    """What became of one item of a batch; `status` is the one it would have had alone."""

    index: int
    status: int
    item: ItemTold | None = None
    error: ErrorTold | None = None


class BatchTold(_Told):
    """One result for each item of a batch, in its order."""

    results: list[ResultTold]


class ProblemTold(BaseModel):
    """A refusal (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str = Field(description="A stable word to act on.")
    request_id: str | None
    errors: list[FaultTold] | None = None
