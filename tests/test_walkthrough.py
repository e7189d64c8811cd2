"""One item's life from submission to audit, told through HTTP with real outputs and a real receiver.

Read `walk` from top to bottom to learn what the product does. The tests after it stop each step right after
its commit, as a crash would, and let one pass of the relay find what was left to do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import time_machine
from flask import Flask
from sqlalchemy import event, select
from standardwebhooks import Webhook

from reviewqueue.config import Settings
from reviewqueue.db import db
from reviewqueue.examples.collect import promote
from reviewqueue.examples.retrieve import nearest_decided, search
from reviewqueue.ids import new_id
from reviewqueue.ledger.verify import verify
from reviewqueue.models import Attempt, Delivery, Example, Item, LedgerEntry, Project, Review
from reviewqueue.people.access import SYSTEM, queue_for
from reviewqueue.review.claim import claim_item, claim_next
from reviewqueue.review.decide import decide
from reviewqueue.routing.projects import apply
from reviewqueue.running.relay import relay
from tests.listener import Listener, listener
from tests.make import Make
from tests.real.load import SETS, RealSet, require
from tests.visitor import Visitor

TRANSLATIONS = SETS["mlqe_pe"]


@dataclass
class Place:
    """Where to walk: an instance, a backend's secrets, its receiver, and people who are signed in."""

    url: str
    backend: str
    api_key: str
    inbound_secret: str
    called: Listener
    ada: Visitor
    cleo: Visitor
    aud: Visitor
    time_passes: Callable[[], object]  # lets the background work, where it does not do so by itself
    transport: httpx.BaseTransport | None = None

    def program(self, **headers: str) -> httpx.Client:
        """A program that talks to this instance."""
        return httpx.Client(base_url=self.url, headers=headers, transport=self.transport, timeout=30)


def walk(place: Place, chosen: RealSet) -> None:
    """The way of an item, step by step as the design's table has it."""
    first, second = [row for row in chosen.rows(400) if chosen.said(row).verdict == "edit"][:2]
    correction = chosen.said(first)
    program = place.program(Authorization=f"Bearer {place.api_key}")

    # Submit. A backend sends what its model said. It is stored before the answer comes, and the same key
    # with the same body gives the same answer for ever.
    body = chosen.submission(first) | {"confidence": 0.31}
    key = {"Idempotency-Key": "walk-0001"}
    answer = program.post("/api/v1/items", json=body, headers=key)
    assert answer.status_code == 201, answer.text
    item = answer.json()
    assert item["id"].startswith("itm_")
    again = program.post("/api/v1/items", json=body, headers=key)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    assert again.json() == item
    other = program.post("/api/v1/items", json=body | {"confidence": 0.32}, headers=key)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")

    # Route. The policy said who must look at it, and why.
    assert item["status"] == "pending"
    assert item["output"] is None
    route = item["route"]
    assert (route["decision"], route["queue"], route["policy_version"]) == ("review", "main", 1)
    assert [reason["code"] for reason in route["reasons"]] == ["confidence_below"]
    assert "0.31" in route["reasons"][0]["message"]
    released = program.post("/api/v1/items", json=chosen.submission(second) | {"confidence": 0.99}).json()
    assert (released["status"], released["output"]) == ("released", second["output"])

    # A webhook, signed as in the Standard Webhooks specification, ends in the same function.
    event = {"type": "item.submit", "data": chosen.submission(second) | {"external_id": "by-webhook"}}
    hooked = send_webhook(place, "evt_walkthrough", event | {"data": event["data"] | {"confidence": 0.2}})
    assert hooked.status_code == 201, hooked.text
    forged = send_webhook(place, "evt_forged", event, secret="whsec_" + "A" * 43 + "=")
    assert (forged.status_code, forged.json()["code"]) == (401, "signature_invalid")

    # Prepare. A worker puts beside the item what its reviewer should see.
    place.time_passes()

    # Claim. Ada sees it in her queue and takes the best next review: the lease in time, the token as proof.
    assert item["id"] in place.ada.get(f"/queues/{chosen.project}/main")
    page = place.ada.claim(chosen.project)
    assert page is not None
    assert page.item == item["id"]
    assert page.output == first["output"]
    assert chosen.guidelines in page.text
    refused = place.cleo.send(f"/items/{item['id']}/claims")
    assert refused.status_code == 409
    assert "Ada" in refused.text

    # Decide. She mends the output; the second time the very same form changes nothing.
    form = {"output": correction.output, "reason": correction.reason, "cause": correction.cause}
    without = place.ada.decide(page, "edit", output=correction.output)
    assert without.status_code == 422
    assert "Choose a reason" in without.text
    for _ in range(2):
        decided = place.ada.decide(page, "edit", **form)
        assert decided.status_code in (303, 409), decided.text
    assert program.get(f"/api/v1/items/{item['id']}").json()["status"] == "decided"

    # Deliver. The backend is called back once, signed; whoever asks instead gets the same.
    place.time_passes()
    place.called.wait(1)
    (callback,) = place.called.of(item["id"])
    told = callback.event["data"]
    assert callback.event["type"] == "item.decided"
    assert (told["verdict"], told["output"], told["edited"]) == ("edit", correction.output, True)
    assert (told["external_id"], told["sequence"], told["reason"]) == (first["id"], 1, correction.reason)
    assert told["metadata"] == body["metadata"]
    answer = program.get(f"/api/v1/items/{item['id']}?wait=1").json()
    assert (answer["output"], answer["decision"]["verdict"]) == (correction.output, "edit")
    assert not place.called.forged

    # Example. The correction proposes one; its author cannot promote it, somebody else can.
    example = only(r"exa_[0-9a-z]{26}", place.cleo.get("/examples"))
    assert place.ada.send(f"/examples/{example}/promotion").status_code == 403
    assert search_examples(program, chosen, first)["examples"] == []
    assert place.cleo.send(f"/examples/{example}/promotion").status_code == 303
    served = search_examples(program, chosen, first)
    assert (served["set"], [found["item"] for found in served["examples"]]) == (1, [item["id"]])
    assert served["messages"][-1] == {"role": "assistant", "content": correction.output}

    # Override. A lead reverses; the backend is told again, under the next number, after the first.
    reversal = {"verdict": "reject", "reason": "unsafe"}
    assert place.cleo.send(f"/items/{item['id']}/overrides", **reversal).status_code == 303
    place.time_passes()
    place.called.wait(2)
    amended = place.called.of(item["id"])[1].event
    assert (amended["type"], amended["data"]["sequence"]) == ("item.amended", 2)
    assert (amended["data"]["verdict"], amended["data"]["output"]) == ("reject", None)
    assert search_examples(program, chosen, first)["examples"] == [], "what it taught went with it"

    # Audit. Everything stands in the ledger, and the item's page tells its whole story.
    trail = place.cleo.get(f"/items/{item['id']}")
    for part in (example, callback.id, "confidence 0.31 is below", "superseded", "item.amended"):
        assert part in trail, part
    assert item["id"] in place.aud.get(f"/audit?item={item['id']}")
    assert place.aud.send(f"/items/{item['id']}/overrides", **reversal).status_code == 403


def send_webhook(place: Place, id: str, event: dict[str, Any], secret: str | None = None) -> httpx.Response:
    """Submit by webhook, as any library that knows the specification does."""
    moment, body = datetime.now(UTC), json.dumps(event)
    signature = Webhook(secret or place.inbound_secret).sign(id, moment, body)
    headers = {
        "webhook-id": id,
        "webhook-timestamp": str(int(moment.timestamp())),
        "webhook-signature": signature,
        "content-type": "application/json",
    }
    return place.program().post(f"/webhooks/{place.backend}", content=body, headers=headers)


def search_examples(program: httpx.Client, chosen: RealSet, row: dict[str, Any]) -> dict[str, Any]:
    """What a backend would put into the prompt for this row's input."""
    asked = {"input": row["input"]["prompt"], "k": 3}
    answer = program.post(f"/api/v1/projects/{chosen.project}/examples/search", json=asked)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def only(pattern: str, text: str) -> str:
    """The one thing in a page that looks like this, however often it stands there."""
    found = set(re.findall(pattern, text))
    assert len(found) == 1, found
    return found.pop()


def test_walkthrough_from_submission_to_audit(app: Flask, make: Make, live: str) -> None:
    require(TRANSLATIONS)
    project = apply(TRANSLATIONS.toml(), SYSTEM).project
    with listener() as called, people(make, live) as (ada, cleo, aud):
        new = make.backend(project, name="translator", callback=called.url)
        called.secret = new.callback_secret
        place = Place(
            live, "translator", new.api_key, new.inbound_secret, called, ada, cleo, aud,
            time_passes=lambda: pass_of_the_relay(app),
        )  # fmt: skip
        walk(place, TRANSLATIONS)
    report = verify()
    assert (report.ok, report.problem) == (True, None)
    kinds = set(db.session.scalars(select(LedgerEntry.type)))
    assert kinds >= {"ledger.created", "config", "submissions.sealed", "decision", "delivery", "example"}


@contextmanager
def people(make: Make, url: str) -> Iterator[list[Visitor]]:
    """Ada, Cleo and the auditor, each at a browser."""
    visitors = [Visitor(url, make.sign_in_path(make.person(name))) for name in ("ada", "cleo", "aud")]
    yield visitors
    for visitor in visitors:
        visitor.close()


def pass_of_the_relay(app: Flask) -> dict[str, int]:
    """One look of the relay at everything, as `python -m reviewqueue relay --once` takes it."""
    done = relay(app, once=True)
    db.session.rollback()
    return done


# Every step of the design's table, stopped right after its commit: nothing listens where the bell is rung,
# and the answer never arrives. One pass of the relay, or asking again, must find it all.


@pytest.fixture
def desk(app: Flask, make: Make) -> Iterator[Desk]:
    with listener() as called:
        project = make.project(undo_seconds=0, reasons=["wrong fact", "tone"])
        called.secret = make.backend(project, callback=called.url).callback_secret
        yield Desk(app, make, project, called)


@dataclass
class Desk:
    """A project whose backend listens, and what a test does there again and again."""

    app: Flask
    make: Make
    project: Project
    called: Listener

    def item(self, **fields: Any) -> Item:
        return self.make.item(self.project, **{"input": "When did parcel 17 leave?"} | fields)  # type: ignore[no-any-return]

    def edited(self, **fields: Any) -> Item:
        item = self.item(**fields)
        self.make.decide(self.make.person("ada"), item, "edit", "It left on Friday.", "wrong fact")
        return item

    def relay(self) -> dict[str, int]:
        return pass_of_the_relay(self.app)

    def one(self, model: Any) -> Any:
        db.session.rollback()
        return db.session.scalars(select(model)).one()


def test_submit_stopped_after_its_commit_is_prepared_and_sealed_by_the_relay(desk: Desk) -> None:
    desk.item()
    assert desk.one(Review).prepared_at is None
    done = desk.relay()
    assert (done["prepare"], done["seal"]) == (1, 1)
    assert desk.one(Review).prepared_at is not None
    assert set(desk.relay().values()) == {0}


def test_route_is_pinned_so_that_a_later_policy_changes_nothing_about_a_repeat(desk: Desk) -> None:
    fields = {"external_id": "request-1", "confidence": 0.3}
    first = desk.item(**fields)
    desk.make.project(confidence_below=0.1)
    again = desk.item(**fields)
    assert (again.id, again.route, again.policy_version) == (first.id, "review", 1)
    assert desk.one(Item).status == "pending"


def test_prepare_stopped_after_its_commit_is_not_done_twice(desk: Desk) -> None:
    desk.item()
    desk.relay()
    review = desk.one(Review)
    before = (review.prepared_at, review.hints)
    desk.relay()
    review = desk.one(Review)
    assert (review.prepared_at, review.hints) == before


def test_claim_whose_answer_is_lost_is_found_again_by_its_holder_alone(desk: Desk) -> None:
    item = desk.item()
    ada, cleo = desk.make.person("ada"), desk.make.person("cleo")
    lost = claim_item(ada, item.id).token
    assert claim_item(ada, item.id).token == lost
    queue = queue_for(cleo, desk.project.name, "main")
    assert claim_next(cleo, queue) is None
    with time_machine.travel(datetime.now(UTC) + timedelta(minutes=11)):
        taken = claim_next(cleo, queue)
        assert taken is not None
        assert taken.token != lost


def test_decide_whose_answer_is_lost_counts_once_when_the_form_is_sent_again(desk: Desk) -> None:
    item, ada = desk.item(), desk.make.person("ada")
    token, form = claim_item(ada, item.id).token, (new_id("dec"), "reject", None, "tone")
    first = decide(ada, token, *form)
    again = decide(ada, token, *form)
    assert again.replayed
    assert first.decision is not None
    assert again.decision is not None
    assert again.decision.id == first.decision.id
    desk.relay()
    assert len(desk.called.callbacks) == 1


def test_settle_stopped_after_its_commit_is_told_and_learned_by_the_relay(desk: Desk) -> None:
    item = desk.edited()
    assert desk.called.callbacks == []
    assert nearest_decided(desk.project.id, "When did parcel 17 leave?") == []
    done = desk.relay()
    assert (done["deliver"], done["learn"]) == (1, 1)
    (callback,) = desk.called.of(item.id)
    assert callback.event["data"]["output"] == "It left on Friday."
    found = nearest_decided(desk.project.id, "When did parcel 17 leave?")
    assert [near.id for near, _, _ in found] == [item.id]


def test_deliver_killed_between_its_two_commits_is_taken_up_when_its_lease_has_run_out(
    desk: Desk, settings: Settings
) -> None:
    item = desk.edited()
    environ = {
        "REVIEWQUEUE_ENV": "test",
        "REVIEWQUEUE_DATA_DIR": str(settings.data_dir),
        "REVIEWQUEUE_KEYS_DIR": str(settings.keys_dir),
        "REVIEWQUEUE_CALLBACK_ALLOW": "127.0.0.0/8",
        "DATABASE_URL": settings.database_url,
    }
    command = [sys.executable, "-m", "reviewqueue", "relay", "--once"]
    root = Path(__file__).parents[1]
    victim = subprocess.Popen(command, cwd=root, env={**os.environ, **environ}, stderr=subprocess.DEVNULL)

    def kill(_event: str) -> int:
        victim.kill()
        victim.wait()
        return 503

    desk.called.refuse = kill
    assert victim.wait(60) == -9
    assert desk.one(Delivery).state == "inflight"
    desk.called.refuse = lambda _event: 200
    assert "deliver" not in desk.relay(), "the dead process may still be sending, for all we know"
    with time_machine.travel(datetime.now(UTC) + timedelta(seconds=61)):
        assert desk.relay()["deliver"] == 1
    assert desk.one(Delivery).state == "delivered"
    assert len(desk.called.of(item.id)) == 1
    outcomes = db.session.scalars(select(Attempt.outcome).order_by(Attempt.number)).all()
    assert outcomes == ["killed", "ok"]


def test_example_stopped_after_its_promotion_is_served_at_once(desk: Desk) -> None:
    item = desk.edited()
    promote(desk.make.person("cleo"), desk.one(Example).id)
    served = search(desk.project, "When did parcel 17 leave?")
    assert (served.set, [found["item"] for found in served.examples]) == (1, [item.id])


def test_audit_after_a_stop_before_the_commit_shows_nothing_and_goes_on(desk: Desk) -> None:
    item, ada = desk.item(), desk.make.person("ada")
    token = claim_item(ada, item.id).token
    size = verify().entries
    with pytest.raises(KeyboardInterrupt), stopped_before_the_commit():
        decide(ada, token, new_id("dec"), "approve")
    assert (verify().ok, verify().entries) == (True, size)
    assert desk.one(Item).status == "pending"
    assert decide(ada, token, new_id("dec"), "approve").decision is not None
    assert (verify().ok, verify().entries) == (True, size + 1)


@contextmanager
def stopped_before_the_commit() -> Iterator[None]:
    """The next commit does not happen: somebody pressed Ctrl-C just before it."""

    def stop(_connection: object) -> None:
        raise KeyboardInterrupt

    event.listen(db.engine, "commit", stop)
    try:
        yield
    finally:
        event.remove(db.engine, "commit", stop)
