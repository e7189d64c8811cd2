"""What pages and API share: who asks and may they, page or fragment, forms that are really ours.

Every view declares its right, or its key scope; the application does not start with one that does not.
Must never let a request reach a view before host, origin, token and right have been checked.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from datetime import datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlsplit

from flask import (
    Flask,
    Response,
    flash,
    g,
    make_response,
    redirect,
    render_template,
    request,
    session,
)
from flask_login import LoginManager, UserMixin
from flask_wtf.csrf import CSRFProtect, generate_csrf
from htmx_flask import Htmx
from werkzeug.exceptions import BadRequest, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.routing import Rule
from werkzeug.wrappers import Response as AnyResponse

from reviewqueue import answers
from reviewqueue.answers import SAFE_METHODS, for_programs, problem
from reviewqueue.config import Settings, current
from reviewqueue.db import now
from reviewqueue.errors import Forbidden
from reviewqueue.people import access, sign_in
from reviewqueue.people.access import Actor

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
    "people.pages", "people.backend_pages",
    "routing.pages",
    "intake.api", "intake.pages",
    "review.pages", "review.desk_pages", "review.item_pages",
    "delivery.pages",
    "examples.api", "examples.pages",
    "ledger.pages",
    "insight.pages",
)  # fmt: skip
BODY_LIMIT = 1 << 20
# A form writes most letters outside ASCII as nine characters, so an output of the largest size needs this.
ITEM_FORM_LIMIT = 10 << 20
BATCH_LIMIT = 16 << 20
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")
THEMES = ("auto", "light", "dark")
# What the bar offers: text, address, any of these rights. Each shows once its page exists.
NAVIGATION = (
    ("Desk", "/", ("read_items",)),
    ("Examples", "/examples", ("read_examples",)),
    ("Deliveries", "/deliveries", ("read_deliveries",)),
    ("Policies", "/policies", ("read_policies",)),
    ("Audit", "/audit", ("read_audit",)),
    ("Insight", "/insight", ("insight",)),
    ("People", "/people", ("manage_people", "read_people")),
    ("Backends", "/backends", ("manage_backends", "read_backends")),
)

View = TypeVar("View", bound=Callable[..., Any])
csrf = CSRFProtect()


class SignedIn(UserMixin):  # type: ignore[misc]
    """The person of this request, safe to read after the database session has moved on."""

    def __init__(self, id: str, name: str, email: str, actor: Actor) -> None:
        self.id, self.name, self.email, self.actor = id, name, email, actor
        self.role = actor.role


def right(name: str | None) -> Callable[[View], View]:
    """Declare what a view asks: a right of the signed-in person, a scope of a key, or None for nothing.

    A view with a scope never looks at a cookie; one with a right never looks at a key.
    """
    if name is not None and name not in access.RIGHTS:
        raise RuntimeError(f"{name} is not a right")

    def declare(view: View) -> View:
        cast(Any, view).right = name
        return view

    return declare


def scope(name: str) -> Callable[[View], View]:
    """Declare that a view asks for an API key with scope `name`."""
    return right(name)


def right_of(app: Flask, rule: Rule) -> str | None:
    """What the view behind `rule` asks; RuntimeError when it declares nothing."""
    view = app.view_functions[rule.endpoint]
    if not hasattr(view, "right"):
        raise RuntimeError(f"the view {rule.endpoint} ({rule.rule}) declares no right")
    return cast("str | None", view.right)


def person() -> SignedIn | None:
    """Who is signed in at this browser, or None."""
    return cast("SignedIn | None", g.get("person"))


def _recognise() -> None:
    g.person = None
    if session.get("token"):
        # What polls by itself must not keep a session alive that nobody sits at.
        found = sign_in.person_of(session["token"], seen="X-Polling" not in request.headers)
        if found is not None:
            g.actor = access.actor_of(found)
            g.person = SignedIn(found.id, found.name, found.email, g.actor)


def actor() -> Actor:
    """Who acts in this request: the key's backend in the API, the signed-in person everywhere else."""
    return cast(Actor, g.actor)


def signed_in(token: str) -> None:
    """Give the browser a new session that holds sign-in `token` and nothing from before."""
    session.clear()
    session["token"] = token


def notice(text: str) -> None:
    """Tell the person `text` on the next page. It travels in the cookie: no item content, no secret."""
    flash(text)


def safe_next(address: str | None) -> str:
    """`address` when it is a path of ours, else the desk."""
    if (
        address
        and address.startswith("/")
        and not address.startswith(("//", "/\\"))
        and address.isprintable()
    ):
        return address
    return "/"


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
        hops = settings.proxy_hops
        app.wsgi_app = ProxyFix(app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops)  # type: ignore[method-assign]
    Htmx(app)
    csrf.init_app(app)
    login = LoginManager()
    login.init_app(app, add_context_processor=False)
    login.session_protection = None
    login.request_loader(lambda _request: person())
    answers.init_app(app)
    app.before_request(_admit)
    app.context_processor(_page_values)
    app.add_template_filter(_iso, "iso")
    app.add_template_filter(_ago, "ago")
    app.add_template_filter(_sentence, "sentence")
    for name in EDGES:
        # A stage that is not written yet has no pages.
        if find_spec(f"reviewqueue.{name.split('.')[0]}") and find_spec(f"reviewqueue.{name}"):
            edge = import_module(f"reviewqueue.{name}")
            for blueprint in (getattr(edge, "pages", None), getattr(edge, "api", None)):
                if blueprint is not None:
                    app.register_blueprint(blueprint)
    for rule in app.url_map.iter_rules():
        if rule.endpoint != "static":
            right_of(app, rule)
    urls = app.url_map.bind("")
    app.extensions["navigation"] = [entry for entry in NAVIGATION if urls.test(entry[1], "GET")]


def _admit() -> AnyResponse | None:
    """Everything that is checked before a view runs, cheapest first."""
    g.started = perf_counter()
    g.request_id = answers.request_id(request.headers.get("X-Request-Id")) or uuid.uuid4().hex
    _check_host()
    _check_length()
    rule = request.url_rule
    if for_programs() or request.endpoint == "static":
        needed = None if rule is None or rule.endpoint == "static" else right_of(answers.app(), rule)
        return _admit_key(needed) if needed else None
    _recognise()
    if rule is None:
        return None
    needed = right_of(answers.app(), rule)
    if request.method not in SAFE_METHODS:
        _check_form()
    if needed is not None:
        who = person()
        if who is None:
            return _ask_to_sign_in()
        access.require(who.actor, needed)
    return None


def _check_host() -> None:
    """Refuse a Host header that is not ours: no link is built on it and no rebound name reaches us."""
    settings = current()
    bind = settings.bind.rpartition(":")[0].strip("[]")
    ours = {urlsplit(settings.public_url).hostname, bind}
    if settings.env != "production":
        ours |= {"localhost", "127.0.0.1", "::1"}
    if urlsplit(f"//{request.host}").hostname not in ours and request.blueprint != "site_api":
        raise BadRequest("This address is not the one in REVIEWQUEUE_PUBLIC_URL.")


def _check_length() -> None:
    limit = BODY_LIMIT
    if request.path == "/api/v1/items/batch":
        limit = BATCH_LIMIT
    elif request.path.startswith(("/claims/", "/items/")):
        limit = ITEM_FORM_LIMIT
    request.max_content_length = limit
    if (request.content_length or 0) > limit:
        raise RequestEntityTooLarge


def _check_form() -> None:
    """Refuse a state change that does not come from one of our own pages."""
    own = {
        f"{request.scheme}://{request.host}",
        "{0.scheme}://{0.netloc}".format(urlsplit(current().public_url)),
    }
    if request.headers.get("Origin", next(iter(own))) not in own:
        raise Forbidden("The form was sent from another site.", "cross_site")
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise Forbidden("The form was sent from another site.", "cross_site")
    if request.content_length and request.mimetype not in FORM_TYPES:
        raise UnsupportedMediaType("Send a form.")
    csrf.protect()


def _admit_key(name: str) -> AnyResponse | None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    found = access.authenticate_key(key.strip()) if scheme.lower() == "bearer" and key else None
    if found is None:
        return problem(
            401, detail="A valid API key is needed: Authorization: Bearer KEY.", code="unauthenticated",
            headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip
    access.require(found, name)
    g.actor = found
    return None


def _ask_to_sign_in() -> AnyResponse:
    htmx = cast(Any, request).htmx
    seen = urlsplit(htmx.current_url or "/") if htmx else urlsplit(request.full_path.rstrip("?"))
    back = safe_next(f"{seen.path}?{seen.query}".rstrip("?")) if htmx or request.method == "GET" else "/"
    address = "/login" + (f"?next={quote(back)}" if back != "/" else "")
    if htmx:
        response = make_response("", 401)
        response.headers["HX-Redirect"] = address
        return response
    return redirect(address, 303)


def _page_values() -> dict[str, Any]:
    """What every template can use without being given it."""
    who = person()
    entries = answers.app().extensions.get("navigation", []) if who else []
    theme = request.cookies.get("rq-theme")
    return {
        "asset": asset,
        "csrf_token": generate_csrf,
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
    text = f"{int(size // unit[0])} {unit[1]}"
    return f"{text} ago" if seconds > 0 else f"in {text}"


_UNITS = ((86_400 * 365, "y"), (86_400 * 30, "mo"), (86_400, "d"), (3600, "h"), (60, "min"), (10, "s"))


def _sentence(text: str) -> str:
    """A refusal's message as a sentence."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
