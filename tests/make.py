"""What tests begin with: a project, the cast, a backend, an item; all made by the product's own verbs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.ids import new_id
from reviewqueue.models import Item

# Ada reviews, Ben reviews another queue, Cleo leads, Dora administers, Aud reads, Mallory may nothing.
CAST: dict[str, dict[str, Any]] = {
    "ada": {"role": "reviewer"},
    "ben": {"role": "reviewer", "every_queue": False},
    "cleo": {"role": "lead"},
    "dora": {"role": "admin"},
    "aud": {"role": "auditor"},
    "mallory": {"role": "reviewer", "every_queue": False},
}
OUTPUTS: dict[str, Any] = {
    "text": "Your parcel left our warehouse on Monday.",
    "markdown": "Your parcel left on **Monday**.",
    "json": {"total": 12.5, "currency": "EUR"},
    "label": "refund",
    "chat": [{"role": "assistant", "content": "It left on Monday."}],
    "tool_call": {"name": "refund", "arguments": {"order": "A-17", "amount": 20}},
}
SCHEMAS: dict[str, Any] = {"label": {"enum": ["refund", "delivery", "other"]}}
PROJECT_FIELDS = ("guidelines", "schema", "reasons", "causes", "control_arm", "title")


def toml(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(part) for part in value) + "]"
    return json.dumps(value, ensure_ascii=False)


class Make:
    """One per test; remembers whom and what it made, so that most arguments can be left out."""

    def __init__(self) -> None:
        self.people: dict[str, Any] = {}
        self.backends: dict[str, Any] = {}

    def project(self, name: str = "support-replies", kind: str = "text", **fields: Any) -> Any:
        """Apply a project; fields that are not the project's own belong to its policy. Gives the Project."""
        from reviewqueue.people.access import SYSTEM
        from reviewqueue.routing import projects

        fields = {"schema": SCHEMAS.get(kind)} | fields
        lines = [f"name = {toml(name)}", f"kind = {toml(kind)}"]
        fields.setdefault("title", name.replace("-", " ").capitalize())
        own = {key: fields.pop(key) for key in PROJECT_FIELDS if key in fields}
        lines += [f"{key} = {toml(value)}" for key, value in own.items() if value is not None]
        rules = fields.pop("rules", [])
        lines += ["[policy]", *(f"{key} = {toml(value)}" for key, value in fields.items())]
        for rule in rules:
            lines += ["[[policy.rules]]", *(f"{key} = {toml(value)}" for key, value in rule.items())]
        return projects.apply("\n".join(lines) + "\n", SYSTEM).project

    def person(
        self,
        name: str = "ada",
        role: str | None = None,
        every_queue: bool | None = None,
        queues: Iterable[Any] = (),
    ) -> Any:
        """One of the cast, or anybody else: made once, then the same. Gives the Actor that verbs want."""
        from reviewqueue.people.access import SYSTEM, actor_of
        from reviewqueue.people.sign_in import add_person

        if name not in self.people:
            usual = CAST.get(name, {})
            role = role or usual.get("role", "reviewer")
            every_queue = usual.get("every_queue", True) if every_queue is None else every_queue
            person, _ = add_person(
                SYSTEM,
                f"{name}@example.org",
                role,
                name=name.capitalize(),
                every_queue=every_queue,
                queues=tuple(queues),
            )
            self.people[name] = actor_of(person)
        return self.people[name]

    def sign_in_path(self, actor: Any) -> str:
        """Where a one-time link signs this person in."""
        from reviewqueue.people.access import SYSTEM
        from reviewqueue.people.sign_in import new_link

        return f"/login/link/{new_link(SYSTEM, actor.id)}"

    def backend(
        self, project: Any, name: str | None = None, callback: str | None = None, trusted: bool = True
    ) -> Any:
        """A backend of the project, made once per name. Gives what `add_backend` gives, keys and all."""
        from reviewqueue.delivery.endpoints import register
        from reviewqueue.people.access import SYSTEM
        from reviewqueue.people.backends import add_backend

        name = name or f"{project.name}-backend"
        if name not in self.backends:
            self.backends[name] = new = add_backend(SYSTEM, name, project.name)
            if callback is not None:
                register(SYSTEM, new.backend.id, callback, trusted=trusted)
        return self.backends[name]

    def backend_actor(self, project: Any, name: str | None = None) -> Any:
        """The Actor of a backend's key."""
        from reviewqueue.people.access import authenticate_key

        actor = authenticate_key(self.backend(project, name).api_key)
        assert actor is not None
        return actor

    def item(self, project: Any, backend: str | None = None, **fields: Any) -> Any:
        """Submit an item; its confidence is low unless given, so that it goes to review. Gives the Item."""
        from reviewqueue.intake.submit import submit

        data = {"project": project.name, "output": OUTPUTS[project.kind], "confidence": 0.3, **fields}
        answer = submit(data, self.backend_actor(project, backend))
        db.session.rollback()  # it was stored through another connection
        return db.session.scalars(select(Item).where(Item.id == answer.id)).one()

    def claim(self, actor: Any, item: Any) -> Any:
        """This person holds the item's review now. Gives the Claim."""
        from reviewqueue.review.claim import claim_item

        return claim_item(actor, item.id)

    def decide(
        self,
        actor: Any,
        item: Any,
        verdict: str = "approve",
        output: Any = None,
        reason: str | None = None,
        cause: str | None = None,
        note: str | None = None,
    ) -> Any:
        """This person claims the item and gives a verdict. Gives what `decide` gives."""
        from reviewqueue.review.decide import decide

        token = self.claim(actor, item).token
        return decide(actor, token, new_id("dec"), verdict, output, reason, cause, note)
