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
from pydantic_core import to_json

from reviewqueue.errors import Fault, Invalid
from reviewqueue.routing.wording import faults
from reviewqueue.strict_json import MAX_FAULTS, MAX_NUMBER, pointer

BATCH = 1000  # items
METADATA_LIMIT = 16 * 1024  # bytes of JSON
NO_NUL = r"^[^\x00]*$"
SET_ID = r"^set_[0-9a-hjkmnp-tv-z]{26}$"

JSON_SCHEMA = {"$ref": "#/components/schemas/Json"}
OBJECT_SCHEMA = {"$ref": "#/components/schemas/JsonObject"}
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
    Any, described({"anyOf": [{"type": "string", "pattern": NO_NUL}, OBJECT_SCHEMA, _ARRAY_SCHEMA]})
]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=MAX_NUMBER), WHOLE]
LogProb = Annotated[float, Field(ge=-MAX_NUMBER, le=0)]
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


def _set_form(value: Any) -> str:
    return "<id>" if isinstance(value, str) else "<number>"


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
    input: Json = Field(None, description="What the model was asked.")
    context: Annotated[list[Passage], Field(max_length=1000)] | None = Field(
        None, description="Retrieved passages, shown to the reviewer."
    )
    confidence: Share | None = Field(
        None, description="How sure the output is right; else derived from logprobs or samples."
    )
    logprobs: Annotated[list[LogProb], Field(max_length=100_000)] | None = Field(
        None, description="Log-probabilities of the output's tokens."
    )
    samples: Annotated[list[Output], Field(max_length=100)] | None = Field(
        None, description="Other answers to the same input."
    )
    risk: Share | None = Field(None, description="How much harm a wrong output would do.")
    risk_flags: Annotated[list[Name], Field(max_length=100)] | None = Field(
        None, description="What checks found; rules can look for them."
    )
    external_id: Name | None = Field(
        None, description="The backend's own id; one item for ever in this backend and project."
    )
    model: Name | None = Field(None, description="Which model said it.")
    prompt: Annotated[
        Annotated[Name, Tag("<text>")] | Annotated[Prompt, Tag("<named>")], Discriminator(_prompt_form)
    ] | None = Field(None, description="Which prompt was used.")  # fmt: skip
    example_set: Annotated[
        Annotated[int, Field(ge=0, le=2**31 - 1), WHOLE, Tag("<number>")]
        | Annotated[str, Field(pattern=SET_ID), Tag("<id>")],
        Discriminator(_set_form),
    ] | None = Field(
        None, description="The set whose examples went into the prompt: its `set` or its `set_id`."
    )  # fmt: skip
    arm: Annotated[str, limits(32)] | None = Field(None, description="The arm that came with the examples.")
    usage: Usage | None = Field(None, description="What the output cost.")
    subject: Name | None = Field(None, description="The end user it is for.")
    feature: Name | None = Field(None, description="The product feature it is for.")
    trace: Trace | None = Field(None, description="Where the call can be looked up.")
    metadata: Annotated[dict[str, Any], described(OBJECT_SCHEMA)] | None = Field(
        None, description="Echoed back, never interpreted; at most 16 KiB of JSON."
    )

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
        # Without the space between its parts, which is the writer's and not the metadata's.
        if len(to_json(metadata)) > METADATA_LIMIT:
            raise ValueError(f"must be at most {METADATA_LIMIT} bytes of JSON")
        return metadata


class Batch(_Shape):
    """Many items at once; each is checked and answered on its own."""

    items: Annotated[
        list[Any],
        # Whatever an entry is, it is answered by itself.
        described({"type": "array", "items": {}, "minItems": 1, "maxItems": BATCH}),
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
