"""A backend that listens: each callback judged by the `standardwebhooks` library, then kept."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

from tests.receiver import Answer, Heard, receiver


@dataclass(frozen=True)
class Callback:
    """One callback that was accepted: its signature held."""

    id: str
    body: bytes
    event: dict[str, Any]

    @property
    def item(self) -> str:
        return str(self.event["data"]["id"])


class Listener:
    """What was accepted, in order. Set `secret` to the backend's callback secret first.

    `refuse` may make it say something else than 200: it gets the event's id and gives the status. `headers`
    and `body` are what every answer carries.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.secret = ""
        self.callbacks: list[Callback] = []
        self.forged: list[str] = []
        self.refuse: Callable[[str], int] = lambda _event: 200
        self.headers: dict[str, str] = {}
        self.body = b""
        self.lock = threading.Lock()

    def take(self, heard: Heard) -> Answer:
        if len(heard.body) < int(heard.headers["content-length"]):
            return 400, {}, b"broken off"  # whoever sent it died over it
        try:
            event = Webhook(self.secret).verify(heard.body.decode(), heard.headers)
        except WebhookVerificationError:
            self.forged.append(heard.id)
            return 401, {}, b""
        status = self.refuse(heard.id)
        if status < 300:
            with self.lock:
                self.callbacks.append(Callback(heard.id, heard.body, event))
        return status, self.headers, self.body

    def once(self) -> list[Callback]:
        """Each event once: what a backend sees that drops a `webhook-id` it has seen."""
        with self.lock:
            first: dict[str, Callback] = {}
            for callback in self.callbacks:
                first.setdefault(callback.id, callback)
            return list(first.values())

    def of(self, item_id: str) -> list[Callback]:
        """What was told about one item, each event once."""
        return [callback for callback in self.once() if callback.item == item_id]

    def accepted(self) -> Counter[str]:
        """How often each event was accepted."""
        with self.lock:
            return Counter(callback.id for callback in self.callbacks)

    def wait(self, count: int, seconds: float = 20) -> list[Callback]:
        """The events once there are `count` of them, or those that came in time."""
        deadline = monotonic() + seconds
        while len(self.once()) < count and monotonic() < deadline:
            sleep(0.02)
        return self.once()


@contextmanager
def listener() -> Iterator[Listener]:
    """A listener on a free port, until the block ends."""
    with receiver() as server:
        listening = Listener(server.url)
        server.answer = listening.take
        yield listening
