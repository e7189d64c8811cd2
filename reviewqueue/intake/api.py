"""The items API: /api/v1/items and /webhooks/<backend>, both ending in submit().

Owns what is HTTP about intake: media types, keys in headers, signatures, the rate, waiting. Must never hold
a database connection while it waits, nor let a stranger tell a known backend's name from an unknown one.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Collection
from datetime import datetime
from typing import Any

from flask import Blueprint, Response, render_template, request
from pydantic_core import to_json
from werkzeug.datastructures import Headers
from werkzeug.exceptions import UnsupportedMediaType

from reviewqueue import web
from reviewqueue.answers import STATUS
from reviewqueue.db import db, now, stamp
from reviewqueue.delivery.signature import Unverified, verify
from reviewqueue.disk import require_space
from reviewqueue.errors import Invalid, Refusal
from reviewqueue.intake import items, openapi
from reviewqueue.intake.rate import rate, waiting
from reviewqueue.intake.shapes import Batch, Event, read
from reviewqueue.intake.store import Answer
from reviewqueue.intake.submit import submit, submit_batch, withdraw
from reviewqueue.people import access
from reviewqueue.people.backends import backend_named, secrets_of
from reviewqueue.strict_json import loads, loads_entries

api = Blueprint("intake_api", __name__)

LONGEST_WAIT = 30  # seconds
PAUSE = 0.25  # seconds between two looks
_KEY = re.compile(openapi.KEY_PATTERN)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")


@api.post("/api/v1/items")
@web.right("items:write")
def submit_one() -> Response:
    """Submit one item."""
    body = _body()
    key = _key()
    actor = web.actor()
    rate.take(actor.id)
    require_space()
    return _submitted(submit(loads(body), actor, key, _fingerprint(body)))


@api.post("/api/v1/items/batch")
@web.right("items:write")
def submit_many() -> Response:
    """Submit up to 1,000 items."""
    body = _body()
    key = _key()
    actor = web.actor()
    rate.check(actor.id)
    said, refusals = loads_entries(body, "items")
    batch = read(Batch, said)
    rate.take(actor.id, len(batch.items))
    require_space()
    entries = [refusals.get(place, entry) for place, entry in enumerate(batch.items)]
    results, replayed = submit_batch(entries, actor, key, _fingerprint(body))
    told = [_result(index, result) for index, result in enumerate(results)]
    return _json({"results": told}, replayed=replayed)


@api.post("/webhooks/<backend>")
@web.right(None)
def receive(backend: str) -> Response:
    """A signed message of a backend: an item it submits."""
    body = _body()
    found = backend_named(backend) if re.fullmatch(r"[a-z0-9-]{1,64}", backend) else None
    # Of an unknown backend the secrets are looked up and tried as well, so that it takes as long.
    secrets = secrets_of(found.id if found else "", "inbound")
    try:
        key = verify(dict(request.headers), body, secrets, now().timestamp())
    except Unverified as refused:
        return _unverified(refused)
    assert found is not None
    if request.headers.get("Idempotency-Key", key) != key:
        raise Invalid("Idempotency-Key must equal webhook-id", field="Idempotency-Key")
    actor = access.backend_actor(found.id, found.project_id, ["items:write"])
    rate.take(actor.id)
    require_space()
    event = read(Event, loads(body))
    if event.backend not in (None, backend):
        raise Invalid("/backend is another backend than this address is for", field="/backend")
    try:
        return _submitted(submit(event.data, actor, key, _fingerprint(body)))
    except Invalid as refused_item:
        for fault in refused_item.errors:
            fault["pointer"] = f"/data{fault['pointer']}"
        raise


@api.get("/api/v1/items/<string(length=30):item_id>")
@web.right("items:read")
def show(item_id: str) -> Response:
    """One item; with `wait` held back until its decision is final."""
    _only({"wait"})
    actor = web.actor()
    seconds = _count("wait", 0, LONGEST_WAIT, 0)
    with waiting() as allowed:
        end = time.monotonic() + seconds * allowed
        while not items.is_settled(actor, item_id) and (left := end - time.monotonic()) > 0:
            db.session.remove()
            time.sleep(min(PAUSE, left))
    db.session.remove()
    return _json(items.one(actor, item_id))


@api.get("/api/v1/items")
@web.right("items:read")
def listing() -> Response:
    """The backend's items, newest first."""
    _only({"project", "status", "external_id", "since", "cursor", "limit"})
    cursor = _given("cursor")
    if cursor is not None and not re.fullmatch(openapi.CURSOR_PATTERN, cursor):
        raise Invalid("must be the next_cursor of a page before", field="cursor")
    page = items.page(
        web.actor(),
        project=_text("project"),
        status=_text("status"),
        external_id=_text("external_id"),
        since=_moment("since"),
        cursor=cursor,
        limit=_count("limit", 1, items.LONGEST_PAGE, 50),
    )
    return _json({"items": page.items, "next_cursor": page.next_cursor})


@api.post("/api/v1/items/<string(length=30):item_id>/withdrawal")
@web.right("items:write")
def take_back(item_id: str) -> Response:
    """Withdraw a pending item."""
    return _json(items.told([withdraw(web.actor(), item_id)])[0])


@api.get("/api/v1/openapi.json")
@web.right(None)
def description() -> Response:
    """What this API takes and gives, as OpenAPI 3.1."""
    return _json(openapi.document())


@api.get("/api/docs")
@web.right(None)
def docs() -> str:
    """The same for people."""
    return render_template("intake/docs.html", openapi=openapi, document=openapi.document())


def _body() -> bytes:
    kind = request.mimetype
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaType
    return request.get_data(cache=False)


def _key() -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not _KEY.fullmatch(key):
        raise Invalid("must be 1 to 255 visible ASCII characters", field="Idempotency-Key")
    return key


def _fingerprint(body: bytes) -> str:
    return hashlib.sha256(f"{request.method}\n{request.path}\n".encode() + body).hexdigest()


def _json(
    body: Any, status: int = 200, replayed: bool = False, headers: dict[str, str] | None = None
) -> Response:
    # Not jsonify: it sorts keys, and an output's keys keep the order they came in.
    response = _Complete(to_json(body), status, headers, content_type="application/json")
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"
    return response


class _Complete(Response):
    """A body of known length under headers in ASCII: werkzeug need not copy and look through them again."""

    def get_wsgi_headers(self, environ: Any) -> Headers:
        """The headers as they are."""
        return self.headers


def _submitted(answer: Answer) -> Response:
    headers = {"Location": f"/api/v1/items/{answer.id}"}
    return _json(answer.body, 200 if answer.replayed else 201, answer.replayed, headers)


def _result(index: int, result: Answer | Refusal) -> dict[str, Any]:
    if isinstance(result, Answer):
        return {"index": index, "status": 200 if result.replayed else 201, "item": result.body}
    status = next((number for word, number in STATUS.items() if isinstance(result, word)), 400)
    error: dict[str, Any] = {"code": result.code, "detail": result.message}
    if isinstance(result, Invalid):
        error["errors"] = result.errors
    return {"index": index, "status": status, "error": error}


def _unverified(refused: Unverified) -> Response:
    moment = now()
    words = {
        "missing": "webhook-id, webhook-timestamp and webhook-signature are needed.",
        "malformed": "webhook-id or webhook-timestamp cannot be read.",
        "timestamp": "webhook-timestamp is more than 300 s away from this server's time.",
        "signature": "The signature fits no secret of this backend.",
    }
    said = f"{words[refused.check]} Server time: {stamp(moment)} ({int(moment.timestamp())})."
    code = "timestamp_out_of_window" if refused.check == "timestamp" else "signature_invalid"
    return web.problem(401, detail=said, code=code)


def _only(known: Collection[str]) -> None:
    """Refuse parameters that do not exist: a misspelt filter would silently filter nothing."""
    for name in request.args:
        if name not in known:
            raise Invalid(f"the parameters are {', '.join(sorted(known))}", field="query")


def _given(name: str) -> str | None:
    """A parameter; many clients write one they leave out as an empty one."""
    return request.args.get(name) or None


def _text(name: str) -> str | None:
    text = _given(name)
    if text is not None and not (len(text) <= 200 and "\x00" not in text):
        raise Invalid("must be a text of 1 to 200 characters", field=name)
    return text


def _count(name: str, least: int, most: int, default: int) -> int:
    given = _given(name)
    if given is None:
        return default
    if not _NUMBER.fullmatch(given) or not least <= int(given) <= most:
        raise Invalid(f"must be a whole number from {least} to {most}", field=name)
    return int(given)


def _moment(name: str) -> datetime | None:
    given = _given(name)
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Invalid("must be a time with its zone, for example 2026-11-20T10:00:00Z", field=name)
    return moment
