"""Items as the API tells them: as they stand now, and as they stood when they were submitted.

Reads only. What a backend may not see must never be found: every question starts with its own items.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.engine import Connection
from sqlalchemy.orm import aliased

from reviewqueue.config import current
from reviewqueue.db import db, now, stamp
from reviewqueue.errors import Invalid, Missing
from reviewqueue.models import Decision, Item, Project
from reviewqueue.models.intake import STATUSES
from reviewqueue.people.access import Actor, require

LONGEST_PAGE = 200


def one(actor: Actor, item_id: str) -> dict[str, Any]:
    """The item as it stands now; Missing unless it is the backend's own."""
    require(actor, "items:read")
    found = db.session.scalars(_own(actor).where(Item.id == item_id)).one_or_none()
    if found is None:
        raise Missing("there is no such item")
    return told([found])[0]


def is_settled(actor: Actor, item_id: str) -> bool:
    """Whether the item waits for no decision: it never did, or its decision is final."""
    require(actor, "items:read")
    query = (
        _own(actor)
        .with_only_columns(Item.status, Decision.final_at)
        .outerjoin(Decision, _in_force())
        .where(Item.id == item_id)
    )
    row = db.session.execute(query).one_or_none()
    if row is None:
        raise Missing("there is no such item")
    return row.status != "pending" and (row.final_at is None or row.final_at <= now())


@dataclass(frozen=True)
class Page:
    """Items, newest first, and where the next page begins."""

    items: list[dict[str, Any]]
    next_cursor: str | None


def page(
    actor: Actor,
    *,
    project: str | None = None,
    status: str | None = None,
    external_id: str | None = None,
    since: datetime | None = None,
    cursor: str | None = None,
    limit: int = 50,
) -> Page:
    """The backend's items, newest first, `limit` (1 to 200) at a time."""
    require(actor, "items:read")
    query = _own(actor)
    if project is not None:
        own = select(Project.id).where(Project.id == actor.project_id, Project.name == project)
        if db.session.scalar(own) is None:
            raise Missing(f"there is no project {project}", "project_not_found")
    if status is not None:
        if status not in STATUSES:
            raise Invalid(f"must be one of: {', '.join(STATUSES)}", field="status")
        query = query.where(Item.status == status)
    if external_id is not None:
        query = query.where(Item.project_id == actor.project_id, Item.external_id == external_id)
    if since is not None:
        query = query.where(Item.created_at >= since)
    if cursor is not None:
        query = query.where(Item.number < int(cursor))
    found = db.session.scalars(query.order_by(Item.number.desc()).limit(limit + 1)).all()
    shown = found[:limit]
    return Page(told(shown), str(shown[-1].number) if len(found) > limit else None)


def told(items: Sequence[Item]) -> list[dict[str, Any]]:
    """These items as they stand now."""
    names = _project_names({item.project_id for item in items})
    decisions = _decisions([item.id for item in items])
    moment = now()
    nothing = (None, None)
    return [_now(item, names[item.project_id], decisions.get(item.id, nothing), moment) for item in items]


def as_submitted(row: Mapping[str, Any], project: str) -> dict[str, Any]:
    """The answer to a submission, made anew from its row: the same for ever, whatever was decided since."""
    status = {"release": "released", "review": "pending", "block": "blocked"}[row["route"]]
    if row["status"] == "erased":
        status = "erased"
    output = row["output"] if status == "released" else None
    return _shape(row, project, status=status, output=output, decision=None, sequence=0)


def submitted(item: Item, project: str) -> dict[str, Any]:
    """What was submitted as this item, to be submitted again elsewhere; its confidence is given then."""
    prompt = {"name": item.prompt_name, "version": item.prompt_version}
    fields = {
        "project": project,
        "prompt": {part: text for part, text in prompt.items() if text is not None},
        "metadata": item.details,
    } | {name: getattr(item, name) for name in _SUBMITTED}
    return {name: value for name, value in fields.items() if name == "output" or value not in (None, {}, [])}


def _now(
    item: Item, project: str, settled: tuple[Decision | None, Decision | None], moment: datetime
) -> dict[str, Any]:
    decision, earlier = settled
    row = {column: getattr(item, column) for column in _COLUMNS}
    # What can still be taken back is told, but its output is not to be used yet.
    final = decision if decision is None or decision.final_at <= moment else earlier
    if final is not None:
        output = final.output if final.released else None
    else:
        output = item.output if item.route == "release" and item.status in ("released", "decided") else None
    return _shape(
        row,
        project,
        status=item.status,
        output=output,
        decision=_decision(decision, moment) if decision is not None else None,
        sequence=item.sequence,
    )


_COLUMNS = (
    "id", "external_id", "created_at", "confidence", "confidence_source", "route", "route_queue",
    "route_reasons", "policy_version", "details", "status", "output",
)  # fmt: skip
_SUBMITTED = (
    "external_id", "output", "input", "context", "confidence", "samples", "risk", "risk_flags", "model",
    "example_set", "arm", "usage", "subject", "feature", "trace",
)  # fmt: skip
COLUMNS = tuple(getattr(Item, column) for column in _COLUMNS)


def _shape(
    row: Mapping[str, Any], project: str, *, status: str, output: Any, decision: Any, sequence: int
) -> dict[str, Any]:
    return {
        "id": row["id"],
        "status": status,
        "project": project,
        "external_id": row["external_id"],
        "created_at": stamp(row["created_at"]),
        "confidence": row["confidence"],
        "confidence_source": row["confidence_source"],
        "route": {
            "decision": row["route"],
            "queue": row["route_queue"],
            "policy_version": row["policy_version"],
            "reasons": row["route_reasons"],
        },
        "output": output,
        "decision": decision,
        "sequence": sequence,
        "metadata": row["details"] or {},
        "page": f"{current().public_url}/items/{row['id']}",
    }


def _decision(decision: Decision, moment: datetime) -> dict[str, Any]:
    return {
        "id": decision.id,
        "verdict": decision.verdict,
        "source": decision.source,
        "released": decision.released,
        "output": decision.output,
        "edited": decision.edited,
        "reason": decision.reason,
        "cause": decision.cause,
        "note": decision.note,
        "decided_at": stamp(decision.decided_at),
        "decided_by": decision.decided_by,
        "policy_version": decision.policy_version,
        "final": decision.final_at <= moment,
        "final_at": stamp(decision.final_at),
    }


def _own(actor: Actor) -> Select[Item]:
    return select(Item).where(Item.backend_id == actor.backend_id)


def _in_force() -> Any:
    return (Decision.item_id == Item.id) & Decision.undone_at.is_(None) & Decision.superseded_at.is_(None)


def _decisions(item_ids: Sequence[str]) -> dict[str, tuple[Decision, Decision | None]]:
    """The decision in force of each item, and the one it supersedes."""
    before = aliased(Decision)
    rows = db.session.execute(
        select(Decision, before)
        .outerjoin(before, before.id == Decision.supersedes)
        .where(Decision.item_id.in_(item_ids), Decision.undone_at.is_(None), Decision.superseded_at.is_(None))
    )
    return {decision.item_id: (decision, earlier) for decision, earlier in rows}


def _project_names(ids: set[str]) -> dict[str, str]:
    rows = db.session.execute(select(Project.id, Project.name).where(Project.id.in_(ids)))
    return {row.id: row.name for row in rows}


def columns_of(connection: Connection, ids: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """What `as_submitted` needs of these items."""
    for start in range(0, len(ids), 500):
        rows = connection.execute(select(*COLUMNS).where(Item.id.in_(ids[start : start + 500])))
        yield from (row._asdict() for row in rows)
