"""The client for backends, against a real server."""

from __future__ import annotations

import datetime
import threading
import time
from typing import Any

import httpx
import pytest
import standardwebhooks
from flask import Flask

from reviewqueue.client import Client, Refused, Unverified, verify_callback
from reviewqueue.db import db
from reviewqueue.models import Item
from tests.make import Make

pytestmark = pytest.mark.sqlite  # what is tested here stands before the database

SECRET = "whsec_ERERERERERERERERERERERERERERERERERERERERERE="


@pytest.fixture
def rq(app: Flask, make: Make, live: str) -> Any:
    project = make.project(confidence_below=0.8, undo_seconds=1)
    client = Client(live, make.backend(project).api_key)
    yield client
    client.close()


def test_submit_answers_what_the_policy_said(rq: Client) -> None:
    good = rq.submit("support-replies", "It left on Monday.", confidence=0.95, external_id="a")
    doubtful = rq.submit("support-replies", "It left on Monday.", confidence=0.5, external_id="b")
    assert (good["status"], good["output"]) == ("released", "It left on Monday.")
    assert (doubtful["status"], doubtful["output"]) == ("pending", None)
    assert rq.item(good["id"])["external_id"] == "a"


def test_submit_again_with_the_same_key_is_the_same_item(rq: Client) -> None:
    first = rq.submit("support-replies", "Yes.", key="request-0001", confidence=0.5)
    assert rq.submit("support-replies", "Yes.", key="request-0001", confidence=0.5) == first
    assert db.session.query(Item).count() == 1


def test_a_refusal_carries_the_servers_words(rq: Client) -> None:
    with pytest.raises(Refused) as refused:
        rq.submit("support-replies", "Yes.", confidence=7)
    assert refused.value.status == 422
    assert refused.value.problem["errors"][0]["pointer"] == "/confidence"


def test_submit_batch_gives_a_result_for_each(rq: Client) -> None:
    good = {"project": "support-replies", "output": "Yes.", "confidence": 0.5}
    results = rq.submit_batch([good, good | {"risk": 2}])
    assert [result["status"] for result in results] == [201, 422]


def test_wait_returns_when_the_decision_is_final(rq: Client, make: Make, app: Flask) -> None:
    item = rq.submit("support-replies", "Yes.", confidence=0.5)
    ada = make.person("ada")

    def review() -> None:
        time.sleep(0.3)
        with app.app_context():
            stored = db.session.query(Item).filter_by(id=item["id"]).one()
            make.decide(ada, stored, "edit", "Yes, gladly.", reason="tone")

    thread = threading.Thread(target=review)
    thread.start()
    decided = rq.wait(item["id"], seconds=20)
    thread.join()
    assert (decided["status"], decided["output"]) == ("decided", "Yes, gladly.")
    assert decided["decision"]["final"]


def test_wait_gives_up_in_time_with_the_item_as_it_stands(rq: Client) -> None:
    item = rq.submit("support-replies", "Yes.", confidence=0.5)
    assert rq.wait(item["id"], seconds=0)["status"] == "pending"


def test_withdraw_takes_the_item_back(rq: Client) -> None:
    item = rq.submit("support-replies", "Yes.", confidence=0.5)
    assert rq.withdraw(item["id"])["status"] == "withdrawn"


def test_examples_of_a_new_project_are_none(rq: Client) -> None:
    found = rq.examples("support-replies", "Where is it?")
    assert (found["examples"], found["messages"]) == ([], [])


def test_a_server_that_stumbles_is_asked_again_with_the_same_key() -> None:
    seen = []

    def stumble(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["idempotency-key"])
        if len(seen) == 1:
            raise httpx.ConnectError("not up yet")
        if len(seen) == 2:
            return httpx.Response(503, headers={"retry-after": "0"}, json={"code": "busy"})
        return httpx.Response(201, json={"id": "itm_1"})

    client = Client("http://server.example", "key", transport=httpx.MockTransport(stumble))
    assert client.submit("p", "output") == {"id": "itm_1"}
    assert len(seen) == 3
    assert len(set(seen)) == 1


def test_verify_callback_believes_what_the_published_library_signed() -> None:
    moment = datetime.datetime.now(datetime.UTC)
    body = '{"type": "item.decided", "data": {"output": "zwölf"}}'
    headers = {
        "Webhook-Id": "evt_1",
        "Webhook-Timestamp": str(int(moment.timestamp())),
        "Webhook-Signature": "v1,bm8= " + standardwebhooks.Webhook(SECRET).sign("evt_1", moment, body),
    }
    assert verify_callback(headers, body.encode(), SECRET)["type"] == "item.decided"
    assert verify_callback(headers, body.encode(), ["whsec_" + "A" * 44, SECRET])["data"]["output"] == "zwölf"
    for spoiled in (
        {**headers, "Webhook-Signature": "v1,bm8="},
        {**headers, "Webhook-Timestamp": str(int(moment.timestamp()) - 301)},
        {**headers, "Webhook-Timestamp": "soon"},
        {"Webhook-Id": "evt_1"},
    ):
        with pytest.raises(Unverified):
            verify_callback(spoiled, body.encode(), SECRET)
    with pytest.raises(Unverified):
        verify_callback(headers, body.encode() + b" ", SECRET)
