"""A made-up day for the pictures: the demo's items come in over some hours, and Robin reviews some of them.

Ids, keys and ages are the same every time. It must never touch another installation: it sets back the clock
of its own process and draws every lot with known keys.
"""

from __future__ import annotations

import base64
import hashlib
import random
import re
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import select

from reviewqueue import demo, ids
from reviewqueue.config import KEY_NAMES, Settings, key_path
from reviewqueue.db import db
from reviewqueue.finding import catalogue, views
from reviewqueue.models import Item, Project
from reviewqueue.people.access import SCOPES, SYSTEM, Actor, actor_of, backend_actor, queue_for
from reviewqueue.people.sign_in import add_person
from reviewqueue.review.claim import claim_item
from reviewqueue.review.decide import decide, undo
from reviewqueue.review.prepare import prepare_due

BORN = 1_795_000_000_000  # ms; when the first id was made
MINUTE = 60

PEOPLE = {"reviewer": "Robin Reviewer", "lead": "Lena Lead", "admin": "Ada Admin"}
# What Robin did before we came, by the backend's own ids; what is not told is approved.
DONE = (
    "tk-502", "sr-1011", "tl-0005", "tc-03", "tk-508", "tk-513", "sr-1022", "sr-1024", "in-3007", "tl-0015",
    "tc-12",
)  # fmt: skip
EDITED = {
    "tl-0005": ("our pool is actually closed", "our pool is currently closed", "meaning changed"),
    "sr-1024": ("Buenos días:", "Bom dia:", "wrong language"),
}


def settings(folder: Path) -> Settings:
    """Settings for a folder of its own; lots are drawn with the same key every time."""
    keys = folder / "keys"
    keys.mkdir()
    for name in KEY_NAMES:
        path = key_path(keys, name)
        path.write_bytes(base64.b64encode(hashlib.sha256(name.encode()).digest()) + b"\n")
        path.chmod(0o600)
    return Settings.load({
        "REVIEWQUEUE_ENV": "test", "REVIEWQUEUE_DATA_DIR": str(folder), "REVIEWQUEUE_KEYS_DIR": str(keys),
        "REDIS_URL": f"unix://{folder}/none.sock", "REVIEWQUEUE_TEST_CLOCK": str(folder / "clock"),
    })  # fmt: skip


def same_ids(born: int = BORN) -> None:
    """From here on the ids of this process are the same in every run."""
    milliseconds = count(born)
    ids.time = SimpleNamespace(time_ns=lambda: next(milliseconds) * 1_000_000)
    ids.os = SimpleNamespace(urandom=random.Random(26).randbytes)


class Day:
    """Who is there, and a clock that can be set back; the application's context must be pushed."""

    def __init__(self, folder: Path) -> None:
        self.clock = folder / "clock"
        self.began = time.time()
        self.actors = {
            role: actor_of(add_person(SYSTEM, f"{role}@localhost", role, name=name)[0])
            for role, name in PEOPLE.items()
        }

    def ago(self, minutes: float) -> None:
        """Let it be that many minutes before the day began, however long the pictures took until now."""
        self.clock.write_text(str(self.began - time.time() - 60 * minutes))

    def item(self, external_id: str) -> Item:
        """The item with the backend's own id."""
        db.session.rollback()
        return db.session.scalars(select(Item).where(Item.external_id == external_id)).one()

    def happen(self) -> None:
        """Everything, the oldest first; the oldest of each project's items is just overdue."""
        same_ids(BORN + 1_000_000)  # whatever came before
        self.ago(9 * 60)
        for age, _, event in sorted(self._events(), key=lambda event: (-event[0], event[1])):
            self.ago(age)
            event()
        self.ago(0)
        queue = queue_for(self.actors["reviewer"], "support-replies", "main")
        views.save(self.actors["lead"], "Guarantees", {"text": "guarantee"}, queue, shared=True)
        views.save(self.actors["reviewer"], "Urgent answers", {"priority": "high"}, queue, shared=False)
        catalogue.index_due()
        prepare_due()

    def _events(self) -> Iterator[tuple[float, str, Callable[[], Any]]]:
        """(minutes ago, external id, what happened)."""
        for project, items in demo.samples():
            listed = list(items)
            actor = backend_actor(demo.sample_backend(project).id, project.id, SCOPES)
            span = min(_due(project) * 1.25, 7 * 60)
            for place, data in enumerate(listed):
                name, age = data["external_id"], span - (span - 2) * place / len(listed)
                yield age, name, _submitting(data, actor)
                if name in DONE:
                    begun = max(age - 6, 13 + DONE.index(name))
                    yield begun, name, self._reviewing(data, begun)

    def _reviewing(self, data: dict[str, Any], begun: float) -> Callable[[], None]:
        """Robin claims an item and decides it within a minute; one verdict is taken back at first."""
        robin, name = self.actors["reviewer"], data["external_id"]

        def review() -> None:
            token = claim_item(robin, self.item(name).id).token
            self.ago(begun - (20 + 7 * DONE.index(name) % 40) / 60)
            if name == "tc-03":
                first = decide(robin, token, ids.new_id("dec"), "approve").decision
                again = undo(robin, first.id) if first else None
                token = again.token if again else token
            if name not in EDITED:
                decide(robin, token, ids.new_id("dec"), "approve")
                return
            was, became, reason = EDITED[name]
            output = data["output"].replace(was, became)
            decide(robin, token, ids.new_id("dec"), "edit", output, reason, "model")

        return review


def _due(project: Project) -> float:
    text = (demo.FOLDER / project.name / "project.toml").read_text()
    return float(re.findall(r"^due_minutes = (\d+)", text, re.M)[0])


def _submitting(data: dict[str, Any], actor: Actor) -> Callable[[], Any]:
    return lambda: demo.submit(data, actor)
