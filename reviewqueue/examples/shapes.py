"""What a backend may send to the examples API; the one definition behind checking and OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

MOST_EXAMPLES = 50
MOST_TOKENS = 200_000


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


# To JSON 3.0 and 3 are one number. After the limits, or they would be missing from the description.
WHOLE = BeforeValidator(_whole)


class ExampleSearch(BaseModel):
    """Which examples a prompt wants."""

    model_config = ConfigDict(extra="forbid", strict=True)

    input: Annotated[Any, Field(description="What the model will be asked; any JSON but null.")]
    k: Annotated[int, Field(ge=1, le=MOST_EXAMPLES, description="How many examples at most."), WHOLE] = 5
    max_tokens: Annotated[
        int, Field(ge=1, le=MOST_TOKENS, description="About how many tokens they may take together."), WHOLE
    ] = 1500
    item: Annotated[
        str | None,
        Field(
            max_length=30,
            pattern=r"^[^\x00]*$",
            description="Id of the item being asked about; its own example is left out.",
        ),
    ] = None

    @field_validator("input")
    @classmethod
    def _check_input(cls, asked: Any) -> Any:
        if asked is None:
            raise ValueError("must be the input to find examples for, not null")
        return asked
