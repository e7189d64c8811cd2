"""A project from its file, and the versions of its policy.

Publishing checks everything before it changes anything. A published policy version is never changed: a
different policy is a new version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import exists, select
from sqlalchemy.orm import Session

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Invalid, Missing
from reviewqueue.ids import new_id
from reviewqueue.ledger.record import record
from reviewqueue.models import Item, Policy, Project, Queue
from reviewqueue.people.access import ADJUDICATION, Actor, require
from reviewqueue.routing.project_file import ProjectFile, read
from reviewqueue.routing.rules import MAIN, PolicyBody, policy_body

_OWN = ("title", "guidelines", "schema", "reasons", "causes", "control_arm", "replies")


@dataclass(frozen=True)
class Applied:
    """What a project file made of the project; `changes` are sentences, empty when nothing changed."""

    project: Project
    created: bool
    policy_version: int
    changes: list[str]


def apply(source: Path | str, actor: Actor, folder: Path | None = None) -> Applied:
    """Create or update the project in a TOML file (a path, or the text with its `folder`).

    Invalid names file, line, field and remedy, and nothing is changed. Name and, once there are items, kind
    are for ever.
    """
    require(actor, "publish")
    file = read(source, folder)
    with transaction() as session:
        named = select(Project).where(Project.name == file.name).with_for_update()
        project = session.scalars(named).one_or_none()
        created = project is None
        if project is None:
            project = _create(session, file)
            changes = [f"created project {file.name} of kind {file.kind}"]
            notes: list[dict[str, Any]] = [{"change": "project.created"}]
        else:
            changes, notes = _update(session, project, file)
        published = _publish(session, project, file.policy, actor)
        changes += published
        if published:
            version = session.scalars(_versions(project).limit(1)).one()
            notes.append(
                {"change": "policy.published", "policy": version.digest, "policy_version": version.version}
            )
        added = _add_queues(session, project, file.policy)
        changes += [f"added queue {name}" for name in added]
        if added:
            notes.append({"change": "queues.added", "queues": added})
        if changes:
            project.updated_at = now()
        for note in notes:
            record("config", note, project_id=project.id, actor=actor.id)
        version_now = project.policy_version
    session.refresh(project)
    return Applied(project, created, version_now, changes)


def _create(session: Session, file: ProjectFile) -> Project:
    own = {field: getattr(file, field) for field in _OWN}
    moment = now()
    project = Project(
        id=new_id("prj"), name=file.name, kind=file.kind, policy_version=0, created_at=moment,
        updated_at=moment, **own,
    )  # fmt: skip
    session.add(project)
    session.flush()
    return project


def _update(session: Session, project: Project, file: ProjectFile) -> tuple[list[str], list[dict[str, Any]]]:
    changes, fields = [], []
    if project.kind != file.kind:
        if session.scalar(select(exists().where(Item.project_id == project.id))):
            raise Invalid(
                f"kind: project {project.name} has items of kind {project.kind}; "
                f"give a project of kind {file.kind} another name",
                "kind_fixed", field="kind",
            )  # fmt: skip
        changes.append(f"kind: {project.kind} → {file.kind}")
        fields.append("kind")
        project.kind = file.kind
    for field in _OWN:
        old, new = getattr(project, field), getattr(file, field)
        if old != new:
            short = field in ("title", "control_arm")
            changes.append(f"{field}: {old} → {new}" if short else f"{field} changed")
            fields.append(field)
            setattr(project, field, new)
    return changes, [{"change": "project.changed", "target": " ".join(fields)}] if fields else []


def _publish(session: Session, project: Project, policy: PolicyBody, actor: Actor) -> list[str]:
    """Add a policy version when `policy` differs from the newest; what changed, in sentences."""
    body = policy.model_dump(mode="json")
    digest = sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    last = session.scalars(_versions(project).limit(1)).one_or_none()
    if last is not None and last.digest == digest:
        return []
    version = last.version + 1 if last else 1
    session.add(
        Policy(
            id=new_id("pol"), project_id=project.id, version=version, body=body, digest=digest,
            published_at=now(), published_by=actor.id if actor.id.startswith("usr_") else None,
        )
    )  # fmt: skip
    project.policy_version = version
    session.flush()
    if last is None:
        return [f"published policy version {version}"]
    return [f"published policy version {version}: {', '.join(differences(last.body, body))}"]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two policy bodies, field by field; rules by name."""
    told = [
        f"{field} {_shown(old.get(field))} → {_shown(new[field])}"
        for field in new
        if field != "rules" and old.get(field) != new[field]
    ]
    before = {rule["name"]: rule for rule in old.get("rules", [])}
    after = {rule["name"]: rule for rule in new["rules"]}
    told += [f'rule "{name}" removed' for name in before if name not in after]
    told += [f'rule "{name}" added' for name in after if name not in before]
    told += [f'rule "{name}" changed' for name in after if name in before and before[name] != after[name]]
    return told or ["the order of the rules"]


def _shown(value: Any) -> str:
    return "none" if value is None else str(value)


def _add_queues(session: Session, project: Project, policy: PolicyBody) -> list[str]:
    """Create the queues that are wanted and not there yet; queues are never removed."""
    there = set(session.scalars(select(Queue.name).where(Queue.project_id == project.id)))
    wanted = dict.fromkeys([MAIN, ADJUDICATION, *(rule.queue for rule in policy.rules)])
    added = [name for name in wanted if name not in there]
    session.add_all(
        Queue(id=new_id("que"), project_id=project.id, name=name, created_at=now()) for name in added
    )
    session.flush()
    return added


def _versions(project: Project) -> Any:
    return select(Policy).where(Policy.project_id == project.id).order_by(Policy.version.desc())


def pause(actor: Actor, project_name: str) -> Project:
    """From now on everything submitted to the project is reviewed, whatever its policy says."""
    return _set_paused(actor, project_name, True)


def resume(actor: Actor, project_name: str) -> Project:
    """The project's policy counts again."""
    return _set_paused(actor, project_name, False)


def _set_paused(actor: Actor, project_name: str, paused: bool) -> Project:
    require(actor, "publish")
    with transaction() as session:
        project = project_named(project_name)
        if project.paused != paused:
            project.paused, project.updated_at = paused, now()
            change = "project.paused" if paused else "project.resumed"
            record("config", {"change": change, "paused": paused}, project_id=project.id, actor=actor.id)
    session.refresh(project)
    return project


def project_named(name: str) -> Project:
    """The project with this name; Missing when there is none."""
    project = db.session.scalars(select(Project).where(Project.name == name)).one_or_none()
    if project is None:
        raise Missing(f"there is no project {name}", "project_not_found")
    return project


def policy_of(project: Project, version: int | None = None) -> Policy:
    """The policy in force, or `version` of it; Missing when there is no such version."""
    wanted = _versions(project).where(Policy.version == (version or project.policy_version))
    policy: Policy | None = db.session.scalars(wanted).one_or_none()
    if policy is None:
        raise Missing(f"project {project.name} has no policy version {version}")
    return policy


def body_of(policy: Policy) -> PolicyBody:
    """The policy as `route` takes it. Versions never change, so each is parsed once in a process."""
    return _parsed(policy.id, json.dumps(policy.body))


@lru_cache(maxsize=500)
def _parsed(_policy_id: str, body: str) -> PolicyBody:
    return policy_body(json.loads(body))
