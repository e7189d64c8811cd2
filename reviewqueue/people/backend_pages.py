"""The pages of backends: keys, webhook secrets, and where each is called back.

A key or secret is shown once, in the answer that made it. It must never be put where a later request, a
log or another page could show it again.
"""

from __future__ import annotations

from flask import Blueprint, Response, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from reviewqueue.delivery import endpoints
from reviewqueue.errors import Conflict, Invalid, Missing
from reviewqueue.models import Backend
from reviewqueue.people import access, backends, directory
from reviewqueue.web import actor, notice, right, show

pages = Blueprint("backends", __name__)

_SCOPE_WORDS = {
    "items:write": "submit and withdraw items",
    "items:read": "read its items and decisions",
    "examples:read": "ask for examples",
    "export:read": "read exports",
}


@pages.get("/backends")
@right("read_backends")
def list_backends() -> Response:
    """All backends, and the form to add one."""
    return _list()


def _list(errors: dict[str, str] | None = None, status: int = 200) -> Response:
    return show(
        "people/backends.html", status=status, backends=directory.callers(actor()), errors=errors or {},
        projects=[project.name for project in access.projects_of(actor())], form=request.form,
    )  # fmt: skip


@pages.post("/backends")
@right("manage_backends")
def add() -> Response:
    """Add a backend; its key and secrets stand in this answer alone."""
    form = request.form
    url = form.get("callback", "").strip()
    try:
        made = backends.add_backend(actor(), form.get("name", "").strip(), form.get("project", ""))
    except Invalid as refusal:
        return _list(_by_field(refusal), 422)
    except Conflict as refusal:
        return _list({"name": refusal.message}, 409)
    name, backend_id = made.backend.name, made.backend.id
    trouble = _register(backend_id, url) if url else None
    shown = [
        ("api_key", "API key", made.api_key),
        (
            "inbound_secret",
            "Inbound secret: it signs what it sends to its webhook address",
            made.inbound_secret,
        ),
        ("callback_secret", "Callback secret: with it it checks what we send", made.callback_secret),
    ]
    return show("people/shown_once.html", status=201, name=name, shown=shown, trouble=trouble)


def _register(backend_id: str, url: str) -> str | None:
    """Set the address and try it; what went wrong, in words."""
    try:
        endpoints.register(actor(), backend_id, url)
    except Invalid as refusal:
        return refusal.message
    outcome = endpoints.prove(actor(), backend_id)
    return None if outcome.ok else "The callback address has not answered its challenge yet."


@pages.get("/backends/<name>")
@right("read_backends")
def backend(name: str) -> Response:
    """One backend: address, keys, secrets."""
    return _page(name)


def _page(name: str, errors: dict[str, str] | None = None, status: int = 200) -> Response:
    found, shown = directory.caller(actor(), name)
    return show(
        "people/backend.html", status=status, backend=shown, keys=directory.keys_of(found.id),
        secrets=directory.secrets_in_force(found.id), scopes=list(_SCOPE_WORDS.items()), errors=errors or {},
        form=request.form, hours=int(backends.OVERLAP.total_seconds() // 3600),
    )  # fmt: skip


@pages.post("/backends/<name>/keys")
@right("manage_backends")
def add_key(name: str) -> Response:
    """One more key, shown once."""
    try:
        made = backends.add_key(actor(), _backend(name), request.form.getlist("scopes"))
    except Invalid as refusal:
        return _page(name, _by_field(refusal), 422)
    words = "API key: " + ", ".join(made.key.scopes)
    return show("people/shown_once.html", status=201, name=name, shown=[("api_key", words, made.text)])


@pages.post("/backends/<name>/keys/<key_id>/revocation")
@right("manage_backends")
def revoke_key(name: str, key_id: str) -> AnyResponse:
    """End a key at once."""
    if key_id not in {key.id for key in directory.keys_of(_backend(name).id)}:
        raise Missing("There is no such key.")
    backends.revoke_key(actor(), key_id)
    return _back_to(name, "The key is refused from now on.")


@pages.post("/backends/<name>/secrets")
@right("manage_backends")
def rotate(name: str) -> Response:
    """A new secret, shown once; the old one stays in force for a while."""
    purpose = request.form.get("purpose", "")
    text = backends.rotate_secret(actor(), _backend(name), purpose)
    shown = [(f"{purpose}_secret", f"{purpose.capitalize()} secret", text)]
    return show("people/shown_once.html", status=201, name=name, shown=shown, rotated=True)


@pages.post("/backends/<name>/secrets/revocation")
@right("manage_backends")
def revoke_secrets(name: str) -> AnyResponse:
    """End the overlap: only the newest secret stays in force."""
    backends.revoke_secrets(actor(), _backend(name), request.form.get("purpose", ""))
    return _back_to(name, "Only the newest secret is in force.")


@pages.post("/backends/<name>/endpoint")
@right("manage_backends")
def set_endpoint(name: str) -> AnyResponse:
    """Set where it is called back, and send the challenge."""
    found = _backend(name)
    trusted = request.form.get("trusted") == "yes"
    try:
        endpoints.register(actor(), found.id, request.form.get("callback", "").strip(), trusted=trusted)
    except Invalid as refusal:
        return _page(name, _by_field(refusal), 422)
    return _back_to(name, "The address is in use.") if trusted else prove(name)


@pages.post("/backends/<name>/endpoint/proof")
@right("manage_backends")
def prove(name: str) -> AnyResponse:
    """Send the challenge again, also to bring a disabled endpoint back."""
    outcome = endpoints.prove(actor(), _backend(name).id)
    active = directory.caller(actor(), name)[1].endpoint == "active"
    return _back_to(
        name, "The address answered and is in use." if outcome.ok and active else "No valid answer yet."
    )


@pages.post("/backends/<name>/deactivation")
@right("manage_backends")
def deactivate(name: str) -> AnyResponse:
    """Stop the backend: its keys and signatures are refused."""
    backends.deactivate_backend(actor(), _backend(name))
    return _back_to(name, "The backend is stopped.")


def _backend(name: str) -> Backend:
    return directory.caller(actor(), name)[0]


def _back_to(name: str, text: str) -> AnyResponse:
    notice(text)
    return redirect(f"/backends/{name}", 303)


def _by_field(refusal: Invalid) -> dict[str, str]:
    return {error["pointer"]: error["message"] for error in refusal.errors} or {"name": refusal.message}
