"""One process of test_races.py: what it does is told by its arguments, what came of it on its output.

Every line of output is one call, as JSON: process, op, review (or item), token (the fence), call_ns,
return_ns, outcome. The clock is monotonic and the same for all processes of a machine.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import OperationalError

from reviewqueue import create_base
from reviewqueue.config import Settings
from reviewqueue.db import db
from reviewqueue.errors import Refusal
from reviewqueue.ids import new_id
from reviewqueue.intake.submit import withdraw
from reviewqueue.models import Backend, Claim, Decision, Person, Queue, Review
from reviewqueue.people.access import Actor, actor_of, backend_actor
from reviewqueue.review import claim as claims
from reviewqueue.review import decide as decides
from reviewqueue.review.decide import decide, undo
from reviewqueue.review.expire import expire_due
from reviewqueue.review.settle import override
from tests.crowd import Start

LEASE = timedelta(milliseconds=int(os.environ["RACE_LEASE_MS"]))


def overloaded(error: OperationalError) -> bool:
    """Whether the database only had no time, which browsers are told as 503; a deadlock is a fault."""
    waited_too_long = ("55P03", "57014")
    return getattr(error.orig, "sqlstate", None) in waited_too_long or "database is locked" in str(error.orig)


class Racer:
    """Acts, and writes down each call with the moments it began and ended."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.actor = self.person(name)
        self.random = random.Random(name)

    def person(self, name: str) -> Actor:
        return actor_of(db.session.scalars(select(Person).where(Person.email == f"{name}@example.org")).one())

    def call(self, op: str, fields: dict[str, Any], act: Callable[[], Any]) -> Any:
        began = time.monotonic_ns()
        try:
            given, outcome = act(), "ok"
        except Refusal as refused:
            given, outcome = None, refused.code
        except OperationalError as error:
            if not overloaded(error):
                raise
            given, outcome = None, "busy"
            db.session.rollback()
        ended = time.monotonic_ns()
        if op == "claim" and given is not None:
            fields = {"review": given.review_id, "token": given.fence}
        line = {"process": self.name, "op": op, "call_ns": began, "return_ns": ended, "outcome": outcome}
        if op != "claim" or given is not None:
            print(json.dumps(line | fields))
        return given


def claim_and_finish(racer: Racer, count: int) -> None:
    """Make `count` claims of whatever is free; one in five outlives its lease before anything is done."""
    queue = db.session.scalars(select(Queue).where(Queue.name == "main")).one()
    made = 0
    while made < count:
        claim = racer.call("claim", {}, lambda: claims.claim_next(racer.actor, queue))
        if claim is None:
            time.sleep(LEASE.total_seconds() / 10)
            continue
        made += 1
        token, held = claim.token, {"review": claim.review_id, "token": claim.fence}
        db.session.rollback()
        dice = racer.random.random()
        if dice < 0.2:
            time.sleep(LEASE.total_seconds() * racer.random.uniform(1.0, 2.0))
        if dice < 0.1:
            racer.call("renew", held, lambda t=token: claims.renew(racer.actor, t, {"note": t}))
        if dice < 0.2:
            racer.call("decide", held, lambda t=token: decide(racer.actor, t, new_id("dec"), "approve"))
        elif dice < 0.9:
            racer.call("release", held, lambda t=token: claims.release(racer.actor, t))


def anything(racer: Racer, count: int) -> None:
    """Do `count` things at random to a few items, each of which may collide with what others do."""
    owner = db.session.execute(select(Backend.id, Backend.project_id)).one()
    backend = backend_actor(owner.id, owner.project_id, ["items:write"])
    items = db.session.scalars(select(Review.item_id).distinct()).all()
    lead = racer.person("cleo")
    for _ in range(count):
        item_id = racer.random.choice(items)
        db.session.rollback()
        # Somebody's newest token, as two windows of one person have it: both may decide with it.
        newest = db.session.execute(
            select(Claim.token, Claim.person_id)
            .join(Review, Review.id == Claim.review_id)
            .where(Review.item_id == item_id)
            .order_by(Claim.claimed_at.desc())
            .limit(1)
        ).one_or_none()
        decided = db.session.execute(
            select(Decision.id, Decision.decided_by)
            .where(Decision.item_id == item_id)
            .order_by(Decision.decided_at.desc())
            .limit(1)
        ).one_or_none()
        id_, verdict = new_id("dec"), racer.random.choice(["approve", "reject"])
        acts: dict[str, Callable[[], Any]] = {
            "claim": lambda item_id=item_id: claims.claim_item(racer.actor, item_id),
            "override": lambda item_id=item_id, verdict=verdict: override(
                lead, item_id, verdict, None, "other"
            ),
            "expire": expire_due,
        }
        if racer.random.random() < 0.03:
            acts["withdraw"] = lambda item_id=item_id: withdraw(backend, item_id)
        if newest is not None:
            holder = Actor(newest.person_id, "reviewer")
            acts["decide"] = lambda a=holder, t=newest.token, id_=id_, verdict=verdict: decide(
                a, t, id_, verdict, None, "other"
            )
            acts["renew"] = lambda a=holder, t=newest.token: claims.renew(a, t, {"note": t})
        if decided is not None and decided.decided_by is not None:
            acts["undo"] = lambda d=decided: undo(Actor(d.decided_by, "lead"), d.id)
        weights = {"decide": 6, "undo": 4, "claim": 4, "override": 2}
        op = racer.random.choices(list(acts), [weights.get(name, 1) for name in acts])[0]
        racer.call(op, {"item": item_id}, acts[op])


def main(start: Start, role: str, name: str, count: int) -> None:
    claims.LEASE = decides.LEASE = LEASE
    with create_base(Settings.load(os.environ)).app_context():
        racer = Racer(name)
        db.session.rollback()
        start()
        {"claims": claim_and_finish, "anything": anything}[role](racer, count)
