"""Who may do what, as one table: every route, every role, on real objects of one project.

A route that is not in the table fails. Around the table: what a state change refuses, whoever asks, stands
in test_web.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, text

from reviewqueue.db import db
from reviewqueue.examples.collect import promote
from reviewqueue.finding.batch import begin
from reviewqueue.finding.views import save
from reviewqueue.models import ApiKey, Delivery, Example, Project, Queue, WebSession
from reviewqueue.people.access import SCOPES, SYSTEM, queue_for
from reviewqueue.people.backends import add_key
from tests.make import Make

pytestmark = pytest.mark.sqlite  # nothing here depends on the database

# The columns: nobody; Ada reviews here and holds the claim, decided the item; Ben reviews in another project;
# Cleo leads; Dora administers; the auditor; Mallory has no queue; the project's own key; another project's.
WHO = ("nobody", "ada", "ben", "cleo", "dora", "aud", "mallory", "key", "stranger")
# + may, whatever the form then lacks    x refused by role        0 not there, for all they can tell
# > sign in first                        k a key, or signature    * open to everybody
TABLE = """
GET    /                                                    >++++++>>
GET    /account                                             >++++++>>
GET    /account/password                                    >++++++>>
POST   /account/password                                    >++++++>>
POST   /account/theme                                       >++++++>>
GET    /account/work                                        >++++++>>
POST   /account/keys                                        >++++++>>
POST   /account/care                                        >++++++>>
GET    /go                                                  >++++++>>
POST   /account/sessions/<key>/end                          >000000>>
GET    /login                                               *********
POST   /login                                               *********
GET    /login/link/<token>                                  *********
POST   /login/link/<token>                                  *********
GET    /leave                                               >++++++>>
GET    /healthz                                             *********
GET    /readyz                                              *********
GET    /metrics                                             *********
POST   /csp                                                 *********

GET    /api/docs                                            *********
GET    /api/v1/openapi.json                                 *********
POST   /webhooks/<backend>                                  kkkkkkkkk
POST   /api/v1/items                                        kkkkkkk++
POST   /api/v1/items/batch                                  kkkkkkk++
GET    /api/v1/items                                        kkkkkkk++
GET    /api/v1/items/<string(length=30):item_id>            kkkkkkk+0
POST   /api/v1/items/<string(length=30):item_id>/withdrawal kkkkkkk+0
POST   /api/v1/projects/<project>/examples/search           kkkkkkk+0
GET    /api/v1/projects/<project>/examples/export           kkkkkkk+0
GET    /api/v1/projects/<project>/example-sets/<int:number> kkkkkkk+0

GET    /queues/<project>/<queue>                            >+0+++0>>
GET    /items                                               >xx+++x>>
GET    /items/<item_id>                                     >+0+++0>>
GET    /claims/<token>                                      >+000x0>>
PUT    /claims/<token>                                      >+000x0>>
GET    /claims/<token>/lease                                >+000x0>>
POST   /claims/<token>/ahead                                >+000x0>>
POST   /claims/<token>/changes                              >+000x0>>
POST   /claims/<token>/shape                                >+000x0>>
POST   /claims/<token>/comment                              >+000x0>>
POST   /claims/<token>/decision                             >+000x0>>
POST   /claims/<token>/escalation                           >+000x0>>
POST   /claims/<token>/skip                                 >+000x0>>
POST   /claims/<token>/release                              >+000x0>>
GET    /queues/<project>/<queue>/triage                     >+0++x0>>
POST   /queues/<project>/<queue>/batches                    >+0++x0>>
GET    /queues/<project>/<queue>/alike/<item_id>            >+0++x0>>
POST   /queues/<project>/<queue>/alike/<item_id>            >+0++x0>>
GET    /batches/<batch_id>                                  >+000x0>>
POST   /batches/<batch_id>/run                              >+000x0>>
POST   /batches/<batch_id>/undo                             >+000x0>>
POST   /views                                               >+0+++0>>
POST   /views/<view_id>/removal                             >+00000>>
POST   /queues/<project>/<queue>/claims                     >+0++x0>>
POST   /items/<item_id>/claims                              >+0++x0>>
POST   /items/<item_id>/overrides                           >xx++xx>>
POST   /items/<item_id>/assignment                          >xx++xx>>
POST   /decisions/<decision_id>/undo                        >+0xxx0>>

GET    /examples                                            >++++++>>
GET    /examples/<example_id>                               >+0+++0>>
GET    /examples/projects/<project>                         >+0+++0>>
POST   /examples/projects/<project>/search                  >+0+++0>>
POST   /examples/projects/<project>/exports                 >xx++xx>>
POST   /examples/<example_id>/promotion                     >xx++xx>>
POST   /examples/<example_id>/retirement                    >xx++xx>>

GET    /deliveries                                          >xx+++x>>
GET    /deliveries/<delivery_id>                            >xx+++x>>
POST   /deliveries/<delivery_id>/replay                     >xx++xx>>
POST   /deliveries/replay                                   >xx++xx>>
GET    /policies                                            >++++++>>
GET    /policies/<project>                                  >+0+++0>>
GET    /policies/<project>/trial                            >xx+++x>>
POST   /policies/<project>/pause                            >xxx+xx>>
POST   /policies/<project>/resume                           >xxx+xx>>
GET    /audit                                               >xx+++x>>
GET    /audit/<int:seq>                                     >xx+++x>>
POST   /audit/verification                                  >xx+++x>>
GET    /insight                                             >xx+++x>>
GET    /insight/now                                         >xx+++x>>
POST   /samples                                             >xxx+xx>>
POST   /first-key                                           >xxx+xx>>

GET    /people                                              >xxx++x>>
POST   /people                                              >xxx+xx>>
GET    /people/<person_id>                                  >xxx++x>>
POST   /people/<person_id>/role                             >xxx+xx>>
POST   /people/<person_id>/queues                           >xxx+xx>>
POST   /people/<person_id>/link                             >xxx+xx>>
POST   /people/<person_id>/revocation                       >xxx+xx>>
POST   /people/<person_id>/deactivation                     >xxx+xx>>
POST   /people/<person_id>/reactivation                     >xxx+xx>>
GET    /backends                                            >xx+++x>>
POST   /backends                                            >xxx+xx>>
GET    /backends/<name>                                     >xx+++x>>
POST   /backends/<name>/endpoint                            >xxx+xx>>
POST   /backends/<name>/endpoint/proof                      >xxx+xx>>
POST   /backends/<name>/keys                                >xxx+xx>>
POST   /backends/<name>/keys/<key_id>/revocation            >xxx+xx>>
POST   /backends/<name>/secrets                             >xxx+xx>>
POST   /backends/<name>/secrets/revocation                  >xxx+xx>>
POST   /backends/<name>/deactivation                        >xxx+xx>>

POST   /account/sessions/end                                >++++++>>
POST   /logout                                              *********
"""
ROUTES = [line.split() for line in TABLE.splitlines() if line]
# What these routes want besides a token, so that it is not the form that refuses.
SENT: dict[str, Any] = {
    "/api/v1/projects/<project>/examples/search": {"input": "Where is it?"},
    "/examples/projects/<project>/search": {"input": "Where is it?"},
    "/examples/projects/<project>/exports": {"format": "jsonl"},
    "/views": {"list": "support-replies/main"},
    "/claims/<token>/skip": {"until": "never"},
    "/claims/<token>/escalation": {"queue": "nowhere"},
}
KEPT = "decision review claim example project policy backend api_key secret endpoint delivery item"
# The ledger also tells of exports and of sessions that people end: they may.
ENTRIES = "ledger_entry WHERE type IN ('decision', 'review', 'undo', 'withdrawal', 'example', 'delivery')"


@dataclass
class Place:
    """A project with one of everything, and who comes to it."""

    make: Make
    project: Project
    filling: dict[str, str]
    keys: dict[str, str]

    def path(self, rule: str) -> str:
        """The address of a route, filled with what is really there."""
        filling = dict(self.filling)
        if rule.startswith("/login"):
            filling["token"] = "x" * 43
        if rule.endswith("/claims") and rule.startswith("/items"):
            filling["item_id"] = filling["waiting"]
        return re.sub(r"<(?:\w+(?:\([^)]*\))?:)?(\w+)>", lambda found: filling[found[1]], rule)


@pytest.fixture
def place(app: Flask, make: Make, client: Callable[..., Any]) -> Place:
    project = make.project(undo_seconds=600, kind="text")
    elsewhere = make.project("elsewhere")
    other_queue = db.session.scalars(select(Queue).where(Queue.project_id == elsewhere.id)).first()
    ada, _, cleo = make.person("ada"), make.person("ben", queues=[other_queue]), make.person("cleo")
    own = make.backend(project, name="bot", callback="http://127.0.0.1:9/")
    spare = make.backend(project, name="spare", callback="http://127.0.0.1:9/")
    stranger = make.backend(elsewhere, name="stranger")
    for name in ("promoted", "decided"):
        item = make.item(project, "bot", input=f"Where is parcel {name}?")
        given = make.decide(ada, item, "edit", f"It left {name}.", "tone")
        if name == "promoted":
            promote(cleo, db.session.scalars(select(Example.id)).one())
    held, waiting = (make.item(project, "bot") for _ in range(2))
    main = queue_for(ada, project.name, "main")
    client(make.person("eve", "reviewer"))
    filling = {
        "project": project.name,
        "queue": "main",
        "token": make.claim(ada, held).token,
        "item_id": item.id,
        "waiting": waiting.id,
        "decision_id": given.decision.id,
        "view_id": save(ada, "Mine", {"text": "parcel"}, main, shared=False).id,
        "batch_id": begin(ada, main, {held.id: "approve"}),
        "example_id": one(Example.id, Example.decision_id == given.decision.id),
        "delivery_id": one(Delivery.id, Delivery.item_id == item.id),
        "number": "1",
        "seq": "0",
        "person_id": make.person("eve").id,
        "key": one(WebSession.token_hash, WebSession.person_id == make.person("eve").id),
        "backend": "bot",
        "name": "spare",
        "key_id": one(ApiKey.id, ApiKey.backend_id == spare.backend.id),
    }
    return Place(make, project, filling, {"key": own.api_key, "stranger": stranger.api_key})


def one(column: Any, where: Any) -> str:
    found: str = db.session.scalars(select(column).where(where)).one()
    return found


def test_every_route_is_in_the_table(app: Flask) -> None:
    listed = sorted((method, rule) for method, rule, _ in ROUTES)
    there = sorted(
        (method, rule.rule)
        for rule in app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
        if rule.endpoint != "static"
    )
    assert listed == there


@pytest.mark.parametrize("who", WHO)
def test_every_route_answers_as_the_table_says(
    who: str, place: Place, client: Callable[..., Any], app: Flask
) -> None:
    key = {"Authorization": f"Bearer {place.keys[who]}"} if who in place.keys else {}
    visitor = client(place.make.person(who) if who not in ("nobody", *place.keys) else None)
    token = visitor.csrf("/login" if who in ("nobody", *place.keys) else "/account")
    before = kept()
    wrong = []
    for method, rule, letters in ROUTES:
        sent: dict[str, Any] = {"headers": key}
        if rule.startswith(("/api/", "/webhooks/")):
            sent["json"] = SENT.get(rule, {})
            sent = sent if method != "GET" else {"headers": key}
        elif method != "GET":
            sent["data"] = {"csrf_token": token} | SENT.get(rule, {})
        answer = visitor.open(place.path(rule), method=method, **sent)
        expected = letters[WHO.index(who)]
        if not fits(expected, answer):
            wrong.append(
                f"{method} {rule}: {answer.status_code} {answer.location or ''}, expected {expected}"
            )
    assert wrong == []
    if who in ("nobody", "aud", "mallory", "ben", *place.keys):
        assert kept() == before, "somebody changed something who may not"


def fits(expected: str, answer: Any) -> bool:
    """Whether an answer is what a letter of the table means."""
    status, to_login = answer.status_code, (answer.location or "").startswith("/login")
    meanings = {
        "+": status < 500 and status not in (401, 403, 404, 405) and (not to_login or status == 303),
        "x": status == 403,
        "0": status == 404,
        ">": status == 303 and to_login,
        "k": status == 401,
        "*": status < 500 and status != 405,
    }
    return meanings[expected]


def kept() -> dict[str, list[Any]]:
    """All that somebody without a right must not be able to change."""
    db.session.rollback()
    found = {
        table: [tuple(row) for row in db.session.execute(text(f"SELECT * FROM {table} ORDER BY 1"))]
        for table in [*KEPT.split(), ENTRIES]
    }
    db.session.rollback()
    return found


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_does_what_its_scope_says_and_no_more(
    scope: str, place: Place, client: Callable[..., Any]
) -> None:
    wanted = {
        "items:write": ["POST /api/v1/items", "POST /api/v1/items/batch", "withdrawal"],
        "items:read": ["GET /api/v1/items"],
        "examples:read": ["example-sets", "search"],
        "export:read": ["export"],
    }[scope]
    key = add_key(SYSTEM, place.make.backends["bot"].backend, [scope]).text
    for method, rule, letters in ROUTES:
        if letters[WHO.index("key")] != "+":
            continue
        answer = client().open(
            place.path(rule), method=method, headers={"Authorization": f"Bearer {key}"},
            **({"json": SENT.get(rule, {})} if method == "POST" else {}),
        )  # fmt: skip
        named = f"{method} {rule}"
        inside = any(
            named.startswith(word) and "withdrawal" not in named if " " in word else word in named
            for word in wanted
        )
        assert (answer.status_code != 403) is inside, (named, answer.status_code)
