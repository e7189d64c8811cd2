"""The shapes of the API's answers, for its description; the code that makes them is items.py.

They describe and check nothing: a test holds them against what the API really says.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from reviewqueue.intake.shapes import OBJECT_SCHEMA, Json, described


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
    metadata: Annotated[dict[str, Any], described(OBJECT_SCHEMA)]
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
