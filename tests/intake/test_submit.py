from __future__ import annotations

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import func, select

from reviewqueue.config import current
from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Conflict, Forbidden, Invalid, Missing
from reviewqueue.ids import new_id
from reviewqueue.intake.submit import Answer, submit, submit_batch, withdraw
from reviewqueue.models import Claim, ExampleSet, Item, LedgerEntry, Project, Queue, Review, Submission
from reviewqueue.people.access import SYSTEM
from reviewqueue.routing import projects
from reviewqueue.routing.route import coin
from tests.make import Make

POLICY = {"confidence_below": 0.80, "risk_above": 0.50, "due_minutes": 240}


def count(table: Any) -> int:
    return int(db.session.scalar(select(func.count()).select_from(table)) or 0)


def item(**fields: Any) -> dict[str, Any]:
    return {"project": "support-replies", "output": "It left on Monday.", **fields}


@pytest.fixture
def backend(base: Flask, make: Make) -> Any:
    """The Actor of a backend of the project support-replies."""
    return make.backend_actor(make.project(**POLICY))


def test_submit_stores_an_item_for_review(backend: Any) -> None:
    answer = submit(item(confidence=0.62, external_id="req-17", metadata={"a": [1, None]}), backend)
    assert answer.body == {
        "id": answer.id,
        "status": "pending",
        "project": "support-replies",
        "external_id": "req-17",
        "created_at": answer.body["created_at"],
        "confidence": 0.62,
        "confidence_source": "given",
        "route": {
            "decision": "review",
            "queue": "main",
            "policy_version": 1,
            "reasons": [{"code": "confidence_below", "message": "confidence 0.62 is below 0.80"}],
        },
        "output": None,
        "decision": None,
        "sequence": 0,
        "metadata": {"a": [1, None]},
        "page": f"{current().public_url}/items/{answer.id}",
    }
    assert not answer.replayed
    stored = answer.item
    review = db.session.scalars(select(Review)).one()
    queue = db.session.get_one(Queue, review.queue_id)
    assert (review.item_id, review.item_number, review.purpose) == (stored.id, stored.number, "gate")
    assert (review.state, review.seat, review.round, review.rank) == ("wanted", 1, 1, 2)
    assert (queue.name, review.due_at) == ("main", stored.created_at + timedelta(minutes=240))


def test_submit_releases_what_passes(backend: Any) -> None:
    answer = submit(item(confidence=0.80), backend)
    assert (answer.body["status"], answer.body["output"]) == ("released", "It left on Monday.")
    assert answer.body["route"]["queue"] is None
    assert count(Review) == 0


def test_submit_blocks_what_a_rule_refuses(base: Flask, make: Make) -> None:
    when = [{"field": "output", "op": "contains", "value": "Monday"}]
    project = make.project(rules=[{"name": "no mondays", "when": when, "route": "block"}])
    answer = submit(item(confidence=1), make.backend_actor(project))
    assert (answer.body["status"], answer.body["output"]) == ("blocked", None)
    codes = [reason["code"] for reason in answer.body["route"]["reasons"]]
    assert codes == ["rule:no mondays", "blocked"]
    assert count(Review) == 0


def test_submit_wants_a_control_review_of_a_sampled_release(base: Flask, make: Make) -> None:
    project = make.project(**POLICY, control_rate=1, reviews=2)
    answer = submit(item(confidence=0.9), make.backend_actor(project))
    assert (answer.body["status"], answer.body["output"]) == ("released", "It left on Monday.")
    assert [reason["code"] for reason in answer.body["route"]["reasons"]] == ["passed", "control_sample"]
    reviews = db.session.scalars(select(Review).order_by(Review.seat)).all()
    assert [(review.purpose, review.seat) for review in reviews] == [("control", 1), ("control", 2)]


def test_submit_puts_a_rule_s_reviews_in_its_queue(base: Flask, make: Make) -> None:
    when = [{"field": "metadata.amount", "op": "gt", "value": 500}]
    rule = {"name": "large", "when": when, "route": "review", "queue": "seniors", "reviews": 3}
    project = make.project(**POLICY, rules=[rule | {"priority": "urgent"}])
    answer = submit(item(confidence=1, metadata={"amount": 501}), make.backend_actor(project))
    assert answer.body["route"]["queue"] == "seniors"
    reviews = db.session.scalars(select(Review).order_by(Review.seat)).all()
    assert [(review.seat, review.rank) for review in reviews] == [(1, 0), (2, 0), (3, 0)]
    assert {db.session.get_one(Queue, review.queue_id).name for review in reviews} == {"seniors"}


def test_submit_pins_what_a_proof_needs(base: Flask, make: Make) -> None:
    project = make.project(**POLICY, control_rate=0.25)
    backend = make.backend_actor(project)
    stored = submit(item(confidence=0.9, risk=0.1), backend).item
    assert stored.coin == coin(current().key("control"), stored.id)
    assert (stored.eligible, stored.passed) == (True, True)
    assert (stored.confidence_below, stored.risk_above) == (0.80, 0.50)
    assert (stored.review_probability, stored.floor_probability) == (0.25, 0.25)
    assert stored.sampled is (stored.coin < 0.25)
    numbers = [submit(item(), backend).item.number for _ in range(3)]
    assert numbers == sorted(numbers)


def test_submit_derives_a_missing_confidence_and_says_so(backend: Any) -> None:
    by_tokens = submit(item(logprobs=[-0.1, -0.3]), backend)
    assert by_tokens.body["confidence"] == pytest.approx(0.8187307530779818)
    assert (by_tokens.body["confidence_source"], by_tokens.body["status"]) == ("logprobs", "released")
    by_samples = submit(item(samples=["it left on  monday.", "No idea"]), backend)
    assert (by_samples.body["confidence"], by_samples.body["confidence_source"]) == (0.5, "samples")
    unknown = submit(item(), backend)
    assert (unknown.body["confidence"], unknown.body["confidence_source"]) == (None, None)
    assert unknown.body["route"]["reasons"][0]["code"] == "confidence_missing"


def test_submit_keeps_every_field_as_it_came(base: Flask, make: Make) -> None:
    project = make.project("calls", "tool_call", **POLICY)
    data = {
        "project": "calls",
        "output": {"name": "refund", "arguments": {"amount": 20, "share": 0.5, "note": None, "tags": []}},
        "input": {"messages": [{"role": "user", "content": "Geld zurück! 💶"}], "n": None},
        "context": [{"title": "Terms", "text": "14 days", "url": "https://x.example/t", "score": 0.5}],
        "confidence": 0.5, "risk": 0.25, "risk_flags": ["pii"], "external_id": "e", "model": "m-5",
        "prompt": {"name": "refund", "version": "12"}, "example_set": 17, "arm": "examples",
        "usage": {"input_tokens": 10, "output_tokens": 5, "cost_usd": 0.001, "latency_ms": 250},
        "subject": "user-1", "feature": "chat", "trace": {"traceparent": "00-a-b-01"},
        "samples": [{"name": "refund", "arguments": {}}], "metadata": {"k": [1, 1.5, None, True]},
    }  # fmt: skip
    stored = submit(data, make.backend_actor(project)).item
    kept = {
        "project": "calls", "metadata": stored.details,
        "prompt": {"name": stored.prompt_name, "version": stored.prompt_version},
    } | {
        name: getattr(stored, name) for name in data.keys() - {"project", "metadata", "prompt"}
    }  # fmt: skip
    assert kept == data
    assert isinstance(stored.output["arguments"]["amount"], int)


REFUSED = [
    ({"output": 5}, "/output", "must be a text"),
    ({"output": None}, "/output", "must be a text"),
    ({"output": ["a"]}, "/output", "must be text"),
    ({"confidence": 1.01}, "/confidence", "at most 1"),
    ({"confidence": "0.9"}, "/confidence", "must be a number"),
    ({"confidence": True}, "/confidence", "must be a number"),
    ({"risk": -0.1}, "/risk", "at least 0"),
    ({"external_id": ""}, "/external_id", "at least 1"),
    ({"external_id": "x" * 201}, "/external_id", "at most 200"),
    ({"context": "x"}, "/context", "must be a list"),
    ({"context": [{"txt": "x"}]}, "/context/0/txt", "did you mean text"),
    ({"metadata": [1]}, "/metadata", "must be an object"),
    ({"metadata": {"x": "y" * 16_400}}, "/metadata", "16384 bytes"),
    ({"confidance": 1}, "/confidance", "did you mean confidence"),
    ({"logprobs": [0.5]}, "/logprobs/0", "at most 0"),
    ({"samples": [1]}, "/samples", "texts, objects or lists"),
    ({"prompt": {"version": "1"}}, "/prompt/name", "is required"),
    ({"example_set": 2**31}, "/example_set", "at most"),
    ({"project": 7}, "/project", "must be text"),
]


def test_submit_measures_metadata_without_the_space_between_its_parts(backend: Any) -> None:
    assert submit(item(metadata={"x": "y" * (16 * 1024 - 8)}), backend).id
    with pytest.raises(Invalid, match="16384 bytes"):
        submit(item(metadata={"x": "y" * (16 * 1024 - 7)}), backend)


def test_submit_takes_an_example_set_by_number_or_id(backend: Any, base: Flask, make: Make) -> None:
    other = make.project("other")
    with transaction() as session:
        for id_, project_id in ((new_id("set"), backend.project_id), (new_id("set"), other.id)):
            session.add(
                ExampleSet(
                    id=id_, project_id=project_id, number=3, size=0, created_at=now(), created_by="usr_1"
                )
            )
    sets = {found.project_id: found.id for found in db.session.scalars(select(ExampleSet))}
    one = submit(item(example_set=3, external_id="e"), backend)
    same = submit(item(example_set=sets[backend.project_id], external_id="e"), backend)
    assert (same.id, same.replayed) == (one.id, True)
    assert db.session.scalars(select(Item.example_set)).all() == [3]
    with pytest.raises(Missing):
        submit(item(example_set=sets[other.id]), backend)


def test_submit_refuses_with_a_pointer_and_stores_nothing(backend: Any) -> None:
    for fields, pointer, message in REFUSED:
        with pytest.raises(Invalid) as refused:
            submit(item(**fields), backend, "key")
        assert refused.value.errors[0]["pointer"] == pointer
        assert message in refused.value.errors[0]["message"]
    assert (count(Item), count(Submission)) == (0, 0)


def test_submit_checks_the_output_against_kind_and_schema(base: Flask, make: Make) -> None:
    backend = make.backend_actor(make.project("labels", "label"))
    with pytest.raises(Invalid) as refused:
        submit({"project": "labels", "output": "nonsense"}, backend)
    assert refused.value.errors[0]["pointer"] == "/output"
    assert "nonsense" not in str(refused.value.errors)
    calls = make.backend_actor(make.project("calls", "tool_call"))
    with pytest.raises(Invalid) as refused:
        submit({"project": "calls", "output": {"name": "x", "arguments": []}}, calls)
    assert refused.value.errors[0]["pointer"] == "/output/arguments"


def test_submit_to_another_project_is_missing(backend: Any, make: Make) -> None:
    make.project("other")
    for name in ("other", "nowhere"):
        with pytest.raises(Missing) as refused:
            submit(item(project=name), backend)
        assert refused.value.code == "project_not_found"


def test_submit_needs_the_scope(backend: Any, make: Make) -> None:
    for actor in (SYSTEM, make.person("dora")):
        with pytest.raises(Forbidden):
            submit(item(), actor)


def test_submit_again_under_the_same_key_gives_the_same_answer(backend: Any) -> None:
    first = submit(item(confidence=0.1), backend, "key", "print")
    again = submit(item(confidence=0.1), backend, "key", "print")
    assert (again.body, again.replayed) == (first.body, True)
    assert (count(Item), count(Review)) == (1, 1)


def test_submit_again_answers_as_submitted_after_the_decision(backend: Any, make: Make) -> None:
    first = submit(item(confidence=0.1), backend, "key")
    make.decide(make.person("ada"), first.item)
    assert first.item.status == "decided"
    again = submit(item(confidence=0.1), backend, "key")
    assert (again.body, again.replayed) == (first.body, True)


def test_submit_a_used_key_with_another_body_is_refused_and_stores_nothing(backend: Any) -> None:
    submit(item(), backend, "key", "one")
    with pytest.raises(Invalid) as refused:
        submit(item(output="Another one"), backend, "key", "two")
    assert refused.value.code == "idempotency_key_reused"
    assert (count(Item), count(Submission)) == (1, 1)


def test_submit_goes_by_the_project_as_it_is_whatever_is_remembered_of_it(base: Flask, make: Make) -> None:
    def asking(least: int) -> Any:
        return make.project("sums", "json", schema={"properties": {"total": {"minimum": least}}})

    bot = make.backend_actor(asking(100))
    said = {"project": "sums", "output": {"total": 50}}
    with pytest.raises(Invalid):
        submit(said, bot)
    asking(10)
    first = submit(said, bot, "key-1")
    asking(100)
    assert submit(said, bot, "key-1").id == first.id
    with pytest.raises(Invalid):
        submit(said, bot, "key-2")


def test_submit_a_refused_body_does_not_use_up_its_key(backend: Any) -> None:
    with pytest.raises(Invalid):
        submit(item(confidence=2), backend, "key")
    assert not submit(item(confidence=1), backend, "key").replayed


def test_keys_belong_to_their_backend(backend: Any, make: Make) -> None:
    other = make.backend_actor(projects.project_named("support-replies"), "second")
    first = submit(item(external_id="same"), backend, "key")
    second = submit(item(external_id="same"), other, "key")
    assert not second.replayed
    assert first.id != second.id


def test_submit_a_known_external_id_is_recognised_by_its_content(backend: Any) -> None:
    first = submit(item(external_id="e", metadata={"a": 1, "b": 2}), backend)
    again = submit(item(metadata={"b": 2, "a": 1}, external_id="e", risk=None), backend, "new key")
    assert (again.body, again.replayed) == (first.body, True)
    assert submit(item(external_id="e", metadata={"a": 1, "b": 2}), backend).id == first.id
    with pytest.raises(Conflict) as refused:
        submit(item(external_id="e", metadata={"a": 1, "b": 3}), backend, "another key")
    assert refused.value.code == "external_id_conflict"
    assert (count(Item), count(Submission)) == (1, 1)


def test_submit_sees_a_policy_that_was_published_in_between(
    backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from reviewqueue.intake import submit as module

    arrive, calls = module.arrive, []

    def publish_first(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 1:
            projects.pause(SYSTEM, "support-replies")
        return arrive(*args)

    monkeypatch.setattr(module, "arrive", publish_first)
    answer = submit(item(confidence=1), backend)
    assert (answer.body["status"], answer.body["route"]["reasons"][0]["code"]) == ("pending", "paused")
    assert len(calls) == 2


def race(app: Flask, turns: list[Callable[[], Any]]) -> list[Any]:
    """Run all of `turns` at once, each in its own thread; what each gave or raised."""
    barrier = threading.Barrier(len(turns))
    results: list[Any] = [None] * len(turns)

    def run(place: int) -> None:
        with app.app_context():
            barrier.wait()
            try:
                results[place] = turns[place]()
            except Exception as error:
                results[place] = error
            finally:
                db.session.remove()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(turns))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    db.session.rollback()  # read what they wrote
    return results


def patient(turn: Callable[[], Any]) -> Callable[[], Any]:
    """As a backend does: try again when all connections are taken."""
    from sqlalchemy.exc import OperationalError
    from sqlalchemy.exc import TimeoutError as PoolTimeout

    def run() -> Any:
        while True:
            try:
                return turn()
            except (OperationalError, PoolTimeout):
                db.session.remove()

    return run


def test_threads_with_the_same_external_ids_make_one_item_each(base: Flask, backend: Any) -> None:
    keys = [f"key-{number}" for number in range(8)]

    def turn(key: str) -> Callable[[], Any]:
        return patient(lambda: submit(item(output=key, confidence=0.1, external_id=key), backend))

    answers = race(base, [turn(keys[number % 8]) for number in range(64)])
    assert all(isinstance(answer, Answer) for answer in answers), answers
    assert (count(Item), count(Review)) == (8, 8)
    for place in range(8):
        same = answers[place::8]
        assert len({json.dumps(answer.body, sort_keys=True) for answer in same}) == 1
        assert [answer.replayed for answer in same].count(False) == 1


def test_threads_with_one_external_id_and_other_contents_make_one_item(base: Flask, backend: Any) -> None:
    turns = [patient(lambda n=n: submit(item(external_id="e", output=str(n)), backend)) for n in range(16)]
    answers = race(base, turns)
    assert sum(isinstance(answer, Answer) for answer in answers) == 1
    assert sum(isinstance(answer, Conflict) for answer in answers) == 15
    assert count(Item) == 1


def test_batches_in_another_order_at_once_make_one_item_each(base: Flask, backend: Any) -> None:
    entries = [item(external_id=f"e{number}") for number in range(200)]
    turns = [patient(lambda n=n: submit_batch(entries[:: 1 - n % 2 * 2], backend)) for n in range(6)]
    answers = race(base, turns)
    assert count(Item) == 200
    assert all(isinstance(result, Answer) for results, _ in answers for result in results)


def test_submit_batch_keeps_the_good_ones_and_says_what_is_wrong(backend: Any) -> None:
    entries = [
        item(external_id="a"), item(confidence=2), "nonsense", item(project="other"),
        item(external_id="a"), item(external_id="a", output="x"), item(confidence=1),
    ]  # fmt: skip
    results, replayed = submit_batch(entries, backend)
    assert not replayed
    kinds = [type(result) for result in results]
    assert kinds == [Answer, Invalid, Invalid, Missing, Answer, Conflict, Answer]
    assert isinstance(results[0], Answer)
    assert isinstance(results[4], Answer)
    assert (results[0].id, results[0].replayed, results[4].replayed) == (results[4].id, False, True)
    assert count(Item) == 2


def test_submit_batch_again_gives_the_same_answer(backend: Any) -> None:
    entries = [item(), item(confidence=2), item(project="other"), item(external_id="a")]
    first, _ = submit_batch(entries, backend, "key", "print")
    again, replayed = submit_batch(entries, backend, "key", "print")
    assert replayed
    assert [vars(one) if isinstance(one, Answer) else str(one) for one in first] == [
        vars(one) | {"replayed": False} if isinstance(one, Answer) else str(one) for one in again
    ]
    assert count(Item) == 2
    with pytest.raises(Invalid) as refused:
        submit_batch(entries[:1], backend, "key", "another")
    assert refused.value.code == "idempotency_key_reused"


def test_submit_batch_of_a_thousand(backend: Any) -> None:
    results, _ = submit_batch([item(confidence=0.1, external_id=str(n)) for n in range(1000)], backend)
    assert len({result.id for result in results if isinstance(result, Answer)}) == 1000
    assert (count(Item), count(Review)) == (1000, 1000)


def test_withdraw_cancels_what_was_wanted(backend: Any, make: Make) -> None:
    answer = submit(item(confidence=0.1), backend)
    claim = make.claim(make.person("ada"), answer.item)
    assert withdraw(backend, answer.id).status == "withdrawn"
    assert withdraw(backend, answer.id).status == "withdrawn"
    assert db.session.scalars(select(Review.state)).one() == "cancelled"
    assert db.session.get_one(Claim, claim.token).ended == "cancelled"
    said = db.session.scalars(select(LedgerEntry).where(LedgerEntry.type == "withdrawal")).one()
    assert (said.item_id, said.actor) == (answer.id, backend.id)


def test_withdraw_what_is_not_pending_is_a_conflict(backend: Any, make: Make) -> None:
    decided = submit(item(confidence=0.1), backend)
    make.decide(make.person("ada"), decided.item)
    for answer in (decided, submit(item(confidence=1), backend)):
        with pytest.raises(Conflict) as refused:
            withdraw(backend, answer.id)
        assert refused.value.code == "not_pending"


def test_withdraw_another_backend_s_item_is_missing(backend: Any, make: Make) -> None:
    answer = submit(item(confidence=0.1), backend)
    other = make.backend_actor(projects.project_named("support-replies"), "second")
    with pytest.raises(Missing):
        withdraw(other, answer.id)
    assert answer.item.status == "pending"


def test_submit_writes_times_in_utc(backend: Any) -> None:
    body = submit(item(), backend).body
    assert datetime.fromisoformat(body["created_at"]).tzinfo == UTC
    assert body["created_at"].endswith("Z")


def test_a_paused_project_sends_everything_to_review(backend: Any) -> None:
    projects.pause(SYSTEM, "support-replies")
    assert submit(item(confidence=1), backend).body["status"] == "pending"
    projects.resume(SYSTEM, "support-replies")
    assert submit(item(confidence=1), backend).body["status"] == "released"
    assert db.session.scalars(select(Project.paused)).one() is False
