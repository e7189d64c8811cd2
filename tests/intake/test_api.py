from __future__ import annotations

import base64
import hashlib
import hmac
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select

from reviewqueue.config import Settings, use
from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Busy
from reviewqueue.intake.rate import Rate
from reviewqueue.models import Decision, Item, Project
from reviewqueue.people.access import SYSTEM
from reviewqueue.people.backends import deactivate_backend, rotate_secret
from reviewqueue.routing import projects
from tests.make import Make


class Api:
    """A backend's HTTP client; `webhook` signs as the Standard Webhooks specification says."""

    def __init__(self, visitor: Any, backend: Any) -> None:
        self.visitor, self.backend = visitor, backend

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        headers.setdefault("Authorization", f"Bearer {self.backend.api_key}")
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.visitor.open(path, method=method, data=body, headers=headers)

    def get(self, path: str, **headers: str) -> Any:
        return self.send("GET", path, **headers)

    def post(self, path: str, body: Any = None, **headers: str) -> Any:
        return self.send("POST", path, body, **headers)

    def webhook(self, data: Any, id: str = "evt_1", **changes: Any) -> Any:
        name = changes.pop("name", None) or self.backend.backend.name
        secret = changes.pop("secret", self.backend.inbound_secret)
        body = changes.pop("body", None) or json.dumps({"type": "item.submit", "data": data}).encode()
        stamp = str(changes.pop("at", int(time.time())))
        signed = changes.pop("signed", body)
        key = base64.b64decode(secret.removeprefix("whsec_"))
        mac = hmac.digest(key, f"{id}.{stamp}.".encode() + signed, hashlib.sha256)
        headers = {
            "webhook-id": id,
            "webhook-timestamp": stamp,
            "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
            "Content-Type": "application/json",
        } | changes
        headers = {name: value for name, value in headers.items() if value is not None}
        return self.visitor.post(f"/webhooks/{name}", data=body, headers=headers)


@pytest.fixture
def project(app: Any, make: Make) -> Project:
    return make.project(confidence_below=0.80, undo_seconds=2)


@pytest.fixture
def api(client: Callable[..., Any], make: Make, project: Project) -> Api:
    """A backend of the project support-replies."""
    return Api(client(), make.backend(project))


def item(**fields: Any) -> dict[str, Any]:
    return {"project": "support-replies", "output": "It left on Monday.", **fields}


def count() -> int:
    return int(db.session.scalar(select(func.count()).select_from(Item)) or 0)


def check_problem(answer: Any, status: int, code: str | None = None) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.mimetype == "application/problem+json"
    body: dict[str, Any] = answer.json
    assert {"type", "title", "status", "detail", "code", "request_id"} <= body.keys()
    assert body["status"] == status
    assert code is None or body["code"] == code
    return body


def test_post_stores_an_item(api: Api) -> None:
    answer = api.post("/api/v1/items", item(confidence=0.62, external_id="req-17"))
    assert answer.status_code == 201
    assert answer.headers["Location"] == f"/api/v1/items/{answer.json['id']}"
    assert "Idempotency-Replayed" not in answer.headers
    assert answer.json["route"]["reasons"] == [
        {"code": "confidence_below", "message": "confidence 0.62 is below 0.80"}
    ]
    assert api.get(f"/api/v1/items/{answer.json['id']}").json == answer.json


def test_post_again_replays_the_answer_by_key_and_by_external_id(api: Api) -> None:
    body = json.dumps(item(external_id="e")).encode()
    first = api.post("/api/v1/items", body, Idempotency_Key="k")
    for headers in ({"Idempotency_Key": "k"}, {}, {"Idempotency_Key": "other"}):
        again = api.post("/api/v1/items", body, **headers)
        assert (again.status_code, again.data) == (200, first.data)
        assert again.headers["Idempotency-Replayed"] == "true"
    check_problem(api.post("/api/v1/items", item(), Idempotency_Key="k"), 422, "idempotency_key_reused")
    other = item(external_id="e", output="x")
    check_problem(api.post("/api/v1/items", other), 409, "external_id_conflict")
    assert count() == 1


def test_post_without_a_good_key_is_401_and_stores_nothing(api: Api) -> None:
    for authorization in ("", "Bearer", "Bearer nonsense", f"Basic {api.backend.api_key}"):
        answer = api.post("/api/v1/items", item(), Authorization=authorization)
        check_problem(answer, 401)
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert count() == 0


def test_post_refuses_what_is_no_strict_json_with_a_pointer(api: Api) -> None:
    for body, pointer in (
        (b'{"project": "support-replies", "output": "a", "output": "b"}', "/output"),
        (b'{"project": "support-replies", "output": {"a": NaN}}', "/output/a"),
        (b'{"project": "support-replies", "output": "a", "risk": 1e999}', "/risk"),
        (b'{"project": "support-replies", "output": "a\\u0000"}', "/output"),
        (b'{"project": "support-replies", "output": "a\\ud800"}', "/output"),
        (b'{"project": "support-replies", "output": ' + b"[" * 40 + b"]" * 40 + b"}", "/output" + "/0" * 31),
        (b'{"project"', ""),
        (b"", ""),
        (b"[]", ""),
        (b'"x"', ""),
    ):
        problem = check_problem(api.post("/api/v1/items", body), 422)
        assert problem["errors"][0]["pointer"] == pointer, body
    assert count() == 0


def test_post_echoes_nothing_of_what_it_refuses(api: Api) -> None:
    canary = "canary4711"
    for body in (
        item(output=[canary], external_id=canary),
        item(**{canary + " is no field": canary}),
        item(confidence=canary),
        item(project=canary),
        item(metadata=[canary]),
        canary,
    ):
        assert canary not in api.post("/api/v1/items", body).text
        assert canary not in api.post("/api/v1/items/batch", {"items": [body]}).text


def test_post_of_another_media_type_is_415(api: Api) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        check_problem(api.post("/api/v1/items", item(), Content_Type=kind), 415)
    assert (
        api.post("/api/v1/items", item(), Content_Type="application/json; charset=utf-8").status_code == 201
    )


def test_post_of_more_than_a_mebibyte_is_413(api: Api) -> None:
    frame = len(json.dumps(item(output="")))
    check_problem(api.post("/api/v1/items", item(output="x" * ((1 << 20) - frame + 1))), 413)
    assert api.post("/api/v1/items", item(output="x" * ((1 << 20) - frame))).status_code == 201
    batch = {"items": [item(output="x" * 900_000) for _ in range(18)]}
    assert api.post("/api/v1/items/batch", batch).status_code == 200
    batch = {"items": [item(output="x" * 900_000) for _ in range(19)]}
    check_problem(api.post("/api/v1/items/batch", batch), 413)


def test_everything_under_api_is_a_problem(api: Api) -> None:
    check_problem(api.get("/api/v1/nothing"), 404)
    check_problem(api.get("/api/nothing"), 404)
    check_problem(api.get("/webhooks/a/b/c"), 404)
    check_problem(api.get("/api/v1/items/itm_nothing"), 404)
    for method, path, allowed in (
        ("DELETE", "/api/v1/items", "GET, HEAD, OPTIONS, POST"),
        ("PUT", "/api/v1/items/batch", "OPTIONS, POST"),
        ("GET", "/webhooks/x", "OPTIONS, POST"),
    ):
        answer = api.send(method, path)
        check_problem(answer, 405)
        assert set(answer.headers["Allow"].split(", ")) <= set(allowed.split(", "))
    assert len(check_problem(api.get("/api/v1/items?limit=0"), 422)["request_id"]) >= 8


def test_items_of_others_are_not_there(api: Api, make: Make, client: Any, project: Project) -> None:
    mine = api.post("/api/v1/items", item(confidence=0.1, external_id="mine")).json
    for other in (make.backend(project, "second"), make.backend(make.project("other"))):
        stranger = Api(client(), other)
        check_problem(stranger.get(f"/api/v1/items/{mine['id']}"), 404)
        check_problem(stranger.get(f"/api/v1/items/{mine['id']}?wait=5"), 404)
        check_problem(stranger.post(f"/api/v1/items/{mine['id']}/withdrawal"), 404)
        assert stranger.get("/api/v1/items").json["items"] == []
        assert stranger.get("/api/v1/items?external_id=mine").json["items"] == []
    check_problem(api.post("/api/v1/items", item(project="other")), 404, "project_not_found")
    check_problem(api.post("/api/v1/items", item(project="nowhere")), 404, "project_not_found")
    check_problem(api.get("/api/v1/items?project=other"), 404, "project_not_found")


def test_a_key_needs_the_scope(api: Api, make: Make, client: Any) -> None:
    from reviewqueue.people.backends import add_key

    read = add_key(SYSTEM, api.backend.backend, ["items:read"]).text
    mine = api.post("/api/v1/items", item()).json
    bearer = {"Authorization": f"Bearer {read}"}
    check_problem(api.post("/api/v1/items", item(), **bearer), 403)
    check_problem(api.post("/api/v1/items/batch", {"items": [item()]}, **bearer), 403)
    check_problem(api.post(f"/api/v1/items/{mine['id']}/withdrawal", **bearer), 403)
    assert api.get(f"/api/v1/items/{mine['id']}", **bearer).status_code == 200
    assert count() == 1


# --- batches --------------------------------------------------------------------------------------


def test_a_batch_answers_each_on_its_own(api: Api) -> None:
    entries = [item(external_id="a"), item(confidence=2), item(external_id="a"), item(project="other"), 5]
    answer = api.post("/api/v1/items/batch", {"items": entries}, Idempotency_Key="k")
    results = answer.json["results"]
    assert answer.status_code == 200
    assert [result["index"] for result in results] == [0, 1, 2, 3, 4]
    assert [result["status"] for result in results] == [201, 422, 200, 404, 422]
    assert results[1]["error"]["errors"] == [{"pointer": "/confidence", "message": "must be at most 1.0"}]
    assert results[3]["error"]["code"] == "project_not_found"
    assert (
        results[0]["item"] == results[2]["item"] == api.get(f"/api/v1/items/{results[0]['item']['id']}").json
    )
    again = api.post("/api/v1/items/batch", {"items": entries}, Idempotency_Key="k")
    assert (again.data, again.headers["Idempotency-Replayed"]) == (answer.data, "true")
    assert count() == 1


def test_a_batch_with_an_entry_that_is_no_json_keeps_the_others(api: Api) -> None:
    good = json.dumps({"project": "support-replies", "output": "It left.", "confidence": 0.9})
    bad = good.replace('"confidence"', '"output": "again", "confidence"')
    answer = api.post("/api/v1/items/batch", body=f'{{"items": [{good}, {bad}, {good}]}}'.encode())
    assert answer.status_code == 200
    results = answer.json["results"]
    assert [result["status"] for result in results] == [201, 422, 201]
    assert results[1]["error"]["code"] == "invalid_json"
    assert [fault["pointer"] for fault in results[1]["error"]["errors"]] == ["/output"]


@pytest.mark.parametrize("name", ["<b>", "<text>", "<", ""])
def test_a_field_of_any_name_is_refused_as_unknown(api: Api, name: str) -> None:
    for entry in (item() | {name: 1}, item(prompt={"name": "reply", name: 1})):
        answer = api.post("/api/v1/items", entry)
        assert answer.status_code == 422, name
        assert "is not a field" in answer.json["errors"][0]["message"]


def test_a_batch_has_one_to_a_thousand_items(api: Api) -> None:
    for items in ([], [item()] * 1001, "x", None):
        check_problem(api.post("/api/v1/items/batch", {"items": items}), 422)
    check_problem(api.post("/api/v1/items/batch", [item()]), 422)
    assert count() == 0


# --- signed ---------------------------------------------------------------------------------------


def test_a_signed_message_stores_an_item_as_the_api_does(api: Api) -> None:
    answer = api.webhook(item(confidence=0.62, external_id="e"))
    assert answer.status_code == 201
    again = api.webhook(item(confidence=0.62, external_id="e"), at=int(time.time()) - 100)
    assert (again.status_code, again.data) == (200, answer.data)
    assert again.headers["Idempotency-Replayed"] == "true"
    by_key = api.post("/api/v1/items", item(confidence=0.62, external_id="e"))
    assert (by_key.status_code, by_key.data) == (200, answer.data)
    check_problem(api.webhook(item()), 422, "idempotency_key_reused")


def test_a_wrong_signature_is_401_and_stores_nothing(api: Api, make: Make) -> None:
    body = json.dumps({"type": "item.submit", "data": item()}).encode()
    other = make.backend(make.project("other"))
    for changes in (
        {"secret": "whsec_" + base64.b64encode(b"x" * 32).decode()},
        {"secret": other.inbound_secret},
        {"secret": api.backend.callback_secret},
        {"signed": body + b" "},
        {"body": body + b" ", "signed": body},
        {"webhook-id": "evt_2"},
        {"webhook-timestamp": str(int(time.time()) + 100)},
        {"webhook-signature": "v1,"},
        {"webhook-signature": None},
        {"webhook-id": None},
        {"webhook-timestamp": "soon"},
        {"name": "nobody"},
        {"name": other.backend.name},
        {"name": "No%20Slug"},
    ):
        check_problem(api.webhook(item(), **changes), 401, "signature_invalid")
    assert count() == 0


def test_a_stale_timestamp_is_401_with_the_time_of_the_server(api: Api) -> None:
    for shift in (-301, 302, -10_000):
        answer = api.webhook(item(), at=int(time.time()) + shift)
        problem = check_problem(answer, 401, "timestamp_out_of_window")
        assert str(int(time.time()))[:7] in problem["detail"]
    assert api.webhook(item(), at=int(time.time()) - 298).status_code == 201


def test_both_inbound_secrets_hold_while_one_is_rotated(api: Api) -> None:
    new = rotate_secret(SYSTEM, api.backend.backend, "inbound")
    assert api.webhook(item(), "evt_old").status_code == 201
    assert api.webhook(item(), "evt_new", secret=new).status_code == 201


def test_a_deactivated_backend_is_refused(api: Api) -> None:
    deactivate_backend(SYSTEM, api.backend.backend)
    check_problem(api.webhook(item()), 401)
    check_problem(api.post("/api/v1/items", item()), 401)


def test_a_signed_message_must_fit_its_route_and_backend(api: Api) -> None:
    for message, pointer in (
        ({"type": "item.revise", "data": item()}, "/type"),
        ({"type": "item.submit"}, "/data"),
        ({"type": "item.submit", "data": item(confidence=2)}, "/data/confidence"),
        ({"type": "item.submit", "data": item(output=[1])}, "/data/output"),
        ({"type": "item.submit", "data": item(), "backend": "another"}, "/backend"),
        ({"type": "item.submit", "data": item(), "extra": 1}, "/extra"),
    ):
        problem = check_problem(api.webhook(None, body=json.dumps(message).encode()), 422)
        assert problem["errors"][0]["pointer"] == pointer
    check_problem(api.webhook(item(), **{"Idempotency-Key": "another"}), 422)
    whole = {"type": "item.submit", "timestamp": "2026-11-20T10:00:00Z", "data": item()}
    assert api.webhook(None, body=json.dumps(whole).encode()).status_code == 201
    assert count() == 1


# --- reading --------------------------------------------------------------------------------------


def test_a_list_goes_from_the_newest_in_pages(api: Api) -> None:
    made = [api.post("/api/v1/items", item(external_id=str(n))).json["id"] for n in range(5)]
    seen: list[str] = []
    path = "/api/v1/items?limit=2"
    while path:
        page = api.get(path).json
        seen += [one["id"] for one in page["items"]]
        path = page["next_cursor"] and f"/api/v1/items?limit=2&cursor={page['next_cursor']}"
    assert seen == made[::-1]


def test_a_list_is_filtered(api: Api) -> None:
    low = api.post("/api/v1/items", item(confidence=0.1, external_id="low")).json
    high = api.post("/api/v1/items", item(confidence=0.9, external_id="high")).json

    def found(query: str) -> list[str]:
        return [one["id"] for one in api.get(f"/api/v1/items?{query}").json["items"]]

    assert found("status=pending") == [low["id"]]
    assert found("status=released") == [high["id"]]
    assert found("external_id=low") == [low["id"]]
    assert found("project=support-replies") == [high["id"], low["id"]]
    assert found(f"since={high['created_at']}") == [high["id"]]
    assert found("since=2999-01-01T00:00:00Z") == []
    assert found("project=&status=&external_id=&since=&cursor=&limit=") == [high["id"], low["id"]]
    for query in (
        "status=done", "limit=0", "limit=201", "limit=x", "since=yesterday", "since=2026-01-01", "cursor=x",
        "statuss=pending",
    ):  # fmt: skip
        check_problem(api.get(f"/api/v1/items?{query}"), 422)


def decided(item_id: str) -> None:
    """Let the time to undo be over."""
    with transaction() as session:
        decision = session.scalars(select(Decision).where(Decision.item_id == item_id)).one()
        decision.final_at = now()


def test_a_decision_is_told_and_its_output_usable_once_it_is_final(api: Api, make: Make) -> None:
    made = api.post("/api/v1/items", item(confidence=0.1)).json
    stored = db.session.scalars(select(Item).where(Item.id == made["id"])).one()
    make.decide(make.person("ada"), stored, "edit", "It left on Tuesday.", "wrong fact", "model")
    told = api.get(f"/api/v1/items/{made['id']}").json
    assert (told["status"], told["output"], told["decision"]["final"]) == ("decided", None, False)
    assert told["decision"]["verdict"] == "edit"
    decided(made["id"])
    told = api.get(f"/api/v1/items/{made['id']}").json
    assert (told["output"], told["decision"]["final"]) == ("It left on Tuesday.", True)
    assert told["sequence"] == 1


def test_a_rejected_item_has_no_output(api: Api, make: Make) -> None:
    made = api.post("/api/v1/items", item(confidence=0.1)).json
    stored = db.session.scalars(select(Item).where(Item.id == made["id"])).one()
    make.decide(make.person("ada"), stored, "reject", None, "wrong fact", "model")
    decided(made["id"])
    told = api.get(f"/api/v1/items/{made['id']}").json
    assert (told["status"], told["output"], told["decision"]["verdict"]) == ("decided", None, "reject")


def test_wait_returns_when_the_decision_is_final(api: Api, make: Make, app: Any, client: Any) -> None:
    made = api.post("/api/v1/items", item(confidence=0.1)).json
    started = time.monotonic()
    assert api.get(f"/api/v1/items/{made['id']}?wait=1").json["status"] == "pending"
    assert time.monotonic() - started >= 1

    answers: list[Any] = []
    other = Api(client(), api.backend)

    def ask() -> None:
        answers.append(other.get(f"/api/v1/items/{made['id']}?wait=20").json)

    thread = threading.Thread(target=ask)
    thread.start()
    stored = db.session.scalars(select(Item).where(Item.id == made["id"])).one()
    make.decide(make.person("ada"), stored)
    thread.join(20)
    assert answers[0]["decision"]["final"] is True
    assert 2 <= time.monotonic() - started < 15  # the two seconds in which it could be undone


def test_wait_answers_at_once_when_there_is_nothing_to_wait_for(api: Api) -> None:
    made = api.post("/api/v1/items", item(confidence=0.9)).json
    started = time.monotonic()
    assert api.get(f"/api/v1/items/{made['id']}?wait=30").json["status"] == "released"
    assert time.monotonic() - started < 5
    for wait in ("31", "-1", "x", "1.5"):
        check_problem(api.get(f"/api/v1/items/{made['id']}?wait={wait}"), 422)


def test_waiting_holds_no_database_connection(api: Api, app: Any, client: Any) -> None:
    made = api.post("/api/v1/items", item(confidence=0.1)).json
    db.session.remove()
    pool: Any = db.engine.pool
    others = [Api(client(), api.backend) for _ in range(3)]
    threads = [
        threading.Thread(target=other.get, args=(f"/api/v1/items/{made['id']}?wait=2",)) for other in others
    ]
    for thread in threads:
        thread.start()
    time.sleep(0.9)
    held = [pool.checkedout()]
    for _ in range(8):
        time.sleep(0.07)
        held.append(pool.checkedout())
    for thread in threads:
        thread.join()
    assert min(held) == 0


def test_withdrawal_ends_a_pending_item(api: Api) -> None:
    made = api.post("/api/v1/items", item(confidence=0.1)).json
    for _ in range(2):
        answer = api.post(f"/api/v1/items/{made['id']}/withdrawal")
        assert (answer.status_code, answer.json["status"]) == (200, "withdrawn")
    released = api.post("/api/v1/items", item(confidence=0.9)).json
    check_problem(api.post(f"/api/v1/items/{released['id']}/withdrawal"), 409, "not_pending")


# --- limits ---------------------------------------------------------------------------------------


class TestRate:
    @pytest.fixture
    def environ(self) -> dict[str, str]:
        return {"REVIEWQUEUE_INTAKE_RATE": "0.02/4", "REVIEWQUEUE_WEB_WORKERS": "1"}

    def test_too_many_submissions_are_429_with_retry_after(self, api: Api, make: Make, client: Any) -> None:
        answers = [api.post("/api/v1/items", item()) for _ in range(8)]
        assert [answer.status_code for answer in answers[:4]] == [201] * 4
        refused = check_problem(answers[-1], 429, "rate_limited")
        assert refused["status"] == 429
        assert int(answers[-1].headers["Retry-After"]) >= 1
        other = Api(client(), make.backend(projects.project_named("support-replies"), "second"))
        assert other.post("/api/v1/items", item()).status_code == 201
        check_problem(api.webhook(item()), 429)
        check_problem(api.post("/api/v1/items/batch", {"items": [item()] * 4}), 429)


def test_rate_refills(base: Any) -> None:
    rate = Rate()
    rate.take("somebody", 2000)
    with pytest.raises(Busy) as refused:
        rate.take("somebody", 1500)
    assert refused.value.retry_after in (2, 3)
    time.sleep(0.1)
    rate.take("somebody", 10)
    rate.take("somebody else", 2000)


def _take_all(environ: dict[str, str]) -> int:
    use(Settings.load(environ))
    taken = 0
    while True:
        try:
            Rate().take("somebody")
        except Busy:
            return taken
        taken += 1


def test_rate_is_one_for_all_processes(tmp_path: Path) -> None:
    environ = {"REVIEWQUEUE_DATA_DIR": str(tmp_path), "REVIEWQUEUE_INTAKE_RATE": "0.001/500"}
    with ProcessPoolExecutor(4, multiprocessing.get_context("spawn")) as pool:
        taken = list(pool.map(_take_all, [environ] * 4))
    assert sum(taken) == 500
    assert (tmp_path / "intake-rate").stat().st_mode & 0o077 == 0


def test_rate_starts_anew_when_the_file_is_lost_or_broken(base: Any, settings: Settings) -> None:
    file = settings.data_dir / "intake-rate"
    for spoil in (file.unlink, lambda: file.write_bytes(b"nonsense"), lambda: file.write_bytes(b"")):
        Rate().take("somebody", 2000)
        with pytest.raises(Busy):
            Rate().take("somebody", 1000)
        spoil()


def test_docs_and_description_are_open(client: Any, api: Api) -> None:
    assert client().get("/api/v1/openapi.json").json["openapi"] == "3.1.0"
    page = client().get("/api/docs")
    assert page.status_code == 200
    assert page.mimetype == "text/html"
    for words in ("/api/v1/items/batch", "/webhooks/{backend}", "number, 0 to 1", "list of Passage"):
        assert words in page.text
