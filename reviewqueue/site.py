"""The routes that belong to no stage: is it well, what do browsers report, where does this link lead.

Answers here name the parts of the deployment and count; they must never hold item content.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import urlsplit

import structlog
from flask import Blueprint, Response, jsonify, make_response, request

from reviewqueue import disk, metrics, schema
from reviewqueue.background import redis_answers
from reviewqueue.content.hidden import plain
from reviewqueue.content.show import outside_address
from reviewqueue.db import WRITING, db
from reviewqueue.errors import Invalid
from reviewqueue.ledger import known
from reviewqueue.ledger.reading import disagreement
from reviewqueue.web import right, show

pages = Blueprint("site", __name__)
api = Blueprint("site_api", __name__)

REPORT_LIMIT = 64 << 10

log = structlog.get_logger("reviewqueue.site")
_last_report = 0.0


@api.get("/healthz")
@right(None)
def healthz() -> Response:
    """The process answers."""
    return jsonify({"status": "ok"})


@api.get("/readyz")
@right(None)
def readyz() -> Response:
    """Each part by name; 503 when one is down without which nothing can be stored.

    Redis is told but does not count: without it items are stored and claimed, and callbacks go out later.
    """
    parts = {name: _state(check) for name, check in CHECKS.items()}
    parts["redis"] = "ok" if redis_answers() else "down"
    well = all(parts[name] == "ok" for name in CHECKS)
    answer = jsonify({"status": "ok" if well else "unavailable", "checks": parts})
    answer.status_code = 200 if well else 503
    if not well:
        answer.headers["Retry-After"] = "5"
    return answer


def _state(check: Callable[[], str | None]) -> str:
    try:
        return check() or "ok"
    except Exception as error:
        # Whatever fails here, the answer must still name the other parts.
        log.error("ready.failed", check=check.__name__, error=type(error).__name__)
        return "down"
    finally:
        db.session.rollback()


def _database() -> str | None:
    with db.engine.connect() as raw:
        live = raw.execution_options(**WRITING)
        with live.begin() as begun:
            if live.dialect.name == "postgresql":
                read_only = live.exec_driver_sql("SHOW transaction_read_only").scalar_one()
                return "read only" if read_only == "on" else None
            begun.rollback()
    return None


def _schema() -> str | None:
    return None if schema.version() == schema.head() else "not at the newest migration"


def _disk() -> str | None:
    return "full" if disk.full() else None


def _ledger() -> str | None:
    return disagreement() or ("rolled back" if known.rolled_back() is not None else None)


CHECKS: dict[str, Callable[[], str | None]] = {
    "database": _database, "schema": _schema, "disk": _disk, "ledger": _ledger,
}  # fmt: skip


@api.get("/metrics")
@right(None)
def show_metrics() -> Response:
    """Counts and ages for Prometheus."""
    text, content_type = metrics.exposition()
    answer = make_response(text)
    answer.headers["Content-Type"] = content_type
    return answer


@api.post("/csp")
@right(None)
def report() -> tuple[str, int]:
    """Count what a browser refused to do on our pages, and log what kind of thing it was."""
    global _last_report
    metrics.CSP_REPORTS.inc()
    request.max_content_length = REPORT_LIMIT
    body = request.get_json(force=True, silent=True)
    for entry in (body if isinstance(body, list) else [body])[:5]:
        told = entry.get("csp-report") or entry.get("body") if isinstance(entry, dict) else None
        # Anybody can post here: at most a line a second.
        if isinstance(told, dict) and time.monotonic() - _last_report > 1:
            _last_report = time.monotonic()
            blocked = urlsplit(str(told.get("blocked-uri") or told.get("blockedURL") or ""))
            directive = told.get("effective-directive") or told.get("effectiveDirective") or ""
            log.warning(
                "csp.report", directive=str(directive)[:64], blocked=(blocked.netloc or blocked.path)[:64]
            )
    return "", 204


@pages.get("/leave")
@right("read_items")
def leave() -> Response:
    """Ask before a link out of somebody's text is followed, and show where it really leads."""
    address = outside_address(request.args.get("to", ""))
    if address is None:
        raise Invalid("This is no address one can be led to.", field="to")
    host = urlsplit(address).hostname or ""
    before, _, after = address.partition(host) if host else (address, "", "")
    return show(
        "leave.html", address=address, before=plain(before), host=plain(host), after=plain(after),
        plain_host=_ascii(host),
    )  # fmt: skip


def _ascii(host: str) -> str | None:
    """How a name with letters of other scripts is really written, when it differs."""
    try:
        written = host.encode("idna").decode()
    except UnicodeError:
        return None
    return written if written != host else None
