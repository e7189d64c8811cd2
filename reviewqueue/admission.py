"""Who asks, and may they: nothing reaches a view before host, length, origin, token and right are checked.

Every view declares its right. Must never treat a session as a key, or a key as a session.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from functools import lru_cache
from io import BytesIO
from time import perf_counter
from typing import Any, TypeVar, cast
from urllib.parse import quote, urlsplit

from flask import Flask, Request, g, make_response, redirect, request, session
from flask.sessions import SecureCookieSession, SecureCookieSessionInterface
from flask_login import UserMixin
from flask_wtf.csrf import CSRFProtect
from werkzeug.exceptions import BadRequest, NotFound, RequestEntityTooLarge, UnsupportedMediaType
from werkzeug.routing import Rule
from werkzeug.wrappers import Response as AnyResponse
from werkzeug.wsgi import get_content_length

from reviewqueue import answers, ids
from reviewqueue.answers import SAFE_METHODS, for_programs, problem
from reviewqueue.config import current
from reviewqueue.errors import Forbidden
from reviewqueue.people import access, sign_in
from reviewqueue.people.access import Actor
from reviewqueue.people.wishes import Wishes, wishes_of

BODY_LIMIT = 1 << 20
# A form writes most letters outside ASCII as nine characters, so an output of the largest size needs this.
ITEM_FORM_LIMIT = 10 << 20
BATCH_LIMIT = 16 << 20
FORM_TYPES = ("application/x-www-form-urlencoded", "multipart/form-data")

View = TypeVar("View", bound=Callable[..., Any])
csrf = CSRFProtect()


class Sessions(SecureCookieSessionInterface):
    """Sessions in a signed cookie that holds a token; a program's cookie is not even read."""

    def open_session(self, app: Flask, request: Request) -> SecureCookieSession | None:
        """None, which Flask takes for a session that cannot hold anything, for the API."""
        program = request.path.startswith(("/api/v1/", "/webhooks/"))
        return None if program else super().open_session(app, request)


class SignedIn(UserMixin):  # type: ignore[misc]  # Flask-Login is not typed
    """The person of this request, safe to read after the database session has moved on."""

    def __init__(self, id: str, name: str, email: str, actor: Actor, wishes: Wishes | None = None) -> None:
        self.id, self.name, self.email, self.actor = id, name, email, actor
        self.wishes = wishes or Wishes()
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
            g.person = SignedIn(
                found.id, found.name, found.email, g.actor, wishes_of(found.wishes)
            )  # fmt: skip


def actor() -> Actor:
    """Who acts in this request: the key's backend in the API, the signed-in person everywhere else."""
    return cast(Actor, g.actor)


def signed_in(token: str) -> None:
    """Give the browser a new session that holds sign-in `token` and nothing from before."""
    session.clear()
    session["token"] = token


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


def admit() -> AnyResponse | None:
    """Everything that is checked before a view runs, cheapest first."""
    g.started = perf_counter()
    g.request_id = answers.request_id(request.headers.get("X-Request-Id")) or uuid.uuid4().hex
    ids.request_id.set(g.request_id)
    _check_host()
    _check_length()
    if "\0" in request.path:
        raise NotFound  # no name of ours has one, and PostgreSQL cannot even compare it
    rule = request.url_rule
    if for_programs() or request.endpoint == "static":
        needed = None if rule is None or rule.endpoint == "static" else right_of(answers.app(), rule)
        refused = _admit_key(needed) if needed else None
        if refused is None:
            _take_chunked()
        return refused
    _recognise()
    if rule is None:
        return None
    needed = right_of(answers.app(), rule)
    if request.method not in SAFE_METHODS:
        _take_chunked()
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
    ours = _is_ours(request.host, settings.bind, settings.public_url, settings.env)
    if not ours and request.blueprint != "site_api":
        raise BadRequest("This address is not the one in REVIEWQUEUE_PUBLIC_URL.")


@lru_cache(maxsize=100)
def _is_ours(host: str, bind: str, public_url: str, env: str) -> bool:
    ours = {urlsplit(public_url).hostname, bind.rpartition(":")[0].strip("[]")}
    if env != "production":
        ours |= {"localhost", "127.0.0.1", "::1"}
    return urlsplit(f"//{host}").hostname in ours


def _check_length() -> None:
    limit = request.max_content_length = limit_of(request.path)
    if (get_content_length(request.environ) or 0) > limit:
        raise RequestEntityTooLarge


def limit_of(path: str) -> int:
    """How many bytes a body sent to `path` may have."""
    if path == "/api/v1/items/batch":
        return BATCH_LIMIT
    return ITEM_FORM_LIMIT if path.startswith(("/claims/", "/items/")) else BODY_LIMIT


def _take_chunked() -> None:
    """Read a body of unsaid length; werkzeug would cut it off at the limit and call it whole."""
    environ = request.environ
    if environ.get("wsgi.input_terminated") and environ.pop("HTTP_TRANSFER_ENCODING", None):
        limit = limit_of(request.path)
        body = environ["wsgi.input"].read(limit + 1)
        if len(body) > limit:
            raise RequestEntityTooLarge
        environ["wsgi.input"], environ["CONTENT_LENGTH"] = BytesIO(body), str(len(body))


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
