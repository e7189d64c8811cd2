"""The relay: one small loop that sees to it that nothing which is due is forgotten.

It rings what is due and does the work itself when Redis is away or nobody came. It must never be needed
for correctness of a single step: everything it starts is guarded, and doing it twice is harmless.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta

from flask import Flask
from sqlalchemy import delete, or_, select, update

from reviewqueue.background import JOBS, due, ring, run, starts
from reviewqueue.db import db, hits, now, transaction
from reviewqueue.ledger import known
from reviewqueue.models import Leader

log = logging.getLogger("reviewqueue.running.relay")

DUTY = "relay"
LEASE = timedelta(seconds=6)  # a spare leads within 10 s of a kill
TICK_SECONDS = 1.0
PATIENCE_SECONDS = 15.0  # a ring that led to no work by then is lost
PATIENCE = {"deliver": 1.0}  # no callback waits for workers that slow receivers hold up
UPKEEP_SECONDS = 60.0
# How many threads may do the same job at once; callbacks wait for other people's servers.
WIDTH = {"deliver": 4}


class Relay:
    """Rings whatever is due and un-rung, and does the work itself when nobody else does."""

    def __init__(self, app: Flask) -> None:
        self.app = app
        self.holder = f"{socket.gethostname()[:40]}:{os.getpid()}:{secrets.token_hex(4)}"
        self.renew_at = 0.0
        self.leading = False
        self.upkeep_at = 0.0
        self.waiting: dict[str, tuple[float, bytes]] = {}  # since when due without a worker beginning it
        self.running: defaultdict[str, list[Future[None]]] = defaultdict(list)
        self.pool = ThreadPoolExecutor(sum(WIDTH.get(name, 1) for name in JOBS), DUTY)

    def leads(self) -> bool:
        """Whether this process leads now: takes or renews the lease when it is time to."""
        if time.monotonic() < self.renew_at:
            return self.leading
        with transaction() as session:
            moment = now()
            # A lease far longer than ours was taken before the clock was set back.
            over = or_(Leader.expires_at < moment, Leader.expires_at > moment + 6 * LEASE)
            free = or_(Leader.holder == self.holder, over)
            mine = {"holder": self.holder, "expires_at": moment + LEASE}
            taken = session.execute(update(Leader).where(Leader.duty == DUTY, free).values(mine))
            self.leading = hits(taken) == 1
            if not self.leading and session.scalar(select(Leader.duty).where(Leader.duty == DUTY)) is None:
                # Two first relays: the loser's insert fails and it asks again a moment later.
                session.add(Leader(duty=DUTY, **mine))
                session.flush()
                self.leading = True
        self.renew_at = time.monotonic() + LEASE.total_seconds() / 4
        return self.leading

    def resign(self) -> None:
        """Give the lease back, so that a spare need not wait for its end."""
        self.pool.shutdown(cancel_futures=True)
        with transaction() as session:
            session.execute(delete(Leader).where(Leader.duty == DUTY, Leader.holder == self.holder))

    def tick(self) -> None:
        """One look at everything: rings what is due, works where ringing did not help."""
        for name in JOBS:
            try:
                if not self._wanted(name):
                    self.waiting.pop(name, None)
                elif not ring(name) or self._unheard(name):
                    self._work(name)
            except Exception:
                # One job that cannot be asked must not keep the others waiting.
                db.session.rollback()
                log.exception("the relay could not look after %s", name)

    def _wanted(self, name: str) -> bool:
        if name == "upkeep" and time.monotonic() >= self.upkeep_at:
            self.upkeep_at = time.monotonic() + UPKEEP_SECONDS
            return True
        return due(name)

    def _unheard(self, name: str) -> bool:
        begun = starts(name)
        if begun is None:
            return True
        since, before = self.waiting.setdefault(name, (time.monotonic(), begun))
        if begun != before:
            self.waiting[name] = (time.monotonic(), begun)
            return False
        return time.monotonic() - since > PATIENCE.get(name, PATIENCE_SECONDS)

    def _work(self, name: str) -> None:
        self.running[name] = [future for future in self.running[name] if not future.done()]
        for _ in range(len(self.running[name]), WIDTH.get(name, 1)):
            self.running[name].append(self.pool.submit(self._run, name))

    def _run(self, name: str) -> None:
        try:
            with self.app.app_context():
                run(name)
        except Exception:
            log.exception("the relay could not do %s", name)


def relay(app: Flask, once: bool = False) -> dict[str, int]:
    """Lead or stand by until told to stop. With `once`: do here all that is due, and say how much of what."""
    if once:
        with app.app_context():
            return {name: run(name) for name in JOBS if name == "upkeep" or due(name)}
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    turn = Relay(app)
    while not stop.is_set():
        try:
            with app.app_context():
                if turn.leads():
                    turn.tick()
                known.note()
        except Exception:
            turn.leading = False
            log.exception("the relay could not look")
        stop.wait(TICK_SECONDS)
    try:
        with app.app_context():
            turn.resign()
    except Exception:
        log.warning("the relay could not give its lease back; it runs out by itself")
    return {}
