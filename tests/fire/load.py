"""Backends that submit and reviewers that decide, over HTTP, through whatever happens to the product.

They remember what they were told; what they were not told they ask again, as real ones do.
"""

from __future__ import annotations

import itertools
import re
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.fire.deployment import Deployment
from tests.listener import Listener
from tests.visitor import Visitor

# What a backend answers by trying again; a proxy says the last two while a server behind it is away.
RETRIED = (429, 503, 502, 504)

PROJECT = """
name = "replies"
kind = "text"
[policy]
confidence_below = 0.5
control_rate = 0.05
undo_seconds = 0
"""


@dataclass
class Work:
    """What the clients of a run were told, and what went wrong."""

    acknowledged: dict[str, str] = field(default_factory=dict)  # idempotency key → item id
    decided: dict[str, tuple[str, str]] = field(default_factory=dict)  # decision id → item id, verdict
    unknown: int = 0  # requests that were answered by nothing
    wrong: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)
    numbers: Iterator[int] = field(default_factory=itertools.count)
    trusted: ssl.SSLContext | None = None  # the certificates that are trusted, besides the usual ones
    refused: int = 0  # answers that said: try again

    def transport(self) -> httpx.HTTPTransport:
        """A client's own connections."""
        return httpx.HTTPTransport(verify=self.trusted or True)


def prepare(stack: Deployment, called: Listener, folder: Path) -> tuple[str, list[str]]:
    """A project, its backend and two reviewers; the backend's key and the reviewers' sign-in links."""
    file = folder / "replies.toml"
    file.write_text(PROJECT)
    stack.command("projects", "apply", str(file))
    backend = stack.command(
        "backends", "add", "bot", "--project", "replies", "--callback", called.url, "--trusted"
    )
    called.secret = backend["callback_secret"]
    people = [
        stack.command("people", "add", f"{name}@example.org", "--role", "reviewer") for name in ("ada", "eve")
    ]
    return backend["api_key"], [person["link"] for person in people]


def reached(work: Work, count: int, seconds: float = 180) -> None:
    """Until so many submissions were acknowledged."""
    deadline = time.monotonic() + seconds
    while len(work.acknowledged) < count:
        assert not work.wrong, work.wrong[:3]
        assert time.monotonic() < deadline, f"{len(work.acknowledged)} of {count}, {work.unknown} unanswered"
        time.sleep(0.01)


def submitting(url: str, key: str, work: Work) -> None:
    """A backend: each item under its own key, sent again until it is acknowledged."""
    bearer = {"Authorization": f"Bearer {key}"}
    with httpx.Client(base_url=url, headers=bearer, timeout=20, transport=work.transport()) as http:
        while not work.stop.is_set():
            number = next(work.numbers)
            name = f"key-{number:08}"
            body = {
                "project": "replies",
                "external_id": f"request-{number}",
                "input": f"Where is parcel {number}?",
                "output": f"Parcel {number} left on Monday.",
                "confidence": (number % 10) / 10,
            }
            while not work.stop.is_set():
                try:
                    answer = http.post("/api/v1/items", json=body, headers={"Idempotency-Key": name})
                except httpx.TransportError:
                    work.unknown += 1
                    time.sleep(0.05)
                    continue
                if answer.status_code in (200, 201):
                    work.acknowledged[name] = answer.json()["id"]
                    break
                if answer.status_code not in RETRIED:
                    work.wrong.append(f"{answer.status_code} {answer.text[:300]}")
                work.refused += 1
                time.sleep(0.05)


def deciding(url: str, link: str, work: Work) -> None:
    """A reviewer without JavaScript, who after each crash goes on with what the desk says they hold."""
    with Visitor(url, link, work.transport()) as person:
        for turn in itertools.count():
            if work.stop.is_set():
                return
            try:
                decide_one(person, turn, work)
            except (httpx.TransportError, AssertionError) as error:
                if isinstance(error, AssertionError) and not re.search(r"\b(502|503|504)\b", str(error)):
                    work.wrong.append(str(error))
                time.sleep(0.05)


def decide_one(person: Visitor, turn: int, work: Work) -> None:
    held = re.search(r'href="(/claims/[^"/?]+)"', person.get("/"))
    page = person.review(held[1]) if held else person.claim("replies")
    if page is None:
        time.sleep(0.05)
        return
    verdict = ("approve", "edit", "reject")[turn % 3]
    fields: dict[str, Any] = {} if verdict == "approve" else {"reason": "wrong fact"}
    if verdict == "edit":
        fields["output"] = f"{page.output} Sorry, on Tuesday."
    while not work.stop.is_set():
        try:
            answer = person.decide(page, verdict, **fields)
        except httpx.TransportError:
            work.unknown += 1
            time.sleep(0.05)
            continue  # the same form again: it must not count twice
        if answer.status_code in RETRIED:
            time.sleep(0.05)
            continue
        if answer.status_code != 303:
            raise AssertionError(f"decision: {answer.status_code} {answer.text[:300]}")
        work.decided[page.decision_id] = (page.item, verdict)
        time.sleep(0.05)  # people think
        return
