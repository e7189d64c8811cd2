"""How every request is answered and logged: headers, refusals as pages or problems, one line per request.

Nothing here knows what a request is about. Must never put item content, a path with a token in it or an
exception's message into an answer or a log line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from time import perf_counter
from typing import Any, cast

import structlog
from flask import Flask, Request, Response, current_app, g, jsonify, make_response, render_template, request
from flask_wtf.csrf import CSRFError
from sqlalchemy.exc import OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from reviewqueue import logs, metrics
from reviewqueue.config import current
from reviewqueue.errors import Busy, Conflict, Fault, Forbidden, Invalid, Missing, Refusal

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
METHODS = (*SAFE_METHODS, "POST", "PUT", "PATCH", "DELETE")
LIMITED = ("rate_limited", "throttled")  # Busy codes that are the asker's own doing: 429 instead of 503
STATUS: dict[type[Refusal], int] = {Invalid: 422, Missing: 404, Forbidden: 403, Conflict: 409, Busy: 503}

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'; trusted-types rq-htmx; report-uri /csp"
)
_OFF = """accelerometer autoplay camera display-capture encrypted-media fullscreen geolocation
gyroscope hid idle-detection magnetometer microphone midi payment picture-in-picture
publickey-credentials-get screen-wake-lock serial usb xr-spatial-tracking"""
HEADERS = {
    "Content-Security-Policy": CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": ", ".join(f"{feature}=()" for feature in _OFF.split()),
}
HSTS = "max-age=31536000; includeSubDomains"

DRAINED, DRAINED_KNOWN = 2 << 20, 16 << 20  # bytes of a refused body: from anybody, from whom we know

_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{7,63}")
_ID = re.compile(r"[a-z]{3}_[0-9a-z]{26}")

log = structlog.get_logger("reviewqueue.web")


def init_app(app: Flask) -> None:
    """Answer every error of `app`, and finish every answer with headers and a log line."""
    logs.configure()
    app.register_error_handler(Refusal, _refused)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)
    app.after_request(_finish)
    app.wsgi_app = _with_headers(app.wsgi_app)  # type: ignore[method-assign]  # as Flask asks for


def _with_headers(inner: Any) -> Any:
    """`inner` with HEADERS on every answer; werkzeug would copy and check each of them three times."""
    fixed, secure = list(HEADERS.items()), [*HEADERS.items(), ("Strict-Transport-Security", HSTS)]

    def answered(environ: Any, start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start_response(status, headers + (secure if current().secure else fixed), exc_info)

        return inner(environ, start)

    return answered


def app() -> Flask:
    """The application of this request."""
    return cast(Flask, cast(Any, current_app)._get_current_object())


def _asked() -> Request:
    """The request itself: through Flask's name for it every attribute costs ten times as much."""
    return cast(Request, cast(Any, request)._get_current_object())


def request_id(given: str | None) -> str | None:
    """`given` when it is fit to be repeated in logs and answers."""
    return given if given and _REQUEST_ID.fullmatch(given) else None


def for_programs() -> bool:
    """Whether a program asks: it gets problems instead of pages, and no cookie is looked at."""
    asked = _asked()
    return (asked.blueprint or "").endswith("_api") or asked.path.startswith(("/api/", "/webhooks/"))


def problem(
    status: int,
    title: str | None = None,
    detail: str | None = None,
    code: str | None = None,
    errors: Sequence[Fault] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A refusal for programs, as RFC 9457 has it; `code` is the stable word to act on."""
    title = title or HTTPStatus(status).phrase
    code = code or title.lower().replace(" ", "_").replace("'", "")
    metrics.REFUSALS.labels(code).inc()
    body: dict[str, Any] = {
        "type": f"{current().public_url}/api/docs#{code}",
        "title": title,
        "status": status,
        "detail": detail or title,
        "code": code,
        "request_id": g.get("request_id"),
    }
    if status == 422:
        body["errors"] = list(errors or [{"pointer": "", "message": body["detail"]}])
    elif errors:
        body["errors"] = list(errors)
    response = jsonify(body)
    response.status_code = status
    response.mimetype = "application/problem+json"
    response.headers.update(dict(headers or {}))
    return response


def _refused(refusal: Refusal) -> Response:
    status = next((number for word, number in STATUS.items() if isinstance(refusal, word)), 400)
    headers = {}
    if isinstance(refusal, Busy):
        headers["Retry-After"] = str(max(1, refusal.retry_after))
        status = 429 if refusal.code in LIMITED else 503
    errors = refusal.errors if isinstance(refusal, Invalid) else None
    return _answer(status, refusal.message, refusal.code, errors, headers)


def _http(error: HTTPException) -> Response:
    if error.code is None or error.code < 400:
        return cast(Response, error.get_response())
    headers = {}
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        headers["Allow"] = ", ".join(sorted(error.valid_methods))
    said = error.description if error.code in (400, 415) and not for_programs() else None
    code = "csrf" if isinstance(error, CSRFError) else None
    if isinstance(error, CSRFError):
        said = "The page was open too long or came from elsewhere. Go back, reload it and try again."
    return _answer(error.code, said, code, None, headers)


def _unexpected(error: Exception) -> Response:
    if isinstance(error, (OperationalError, PoolTimeout)):
        cause = error.__cause__
        full = "full" in str(cause or "").lower() or getattr(cause, "sqlstate", None) == "53100"
        log.error("database.refused", error=type(error).__name__, full=full, **_context())
        said = "The storage is full." if full else "The database is busy."
        return _answer(503, said, "storage_full" if full else "busy", None, {"Retry-After": "2"})
    # Messages of exceptions may quote what was sent, so only where it happened is logged.
    where = logs.where(error.__traceback__)
    log.error("request.failed", error=type(error).__name__, where=where, **_context())
    return _answer(500, None, "internal_error", None, {})


def _answer(
    status: int,
    message: str | None,
    code: str | None,
    errors: Sequence[Fault] | None,
    headers: Mapping[str, str],
) -> Response:
    if for_programs():
        return problem(status, detail=message, code=code, errors=errors, headers=headers)
    metrics.REFUSALS.labels(code or HTTPStatus(status).phrase.lower().replace(" ", "_")).inc()
    values = {
        "status": status, "title": TITLES.get(status, HTTPStatus(status).phrase), "message": message,
        "errors": errors, "request_id": g.get("request_id"),
    }  # fmt: skip
    part = bool(getattr(request, "htmx", None))
    try:
        response = make_response(
            render_template("errors/_notice.html" if part else "errors/refusal.html", **values), status
        )
    except Exception as error:
        log.error("refusal.not_drawn", error=type(error).__name__, **_context())
        response = Response(f"{values['title']}\n", status, mimetype="text/plain")
    if part:
        response.headers["HX-Retarget"] = "#notices"
        response.headers["HX-Reswap"] = "innerHTML"
    response.headers.update(dict(headers))
    return response


TITLES = {
    400: "This request makes no sense here",
    403: "You may not do this",
    404: "There is nothing here",
    405: "Not possible here",
    409: "Somebody was there first",
    413: "That is too large",
    415: "That is not a form",
    422: "Something is not right yet",
    429: "Too many tries",
    500: "Something went wrong",
    503: "Busy at the moment",
}


def _drain() -> None:
    """Read what a refused request still sends: the server would drop the connection, and with it the answer
    or the next request on it."""
    left = DRAINED_KNOWN if "actor" in g else DRAINED
    if request.environ.get("wsgi.input_terminated") and (request.content_length or 0) <= left:
        stream = request.environ["wsgi.input"]
        while left > 0 and (piece := stream.read(1 << 16)):
            left -= len(piece)


def _finish(response: Response) -> Response:
    asked = _asked()
    if response.status_code >= 400 and asked.method not in SAFE_METHODS:
        _drain()
    response.headers["X-Request-Id"] = g.get("request_id", "")
    if asked.endpoint == "static" and response.status_code in (200, 206, 304):
        lasting = "v" in asked.args
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if lasting else "no-cache"
    else:
        response.headers.setdefault("Cache-Control", "no-store")
        seconds = perf_counter() - g.get("started", perf_counter())
        metrics.REQUESTS.labels(
            asked.method if asked.method in METHODS else "other", response.status_code
        ).inc()
        if response.status_code == 409 and asked.path.startswith("/claims/"):
            metrics.LEASE_CONFLICTS.inc()
        metrics.SECONDS.labels("api" if for_programs() else "page").observe(seconds)
        log.info("request", status=response.status_code, ms=round(seconds * 1000), **_context(response))
    return response


def _context(response: Response | None = None) -> dict[str, Any]:
    """Who asked for what, for a log line: the route and ids, never the path, which may hold a token."""
    asked = _asked()
    ids = [value for value in (asked.view_args or {}).values() if _ID.fullmatch(str(value))]
    if response is not None and response.status_code in (200, 201):
        ids += _ID.findall(response.headers.get("Location", ""))  # of what was made
    return {
        "request_id": g.get("request_id"), "method": asked.method, "ids": ids,
        "route": asked.url_rule.rule if asked.url_rule else None,
        "actor": g.actor.id if "actor" in g else None,
    }  # fmt: skip
