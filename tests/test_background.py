"""The bell never hurts whoever rings; a worker does what it knows and nothing else."""

from __future__ import annotations

import json
import os
import pickle
import signal
import time
import zlib

import pytest
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from reviewqueue import background
from reviewqueue.background import JOBS, QUEUE, redis_answers, ring, work


@pytest.fixture
def heard(tmp_path, monkeypatch):
    """What the jobs of tests/bells.py were called for; `prepare` is such a job here."""
    path = tmp_path / "heard"
    monkeypatch.setenv("BELL_FILE", str(path))
    monkeypatch.setitem(JOBS, "prepare", "tests.bells.chime")
    return lambda: path.read_text().split() if path.exists() else []


@pytest.fixture
def worker(redis_server, base, quiet_signals):
    """Let a worker do what waits."""
    return lambda: work(base, burst=True)


@pytest.mark.sqlite
def test_ring_wakes_a_worker_once_for_many_rings(worker, heard):
    assert all(ring("prepare") for _ in range(50))
    worker()
    assert heard() == ["chime"]
    assert ring("prepare")
    worker()
    assert heard() == ["chime", "chime"]


@pytest.mark.sqlite
def test_ring_leaves_nothing_but_names_in_redis(redis_server, worker, heard):
    ring("prepare")
    with redis_server.client() as client:
        found = {key: client.hgetall(key) for key in client.keys("rq:job:*")}
        (fields,) = found.values()
        assert json.loads(zlib.decompress(fields[b"data"])) == ["tests.bells.chime", None, [], {}]


@pytest.mark.sqlite
def test_ring_never_raises_and_is_quick_when_redis_is_away(base):
    begun = time.monotonic()
    assert ring("prepare") is False
    assert time.monotonic() - begun < 0.6


@pytest.mark.sqlite
def test_ring_is_cut_at_half_a_second_when_redis_hangs_and_then_not_tried_again(redis_server, base, heard):
    assert redis_answers()
    redis_server.child.send_signal(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        assert ring("prepare") is False
        assert time.monotonic() - begun < 1.0
        begun = time.monotonic()
        assert ring("prepare") is False
        assert time.monotonic() - begun < 0.05
    finally:
        redis_server.child.send_signal(signal.SIGCONT)


@pytest.mark.sqlite
def test_ring_is_heard_again_after_everything_in_redis_was_lost(redis_server, worker, heard):
    ring("prepare")
    with redis_server.client() as client:
        client.flushall()
    assert ring("prepare")
    worker()
    assert heard() == ["chime"]


@pytest.mark.sqlite
def test_ring_that_comes_while_the_job_runs_is_a_new_job(redis_server, worker, heard, monkeypatch):
    monkeypatch.setitem(JOBS, "prepare", "tests.bells.ring_again")
    ring("prepare")
    worker()
    assert heard() == ["again", "again"]


def _queue(redis_server):
    return Queue(QUEUE, connection=redis_server.client(), serializer=JSONSerializer)


class Bomb:
    def __reduce__(self):
        return os.system, (f"echo boom >> {os.environ['BELL_FILE']}",)


ALLOWED = "tests.bells.chime"
FORGED = {
    "another function": lambda queue: queue.enqueue("tests.bells.boom"),
    "os.system": lambda queue: queue.enqueue("os.system", f"echo boom >> {os.environ['BELL_FILE']}"),
    "an allowed function with an argument": lambda queue: queue.enqueue(ALLOWED, "x"),
    "an allowed function with a keyword": lambda queue: queue.enqueue(ALLOWED, kwargs={"x": 1}),
    "a method of an object": lambda queue: _raw(queue, JSONSerializer.dumps([ALLOWED, "x", [], {}])),
    "a pickle": lambda queue: _raw(queue, pickle.dumps((ALLOWED, None, (Bomb(),), {}))),
    "a packed pickle": lambda queue: _raw(queue, zlib.compress(pickle.dumps(Bomb()))),
    "no JSON": lambda queue: _raw(queue, b"\xff\x00"),
    "a deep JSON": lambda queue: _raw(queue, b"[" * 100_000),
}


def _raw(queue, data, **fields):
    """A job as somebody who can write to Redis would make it."""
    queue.connection.hset(
        "rq:job:forged", mapping={"data": data, "origin": QUEUE, "status": "queued"} | fields
    )
    queue.connection.rpush(f"rq:queue:{QUEUE}", "forged")


@pytest.mark.sqlite
@pytest.mark.parametrize("kind", FORGED)
def test_work_refuses_what_is_not_a_job_of_ours(redis_server, worker, heard, kind):
    queue = _queue(redis_server)
    FORGED[kind](queue)
    ring("prepare")
    worker()
    worker()
    assert heard() == ["chime"]  # the refused job did nothing, the honest one behind it was done
    assert redis_server.client().keys("rq:job:*") == []


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "fields",
    [
        {"success_callback_name": "tests.bells.boom", "success_callback_timeout": "5"},
        {"repeats_left": "3", "repeat_intervals": "[0]"},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_work_ignores_all_that_rq_would_do_besides_the_job(redis_server, worker, heard, fields):
    _raw(_queue(redis_server), JSONSerializer.dumps([ALLOWED, None, [], {}]), **fields)
    worker()
    assert heard() == ["chime"]


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "fields",
    [{"failure_callback_name": "tests.bells.boom"}, {"retries_left": "3", "number_of_retries": "0"}],
    ids=lambda fields: next(iter(fields)),
)
def test_work_ignores_what_rq_would_do_after_a_failure(redis_server, worker, heard, monkeypatch, fields):
    monkeypatch.setitem(JOBS, "learn", "tests.bells.fails")
    _raw(_queue(redis_server), JSONSerializer.dumps(["tests.bells.fails", None, [], {}]), **fields)
    worker()
    assert heard() == ["fails"]


@pytest.mark.sqlite
def test_work_calls_no_address_that_a_job_brings(redis_server, worker, heard, tmp_path):
    import socket

    with socket.socket() as canary:
        canary.bind(("127.0.0.1", 0))
        canary.listen()
        canary.settimeout(0.5)
        url = f"http://127.0.0.1:{canary.getsockname()[1]}/"
        hooks = [{"url": url, "job_status": status} for status in ("finished", "failed")]
        data = JSONSerializer.dumps([ALLOWED, None, [], {}])
        _raw(_queue(redis_server), data, webhooks=json.dumps(hooks))
        worker()
        with pytest.raises(TimeoutError):
            canary.accept()


@pytest.mark.sqlite
def test_work_survives_a_job_that_fails(redis_server, worker, heard, monkeypatch):
    monkeypatch.setitem(JOBS, "learn", "tests.bells.fails")
    ring("learn")
    ring("prepare")
    worker()
    assert heard() == ["fails", "chime"]


@pytest.mark.sqlite
def test_work_leaves_a_job_alone_that_ended_its_worker_three_times(
    redis_server, base, worker, heard, monkeypatch
):
    monkeypatch.setitem(JOBS, "learn", "tests.bells.ends")
    for _ in range(5):
        ring("learn")
        ring("prepare")
        worker()
    assert heard().count("ends") == background.KILLS
    assert heard().count("chime") == 5
    assert background.quarantined() == ["learn"]
    assert not background.due("learn")
    with redis_server.client() as client:
        assert 0 < client.ttl(f"{QUEUE}:killed:learn") <= background.KILLS_WITHIN


@pytest.mark.sqlite
def test_func_of_a_job_is_never_imported_by_rq(redis_server, base, heard):
    job = _queue(redis_server).enqueue("tests.bells.boom")
    read = background._Bell.fetch(job.id, redis_server.client(), JSONSerializer)
    assert isinstance(read, Job)
    with pytest.raises(RuntimeError, match="allow-list"):
        _ = read.func


@pytest.mark.sqlite
def test_redis_answers_says_how_it_is(redis_server, base):
    assert redis_answers()
    redis_server.kill()
    assert not redis_answers()


def test_every_job_of_the_allow_list_exists():
    for name in JOBS:
        assert callable(background._named(JOBS[name])), name
        assert callable(background._named(f"{JOBS[name]}_due")), name
