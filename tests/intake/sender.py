"""One process of test_repeats.py: THREADS threads each submit every one of KEYS keys, all in the same order.

Prints, for each key, how often its item was new and a digest of every answer it got.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from typing import Any

from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from reviewqueue import create_base
from reviewqueue.config import Settings
from reviewqueue.db import db
from reviewqueue.errors import Busy
from reviewqueue.intake.store import Answer
from reviewqueue.intake.submit import submit
from reviewqueue.people.access import Actor, authenticate_key
from tests.crowd import Start

ANSWERED = Counter[tuple[str, str]]


def patient(actor: Actor, key: str) -> Answer:
    """As a backend does: try again when the service is busy."""
    while True:
        try:
            return submit({"project": "support-replies", "output": key, "confidence": 0.1}, actor, key)
        except (Busy, OperationalError, PoolTimeout):
            db.session.remove()


def main(start: Start, api_key: str, threads: int, keys: int) -> None:
    app = create_base(Settings.load(os.environ))
    barrier, lock = threading.Barrier(threads), threading.Lock()
    new, told = Counter[str](), ANSWERED()
    with app.app_context():
        actor: Any = authenticate_key(api_key)

    def run() -> None:
        for number in range(keys):
            key = f"key-{number}"
            if number % 50 == 0:
                barrier.wait()
            with app.app_context():
                answer = patient(actor, key)
            body = json.dumps(answer.body, sort_keys=True)
            with lock:
                new[key] += not answer.replayed
                told[key, hashlib.sha256(body.encode()).hexdigest()] += 1

    start()
    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    print(json.dumps({"new": new, "told": [[*which, times] for which, times in told.items()]}))
