"""What pages share: page or fragment, notices, the values of every template; and all edges put together.

The application does not start with a view that declares no right. Must never know what a page is about.
"""

from __future__ import annotations

import gzip
import hashlib
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any, cast

from flask import Flask, Response, flash, make_response, render_template, request
from flask_login import LoginManager
from flask_wtf.csrf import generate_csrf
from htmx_flask import Htmx
from werkzeug.middleware.proxy_fix import ProxyFix

from reviewqueue import answers
from reviewqueue.admission import (
    BATCH_LIMIT,
    BODY_LIMIT,
    Sessions,
    actor,
    admit,
    csrf,
    person,
    right,
    right_of,
    safe_next,
    scope,
    signed_in,
)
from reviewqueue.answers import problem
from reviewqueue.config import Settings
from reviewqueue.db import now
from reviewqueue.people import access
from reviewqueue.people.wishes import Wishes

__all__ = [
    "actor",
    "asset",
    "notice",
    "person",
    "problem",
    "right",
    "safe_next",
    "scope",
    "show",
    "signed_in",
]

EDGES = (
    "site",
    "people.pages", "people.wish_pages", "people.backend_pages",
    "routing.pages",
    "intake.api", "intake.pages",
    "desk.found_pages", "desk.bulk_pages", "desk.view_pages",
    "desk.pages", "desk.claim_pages", "desk.handing_pages", "desk.go_pages", "desk.item_pages",
    "delivery.pages",
    "examples.api", "examples.pages",
    "ledger.pages",
    "insight.pages",
)  # fmt: skip
THEMES = ("auto", "light", "dark")
# What the bar offers: text, address, any of these rights. Each shows once its page exists.
NAVIGATION = (
    ("Desk", "/", ("read_items",)),
    ("Items", "/items", ("read_audit",)),
    ("Examples", "/examples", ("read_examples",)),
    ("Deliveries", "/deliveries", ("read_deliveries",)),
    ("Policies", "/policies", ("read_policies",)),
    ("Audit", "/audit", ("read_audit",)),
    ("Insight", "/insight", ("insight",)),
    ("People", "/people", ("manage_people", "read_people")),
    ("Backends", "/backends", ("manage_backends", "read_backends")),
)


def notice(text: str) -> None:
    """Tell the person `text` on the next page. It travels in the cookie: no item content, no secret."""
    flash(text)


def show(page: str, fragment: str | None = None, status: int = 200, **values: Any) -> Response:
    """The whole `page`, or only `fragment` of it when htmx asks for a part."""
    htmx = cast(Any, request).htmx
    part = fragment is not None and htmx and not htmx.boosted and not htmx.history_restore_request
    response = make_response(render_template(fragment if part and fragment else page, **values), status)
    response.vary.add("HX-Request")
    return response


def asset(name: str) -> str:
    """The address of a file in static/, changing with its content so that browsers may keep it."""
    return f"{answers.app().static_url_path}/{name}?v={_fingerprint(name)}"


def _fingerprint(name: str) -> str:
    path = Path(cast(str, answers.app().static_folder)) / name
    known: dict[str, tuple[int, str]] = answers.app().extensions.setdefault("fingerprints", {})
    changed = path.stat().st_mtime_ns
    if known.get(name, (0, ""))[0] != changed:
        known[name] = (changed, hashlib.sha256(path.read_bytes()).hexdigest()[:12])
    return known[name][1]


def _packed(response: Response) -> Response:
    """A file of ours as gzip. Pages are not: beside what somebody typed they hold tokens."""
    name = (request.view_args or {}).get("filename", "")
    fits = request.endpoint == "static" and response.status_code == 200 and name.endswith(_PACKED)
    if not fits or not request.accept_encodings["gzip"]:
        return response
    known: dict[str, tuple[str, bytes]] = answers.app().extensions.setdefault("packed", {})
    mark = _fingerprint(name)
    if known.get(name, ("", b""))[0] != mark:
        path = Path(cast(str, answers.app().static_folder)) / name
        known[name] = (mark, gzip.compress(path.read_bytes(), mtime=0))
    response.direct_passthrough = False
    response.set_data(known[name][1])
    response.content_encoding = "gzip"
    response.vary.add("Accept-Encoding")
    response.headers.pop("ETag", None)  # that of the file as it stands on the disk
    return response


_PACKED = (".css", ".js", ".svg")


def init_app(app: Flask) -> None:
    """Register every edge and what surrounds it; RuntimeError names a view that declares no right."""
    settings: Settings = app.config["REVIEWQUEUE"]
    app.config.update(
        MAX_CONTENT_LENGTH=BODY_LIMIT,
        MAX_FORM_MEMORY_SIZE=BATCH_LIMIT,
        SESSION_COOKIE_NAME="__Host-rq" if settings.secure else "rq",
        SESSION_COOKIE_SECURE=settings.secure,
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_PATH="/",
        WTF_CSRF_CHECK_DEFAULT=False,
        WTF_CSRF_TIME_LIMIT=None,
        WTF_CSRF_SSL_STRICT=False,
    )
    if settings.proxy_hops:
        hops = settings.proxy_hops  # Flask asks for middleware to be put in just so
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    app.session_interface = Sessions()
    Htmx(app)
    csrf.init_app(app)
    login = LoginManager()
    login.init_app(app, add_context_processor=False)
    login.session_protection = None
    login.request_loader(lambda _request: person())
    answers.init_app(app)
    app.before_request(admit)
    app.after_request(_packed)
    app.context_processor(_page_values)
    app.add_template_filter(_iso, "iso")
    app.add_template_filter(_ago, "ago")
    app.add_template_filter(_sentence, "sentence")
    for name in EDGES:
        edge = import_module(f"reviewqueue.{name}")
        for blueprint in (getattr(edge, "pages", None), getattr(edge, "api", None)):
            if blueprint is not None:
                app.register_blueprint(blueprint)
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            right_of(app, rule)
    urls = app.url_map.bind("")
    app.extensions["navigation"] = [entry for entry in NAVIGATION if urls.test(entry[1], "GET")]


def _page_values() -> dict[str, Any]:
    """What every template can use without being given it."""
    who = person()
    entries = answers.app().extensions.get("navigation", []) if who else []
    theme = request.cookies.get("rq-theme")
    watch = answers.app().extensions.get("conditions") if who else None
    return {
        "asset": asset,
        "conditions": watch.seen() if watch else [],
        "csrf_token": generate_csrf,
        "own_keys": (who.wishes if who else Wishes()).keys,
        "navigation": [e for e in entries if any(access.may(who.actor, r) for r in e[2])] if who else [],
        "may": lambda name: who is not None and access.may(who.actor, name),
        "now": now(),
        "signed_in": who,
        "theme": theme if theme in THEMES else "auto",
    }


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _ago(moment: datetime) -> str:
    """How far `moment` is from now, in the one unit that matters."""
    seconds = (now() - moment).total_seconds()
    size = abs(seconds)
    unit = next((unit for unit in _UNITS if size >= unit[0]), None)
    if unit is None:
        return "now"
    # Below ten seconds it is "now"; seconds are counted one by one all the same.
    text = f"{int(size // (1 if unit[1] == 's' else unit[0]))} {unit[1]}"
    return f"{text} ago" if seconds > 0 else f"in {text}"


_UNITS = ((86_400 * 365, "y"), (86_400 * 30, "mo"), (86_400, "d"), (3600, "h"), (60, "min"), (10, "s"))


def _sentence(text: str) -> str:
    """A refusal's message as a sentence."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
