"""A history of who asked what and was told what, for `web --history FILE`: claims, renewals, decisions.

A line is JSON: process, number, op, item, review, token (the fence), decision, rev, call_ns, return_ns and
outcome, times by the machine's monotonic clock. What decides has a line without return_ns as well, written
before it began; without a second one it may have happened. Must never hold a text, a secret, a claim's token.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from flask import Flask, Response, g, request
from sqlalchemy import Select, select
from sqlalchemy.exc import SQLAlchemyError

from reviewqueue.db import db, now, reading
from reviewqueue.ids import is_id
from reviewqueue.models import Claim, Decision, Review
from reviewqueue.review.next import AHEAD

log = logging.getLogger("reviewqueue.running.history")

Call = dict[str, Any]


class History:
    """The file, and what is added to it for each request that is a call."""

    def __init__(self, path: Path) -> None:
        # Shared by the web processes: what is appended in one write stays in one piece.
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.numbers = itertools.count()
        self.server = secrets.token_hex(4)

    def begin(self) -> None:
        """Before a view: when it began, and the line of one that decides."""
        if request.endpoint not in CALLS:
            return
        g.history_began, g.history_call = now(), {"call_ns": time.monotonic_ns()}
        about = BEFORE.get(request.endpoint)
        if about is not None:
            g.history_call |= self._named() | about()
            if g.history_call.get("item") and g.history_call.get("decision"):
                self._write(g.history_call)

    def end(self, response: Response) -> Response:
        """After a view: a line for each call it was."""
        ended = time.monotonic_ns()
        # An error of ours is no answer: whatever was asked for, it may have been done.
        if "history_call" in g and response.status_code < 500:
            db.session.rollback()  # so that this thread does not need two connections at once
            try:
                for place, call in enumerate(CALLS[request.endpoint](response)):
                    # The line from before keeps its number; what else the request did is a call of its own.
                    known = g.history_call if place == 0 else {"call_ns": g.history_call["call_ns"]}
                    self._write(self._named() | known | call | {"return_ns": ended})
            except SQLAlchemyError as error:
                log.error("not in the history", extra={"said": {"error": type(error).__name__}})
        return response

    def _named(self) -> Call:
        return {"process": f"{self.server}-{os.getpid()}", "number": next(self.numbers)}

    def _write(self, line: Call) -> None:
        try:
            os.write(self.file, (json.dumps(line) + "\n").encode())
        except OSError as error:  # what was decided stands, whether or not it can be told here
            log.error("not in the history", extra={"said": {"error": type(error).__name__}})


def install(app: Flask, path: Path) -> None:
    """Append the history of `app` to this file from now on; OSError when it cannot be opened."""
    history = History(path)
    app.before_request(history.begin)
    app.after_request(history.end)


def _row(query: Select[*tuple[Any, ...]]) -> Any:
    with reading() as connection:
        return connection.execute(query).first()


def _claimed(token: str | None) -> Call:
    """Which review of which item a claim is for."""
    query = select(Review.item_id, Claim.review_id, Claim.fence).join(Review, Review.id == Claim.review_id)
    row = _row(query.where(Claim.token == token))
    return {} if row is None else {"item": row.item_id, "review": row.review_id, "token": row.fence}


def _granted(response: Response) -> Iterator[Call]:
    """The claim whose lease began in this request, if one did: the page it leads to, or is."""
    address = response.headers.get("X-Next-Claim") or response.headers.get("Location") or request.path
    token = address.rpartition("/claims/")[2]
    held = select(Claim.claimed_at, Review.lease_expires_at).join(Review, Review.claim_token == Claim.token)
    row = _row(held.where(Claim.token == token))
    # What is only offered, or fetched ahead, keeps nobody off yet.
    if row and row.claimed_at >= _began() and (row.lease_expires_at or _began()) > row.claimed_at + 2 * AHEAD:
        yield {"op": "claim", **_claimed(token), "outcome": "ok"}


def _began() -> datetime:
    began: datetime = g.history_began
    return began


def _outcome(response: Response) -> str:
    return "ok" if response.status_code < 400 else str(response.status_code)


def _path(name: str) -> str:
    return str((request.view_args or {}).get(name))


def _item() -> str | None:
    return _id("itm", _path("item_id"))


def _id(kind: str, given: str | None) -> str | None:
    """What a client calls an id may be any text."""
    return given if given and is_id(kind, given) else None


def _claim(response: Response) -> Iterator[Call]:
    granted = list(_granted(response))
    yield from granted
    if not granted and response.status_code != 303:
        outcome = "nothing" if response.status_code == 200 else _outcome(response)
        yield {"op": "claim", "item": _item(), "outcome": outcome}


def _renewal(response: Response) -> Iterator[Call]:
    yield from _about_claim("renew", response)


def _release(response: Response) -> Iterator[Call]:
    yield from _about_claim("release", response)


def _about_claim(op: str, response: Response) -> Iterator[Call]:
    about = _claimed(_path("token"))
    if about:
        yield {"op": op, **about, "outcome": _outcome(response)}


def _before_deciding() -> Call:
    return {
        "op": "decide",
        "decision": _id("dec", request.form.get("decision_id")),
        **_claimed(_path("token")),
    }


def _decided(response: Response) -> Iterator[Call]:
    """The verdict; one that leaves the item to others as well is no decision yet."""
    about, outcome = _claimed(_path("token")), _outcome(response)
    if not about:
        return
    if outcome != "ok":
        yield {"op": "decide", **about, "outcome": outcome}
        return
    given = select(Review.decision_id, Decision.round).outerjoin(Decision, Decision.id == Review.decision_id)
    row = _row(given.where(Review.id == about["review"]))
    made = {"decision": row.decision_id, "rev": row.round}
    yield {"op": "decide" if row.round is not None else "verdict", **about, **made, "outcome": "ok"}
    yield from _granted(response)


def _before_undoing() -> Call:
    return {"op": "undo", "decision": _path("decision_id"), **_of_decision(_path("decision_id"))}


def _of_decision(decision_id: str) -> Call:
    row = _row(select(Review.item_id, Review.id).where(Review.decision_id == decision_id))
    if row is not None:
        return {"item": row.item_id, "review": row.id}
    row = _row(select(Decision.item_id).where(Decision.id == decision_id))
    return {} if row is None else {"item": row.item_id}


def _undone(response: Response) -> Iterator[Call]:
    about = _of_decision(_path("decision_id"))
    if about:
        yield {"op": "undo", "decision": _path("decision_id"), **about, "outcome": _outcome(response)}
        yield from _granted(response)


def _before_overriding() -> Call:
    return {"op": "override", "decision": _id("dec", request.form.get("decision_id")), "item": _item()}


def _overridden(response: Response) -> Iterator[Call]:
    call = {"op": "override", "item": _item(), "outcome": _outcome(response)}
    query = select(Decision.id, Decision.round).where(Decision.item_id == _path("item_id"))
    given = request.form.get("decision_id")
    mine = Decision.id == given if given else Decision.decided_by == g.actor.id
    row = _row(query.where(Decision.source == "override", mine).order_by(Decision.round.desc()))
    if call["outcome"] == "ok" and row is not None:
        call |= {"decision": row.id, "rev": row.round}
    yield call


def _read(response: Response) -> Iterator[Call]:
    told = response.get_json(silent=True) if response.status_code == 200 else None
    decision = (told or {}).get("decision")
    call = {"op": "read", "item": _item(), "decision": decision["id"] if decision else None}
    yield call | {"outcome": _outcome(response)}


# What is written of which view: assigning by a lead, batches and what the passing of time decides are not.
CALLS: dict[str | None, Callable[[Response], Iterator[Call]]] = {
    "review.claim_from": _claim,
    "review.claim_one": _claim,
    "review.review": _granted,
    "review.keep": _renewal,
    "review.decide": _decided,
    "review.skip": _release,
    "review.release": _release,
    "review.escalate": _release,
    "review.undo": _undone,
    "items.override": _overridden,
    "intake_api.show": _read,
}
BEFORE: dict[str | None, Callable[[], Call]] = {
    "review.decide": _before_deciding,
    "review.undo": _before_undoing,
    "items.override": _before_overriding,
}
