"""A submission made ready to be stored: checked against its project, routed, laid out as a row.

Reads the database and never writes it, so that nothing slow happens inside the transaction that stores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from reviewqueue.config import current
from reviewqueue.content.fields import check
from reviewqueue.errors import Fault, Invalid, Missing
from reviewqueue.ids import new_id
from reviewqueue.intake.shapes import Prompt, Submission
from reviewqueue.intake.signals import confidence_of
from reviewqueue.models import ExampleSet, Policy, Project, Queue
from reviewqueue.routing.projects import body_of
from reviewqueue.routing.route import Route, coin, route
from reviewqueue.routing.rules import PolicyBody


@dataclass(frozen=True)
class Desk:
    """What submitting needs to know of a project, read once; the policy version it found is pinned."""

    project_id: str
    project: str
    kind: str
    schema: Any
    paused: bool
    policy_version: int
    edition: tuple[Any, ...]  # differs whenever anything here does
    policy: PolicyBody
    queues: Mapping[str, str]  # name → id


@dataclass(frozen=True)
class Arrival:
    """One submission with its route: `row` has the columns of its item apart from the number."""

    row: dict[str, Any]
    route: Route

    @property
    def content_sha256(self) -> str:
        """Of all that was submitted."""
        return str(self.row["content_sha256"])


# What of a project changes whenever anything changes that a desk holds.
EDITION = (Project.updated_at, Project.policy_version, Project.paused)
_desks: dict[str, Desk] = {}


def desk_of(connection: Connection, project_id: str, edition: tuple[Any, ...]) -> Desk:
    """The project as it stands now, when `edition` was read a moment ago; kept until the project changes."""
    known = _desks.get(project_id)
    if known is None or known.edition != edition:
        known = _desks[project_id] = _read(connection, project_id)
    return known


def known_desk(project_id: str) -> Desk | None:
    """The project as it stood when it was last asked for, which may be long ago."""
    return _desks.get(project_id)


def _read(connection: Connection, project_id: str) -> Desk:
    with Session(connection) as session:
        project, policy = session.execute(
            select(Project, Policy)
            .join(Policy, (Policy.project_id == Project.id) & (Policy.version == Project.policy_version))
            .where(Project.id == project_id)
        ).one()
        queues = session.execute(select(Queue.name, Queue.id).where(Queue.project_id == project_id)).all()
    return Desk(
        project_id=project.id,
        project=project.name,
        kind=project.kind,
        schema=project.schema,
        paused=project.paused,
        policy_version=policy.version,
        edition=(project.updated_at, project.policy_version, project.paused),
        policy=body_of(policy),
        queues={row.name: row.id for row in queues},
    )


def arrive(
    connection: Connection, data: Submission, desk: Desk, backend_id: str, moment: datetime
) -> Arrival:
    """Check the output against its project and route the item; Invalid with pointers, or Missing."""
    if data.project != desk.project:
        raise Missing("there is no such project, or it is not this backend's", "project_not_found")
    faults: list[Fault] = [
        {"pointer": f"/output{fault['pointer']}", "message": fault["message"]}
        for fault in check(desk.kind, desk.schema, data.output)
    ]
    if faults:
        raise Invalid(f"{faults[0]['pointer']} {faults[0]['message']}", "output_invalid", errors=faults)
    said = data.model_dump(exclude_none=True)
    # Dumping drops nulls inside, too; these may hold any JSON and are kept as they are.
    said |= {
        name: value for name in ("output", "input", "samples", "metadata")
        if (value := getattr(data, name)) is not None
    }  # fmt: skip
    if isinstance(data.example_set, str):
        said["example_set"] = _set_number(connection, desk, data.example_set)
    confidence, source = confidence_of(data.output, data.confidence, data.logprobs, data.samples)
    item_id = new_id("itm")
    toss = coin(current().key("control"), item_id)
    answer = route(said | {"confidence": confidence}, desk.policy, toss, desk.paused)
    row = _content(said, data.prompt) | {
        "id": item_id,
        "project_id": desk.project_id,
        "backend_id": backend_id,
        "external_id": data.external_id,
        "content_sha256": _digest(said),
        "created_at": moment,
        "status": {"release": "released", "review": "pending", "block": "blocked"}[answer.decision],
        "sequence": 0,
        "round": 1,
        "policy_version": desk.policy_version,
        "confidence": confidence,
        "confidence_source": source,
        "coin": toss,
    }
    return Arrival(row | _pinned(answer), answer)


def _set_number(connection: Connection, desk: Desk, set_id: str) -> int:
    """The number of the project's example set with this id; Missing when the project has none."""
    wanted = select(ExampleSet.number).where(
        ExampleSet.id == set_id, ExampleSet.project_id == desk.project_id
    )
    number: int | None = connection.scalars(wanted).one_or_none()
    if number is None:
        raise Missing("there is no such example set", "example_set_not_found")
    return number


def _content(said: Mapping[str, Any], prompt: str | Prompt | None) -> dict[str, Any]:
    columns = (
        "output", "input", "context", "samples", "usage", "trace", "risk", "risk_flags", "model",
        "example_set", "arm", "subject", "feature",
    )  # fmt: skip
    name, version = (prompt.name, prompt.version) if isinstance(prompt, Prompt) else (prompt, None)
    return {column: said.get(column) for column in columns} | {
        "details": said.get("metadata"),
        "prompt_name": name,
        "prompt_version": version,
    }


def _pinned(answer: Route) -> dict[str, Any]:
    return {
        "route": answer.decision,
        "route_queue": answer.queue,
        "route_reasons": answer.reasons,
        "eligible": answer.eligible,
        "passed": answer.passed,
        "confidence_below": answer.confidence_below,
        "risk_above": answer.risk_above,
        "review_probability": answer.review_probability,
        "floor_probability": answer.floor_probability,
        "sampled": answer.sampled,
    }


def _digest(said: Mapping[str, Any]) -> str:
    return hashlib.sha256(_SORTED.encode(said).encode()).hexdigest()


_SORTED = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
