"""The pages of people: getting in and out, one's own account, and who is a member.

A sign-in link is shown once, in the answer that made it. It must never be put where a later request, a
log or another page could show it again.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, make_response, redirect, request, session
from werkzeug.wrappers import Response as AnyResponse

from reviewqueue.config import current
from reviewqueue.db import db
from reviewqueue.errors import Busy, Conflict, Forbidden, Invalid, Refusal
from reviewqueue.models import Person, Queue
from reviewqueue.models.people import ROLES
from reviewqueue.people import directory, sign_in
from reviewqueue.web import THEMES, actor, notice, person, right, safe_next, show, signed_in

pages = Blueprint("people", __name__)

_YEAR = 365 * 86_400
_ROLE_WORDS = {
    "reviewer": "reviewer – decides on items",
    "lead": "lead – also settles disagreements, reverses, promotes examples",
    "admin": "admin – also manages people, backends and policies",
    "auditor": "auditor – reads everything, changes nothing",
}


@pages.get("/login")
@right(None)
def login() -> AnyResponse:
    """The form; whoever is in already is told so, or goes on to where they wanted."""
    back = safe_next(request.args.get("next"))
    if person() is not None:
        return redirect(back, 303) if back != "/" else show("people/here.html")
    return show("people/login.html", next=back, email="", error=None)


@pages.post("/login")
@right(None)
def log_in() -> AnyResponse:
    """Email and password for a session; the refusal is the same whatever was wrong."""
    email, back = request.form.get("email", ""), safe_next(request.form.get("next"))
    try:
        token = sign_in.sign_in(email, request.form.get("password", ""), *_visitor())
    except (Forbidden, Busy) as refusal:
        status = 429 if isinstance(refusal, Busy) else 403
        answer = show("people/login.html", status=status, next=back, email=email, error=refusal.message)
        if isinstance(refusal, Busy):
            answer.headers["Retry-After"] = str(refusal.retry_after)
        return answer
    signed_in(token)
    return redirect(back, 303)


@pages.get("/login/link/<token>")
@right(None)
def follow_link(token: str) -> AnyResponse:
    """Sign in by a one-time link when somebody opens it; what merely looks at links must not use it up."""
    looked_at = request.method == "HEAD" or "prefetch" in request.headers.get("Sec-Purpose", "")
    if looked_at or request.headers.get("Sec-Fetch-Dest", "document") != "document":
        return show("people/link.html", token=token)
    return use_link(token)


@pages.post("/login/link/<token>")
@right(None)
def use_link(token: str) -> AnyResponse:
    """Sign in by a one-time link."""
    try:
        signed_in(sign_in.sign_in_by_link(token, *_visitor()))
    except Forbidden as refusal:
        return show("people/login.html", status=403, next="/", email="", error=refusal.message)
    found = sign_in.person_of(session["token"])
    return redirect("/account/password" if found and found.password_hash is None else "/", 303)


@pages.post("/logout")
@right(None)
def log_out() -> AnyResponse:
    """End this session, here and in the database."""
    if session.get("token"):
        sign_in.sign_out(session["token"])
    session.clear()
    notice("You are signed out.")
    return redirect("/login", 303)


@pages.get("/account")
@right("read_items")
def account() -> Response:
    """One's own account: look, password, sessions."""
    rows = [(row, _browser_name(row.browser)) for row in sign_in.sessions_of(actor().id)]
    return show(
        "people/account.html", sessions=rows, this=sign_in.session_key(session["token"]), themes=THEMES
    )


@pages.post("/account/theme")
@right("read_items")
def choose_theme() -> AnyResponse:
    """Keep the chosen look in this browser."""
    chosen = request.form.get("theme", "")
    if chosen not in THEMES:
        raise Invalid("Choose one of the looks offered.", field="theme")
    answer = make_response(redirect("/account", 303))
    answer.set_cookie(
        "rq-theme", chosen, max_age=_YEAR, secure=current().secure, httponly=True, samesite="Lax"
    )
    return answer


@pages.get("/account/password")
@right("read_items")
def password() -> Response:
    """The form for a first or another password."""
    return _password_form()


@pages.post("/account/password")
@right("read_items")
def set_password() -> AnyResponse:
    """Set one's password; every other session ends."""
    me = db.session.get_one(Person, actor().id)
    try:
        token = sign_in.set_password(me, request.form.get("old"), request.form.get("new", ""), _visitor()[1])
    except Invalid as refusal:
        return _password_form(422, {error["pointer"]: error["message"] for error in refusal.errors})
    except Busy as refusal:
        return _password_form(429, {"old": refusal.message})
    signed_in(token)
    notice("Your password is set. Other sessions have ended.")
    return redirect("/", 303)


def _password_form(status: int = 200, errors: dict[str, str] | None = None) -> Response:
    me = db.session.get_one(Person, actor().id)
    return show("people/password.html", status=status, first=me.password_hash is None, errors=errors or {})


@pages.post("/account/sessions/<key>/end")
@right("read_items")
def end_session(key: str) -> AnyResponse:
    """End one of one's sessions, perhaps this one."""
    sign_in.end_session(actor(), key)
    notice("The session has ended.")
    return redirect("/account", 303)


@pages.post("/account/sessions/end")
@right("read_items")
def end_sessions() -> AnyResponse:
    """End all of one's sessions, this one too."""
    sign_in.revoke_sessions(actor(), actor().id)
    session.clear()
    notice("All your sessions have ended. Sign in again.")
    return redirect("/login", 303)


@pages.get("/people")
@right("read_people")
def people() -> Response:
    """Everybody, and the form to add somebody."""
    return _people({})


@pages.post("/people")
@right("manage_people")
def add() -> AnyResponse:
    """Add a person; the one-time link stands in this answer alone."""
    form = request.form
    every, queues = _chosen_queues()
    try:
        added, token = sign_in.add_person(
            actor(), form.get("email", ""), form.get("role", ""), form.get("name", "").strip() or None,
            every_queue=every, queues=queues,
        )  # fmt: skip
    except (Invalid, Conflict) as refusal:
        return _people(_errors(refusal, "email"), 409 if isinstance(refusal, Conflict) else 422)
    return _link_page(directory.member(actor(), added.id), token or "", 201)


def _people(errors: dict[str, str], status: int = 200) -> Response:
    return show(
        "people/people.html", status=status, people=directory.everybody(actor()),
        roles=list(_ROLE_WORDS.items()), queues=directory.queues_by_project(), errors=errors,
        form=request.form, chosen=request.form.getlist("queues"),
    )  # fmt: skip


@pages.get("/people/<person_id>")
@right("read_people")
def person_page(person_id: str) -> Response:
    """One person: role, queues, sessions."""
    shown = directory.member(actor(), person_id)
    return show(
        "people/person.html", who=shown, roles=[(role, _ROLE_WORDS[role]) for role in ROLES],
        queues=directory.queues_by_project(), chosen=directory.granted_queues(person_id),
    )  # fmt: skip


@pages.post("/people/<person_id>/role")
@right("manage_people")
def set_role(person_id: str) -> AnyResponse:
    """Another role; the person signs in anew."""
    sign_in.set_role(actor(), person_id, request.form.get("role", ""))
    return _back_to(person_id, "The role is set.")


@pages.post("/people/<person_id>/queues")
@right("manage_people")
def set_queues(person_id: str) -> AnyResponse:
    """Every queue, or only those ticked."""
    every, queues = _chosen_queues()
    sign_in.set_queues(actor(), person_id, every, queues)
    return _back_to(person_id, "The queues are set.")


@pages.post("/people/<person_id>/link")
@right("manage_people")
def make_link(person_id: str) -> Response:
    """A new one-time link; the old password and all sessions end."""
    token = sign_in.new_link(actor(), person_id)
    return _link_page(directory.member(actor(), person_id), token)


@pages.post("/people/<person_id>/revocation")
@right("manage_people")
def revoke(person_id: str) -> AnyResponse:
    """End all sessions of a person."""
    sign_in.revoke_sessions(actor(), person_id)
    return _back_to(person_id, "All sessions have ended.")


@pages.post("/people/<person_id>/deactivation")
@right("manage_people")
def deactivate(person_id: str) -> AnyResponse:
    """Close the account."""
    sign_in.deactivate(actor(), person_id)
    return _back_to(person_id, "The account is closed.")


@pages.post("/people/<person_id>/reactivation")
@right("manage_people")
def reactivate(person_id: str) -> AnyResponse:
    """Open a closed account again."""
    sign_in.reactivate(actor(), person_id)
    return _back_to(person_id, "The account is open again.")


def _back_to(person_id: str, text: str) -> AnyResponse:
    notice(text)
    return redirect(f"/people/{person_id}", 303)


def _link_page(who: directory.Member, token: str, status: int = 200) -> Response:
    link = f"{current().public_url}/login/link/{token}"
    return show(
        "people/invited.html", status=status, who=who, link=link, hours=sign_in.LINK.total_seconds() // 3600
    )


def _chosen_queues() -> tuple[bool, list[Queue]]:
    """Whether every queue was chosen, and otherwise which."""
    every = request.form.get("reach", "every") == "every"
    ids = request.form.getlist("queues")
    return every, [] if every else [found for found in (db.session.get(Queue, id_) for id_ in ids) if found]


def _errors(refusal: Refusal, otherwise: str) -> dict[str, str]:
    """The messages of a refusal by field; one that names none stands at `otherwise`."""
    named: list[Any] = getattr(refusal, "errors", [])
    return {error["pointer"]: error["message"] for error in named} or {otherwise: refusal.message}


def _visitor() -> tuple[str, str]:
    """From which address, with which browser."""
    return request.remote_addr or "", request.user_agent.string


def _browser_name(text: str) -> str:
    """What a person would call this browser."""
    names = (
        ("Edg/", "Edge"),
        ("OPR/", "Opera"),
        ("Firefox/", "Firefox"),
        ("Chrome/", "Chrome"),
        ("Safari/", "Safari"),
    )
    systems = (
        ("Android", "Android"),
        ("iPhone", "iPhone"),
        ("iPad", "iPad"),
        ("Windows", "Windows"),
        ("Mac OS", "Mac"),
        ("Linux", "Linux"),
    )
    name = next((name for mark, name in names if mark in text), "")
    system = next((name for mark, name in systems if mark in text), "")
    return " on ".join(part for part in (name, system) if part) or text[:40] or "unknown browser"
