"""Sample projects and their items, for a first look.

They come in through the verbs that real clients use; nothing of them is there unless somebody asks for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reviewqueue.intake.submit import submit
from reviewqueue.models import Backend, Project
from reviewqueue.people.access import SCOPES, SYSTEM, backend_actor
from reviewqueue.people.backends import add_backend, backend_named
from reviewqueue.routing import projects

FOLDER = Path(__file__).resolve().parent.parent / "demo"

Progress = Callable[[str], None]


def samples(folder: Path = FOLDER) -> Iterator[tuple[Project, Iterator[dict[str, Any]]]]:
    """Each sample project, applied, with its items as a backend would send them."""
    for file in sorted(folder.glob("*/project.toml")):
        project = projects.apply(file, SYSTEM).project
        yield project, _items(file.parent / "items.jsonl")


def _items(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def load_samples(tell: Progress = lambda _: None) -> int:
    """Apply every sample project and submit its items, each once however often this runs; how many came."""
    count = 0
    for project, items in samples():
        backend = sample_backend(project)
        actor = backend_actor(backend.id, project.id, SCOPES)
        for item in items:
            count += not submit(item, actor).replayed
        tell(f"sample project {project.name}")
    return count


def sample_backend(project: Project) -> Backend:
    """The backend that sends a sample project's items; made when it is not there."""
    name = f"{project.name}-demo"
    return backend_named(name) or add_backend(SYSTEM, name, project.name).backend
