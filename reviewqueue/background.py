"""The only file that knows RQ and Redis: the bell, the worker and the allow-list of jobs.

A job is a hint that rows are due, never the work itself: it has a name and no arguments. Nothing read from
Redis may choose code to import, an address to call or an object to rebuild.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from redis import Redis, RedisError
from redis.backoff import NoBackoff
from redis.retry import Retry
from rq import Queue, Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from reviewqueue.config import current
from reviewqueue.db import db
from reviewqueue.errors import Busy

if TYPE_CHECKING:
    from flask import Flask

log = logging.getLogger("reviewqueue.background")

# The allow-list. Beside each function its module has `<name>_due() -> bool`. In this order a pass does them:
# upkeep ends what ran out of time, which the others then see.
JOBS = {
    "upkeep": "reviewqueue.review.jobs.upkeep",
    "prepare": "reviewqueue.review.jobs.prepare",
    "deliver": "reviewqueue.delivery.jobs.deliver",
    "learn": "reviewqueue.examples.jobs.learn",
    "index": "reviewqueue.finding.jobs.index",
    "seal": "reviewqueue.intake.jobs.seal",
}
QUEUE = "reviewqueue"  # exactly one: RQ hands over reliably only to workers that listen on a single queue
JOB_SECONDS = 60
REDIS_SECONDS = 0.5
BREAKER_SECONDS = 5.0
BELL_SECONDS = 60
HERE_SECONDS = 20  # a review page that is open says so every few seconds
KILLS, KILLS_WITHIN = 3, 300  # seconds


lost: list[Callable[[str], object]] = []  # each is told the name of every ring that Redis did not take
around: list[Callable[[str], AbstractContextManager[None]]] = []  # what every job runs inside
_clients: dict[str, Redis] = {}
_away_until = 0.0


def _client() -> Redis:
    url = current().redis_url
    if url not in _clients:
        _clients[url] = Redis.from_url(
            url,
            socket_timeout=REDIS_SECONDS,
            socket_connect_timeout=REDIS_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
    return _clients[url]


def ring(name: str) -> bool:
    """Wake a worker for job `name`; says whether Redis took it. Never raises, never blocks over 0.5 s.

    Many rings before a worker comes are one job. A ring that is lost is found by the relay.
    """
    global _away_until
    path = JOBS[name]
    if time.monotonic() < _away_until:
        return _heard(name, False)
    try:
        client = _client()
        if client.set(f"{QUEUE}:bell:{name}", 1, nx=True, ex=BELL_SECONDS):
            queue = Queue(QUEUE, connection=client, serializer=JSONSerializer, job_class=_Bell)
            queue.enqueue(
                path, job_timeout=JOB_SECONDS, ttl=600, result_ttl=0, failure_ttl=3600, description=name
            )
    except (RedisError, OSError) as error:
        _away_until = time.monotonic() + BREAKER_SECONDS
        log.warning("Redis is away, the relay will do the work: %s", type(error).__name__)
        return _heard(name, False)
    return _heard(name, True)


def redis_answers() -> bool:
    """Whether Redis takes writes now; asks it, whatever the breaker says."""
    try:
        return _heard(None, bool(_client().set(f"{QUEUE}:ping", 1, ex=BELL_SECONDS)))
    except (RedisError, OSError):
        return _heard(None, False)


def _heard(name: str | None, answered: bool) -> bool:
    """Note what Redis made of a ring, or of a question; gives `answered`."""
    # A file, so that all processes of this machine agree since when.
    with suppress(OSError):
        if answered and _away_file().exists():
            _away_file().unlink()
        elif not answered:
            _away_file().touch(0o600, exist_ok=False)
    if name is not None and not answered:
        for told in lost:
            told(name)
    return answered


def away_since() -> datetime | None:
    """Since when Redis is away, as far as anybody on this machine has noticed; None when it is not."""
    try:
        return datetime.fromtimestamp(_away_file().stat().st_mtime, UTC)
    except OSError:
        return None


def _away_file() -> Path:
    return current().data_dir / "redis-away"


def redis_time() -> datetime | None:
    """What time it is by Redis' clock, in UTC; None when it cannot say."""
    try:
        seconds, micro = _client().time()
    except (RedisError, OSError):
        return None
    return datetime.fromtimestamp(seconds + micro / 1e6, UTC)


def starts(name: str) -> bytes | None:
    """Changes whenever a worker begins job `name`; None when Redis cannot say."""
    try:
        answer = _client().get(f"{QUEUE}:starts:{name}")
    except (RedisError, OSError):
        return None
    return answer if isinstance(answer, bytes) else b""


def quarantined() -> list[str]:
    """The jobs that ended their workers again and again of late, and are left alone for a while.

    Deliveries are not among them: each is judged by itself.
    """
    global _away_until
    names = [name for name in JOBS if name != "deliver"]
    if time.monotonic() < _away_until:
        return []
    try:
        counts = _client().mget([f"{QUEUE}:killed:{name}" for name in names])
    except (RedisError, OSError):
        _away_until = time.monotonic() + BREAKER_SECONDS
        return []
    said = zip(names, (count or b"" for count in counts), strict=True)
    return [name for name, count in said if count.isdigit() and len(count) < 9 and int(count) >= KILLS]


def here(person_id: str, what: str) -> None:
    """Say that this person has `what` (a review's id) open now; forgotten in HERE_SECONDS. Never raises."""
    if time.monotonic() < _away_until:
        return
    with suppress(RedisError, OSError):
        _client().set(f"{QUEUE}:here:{person_id}", what, ex=HERE_SECONDS)


def who_is_here(person_ids: Sequence[str]) -> dict[str, str] | None:
    """What each of these people has open now, by their ids; None when Redis cannot say."""
    if not person_ids:
        return {}
    try:
        found = _client().mget([f"{QUEUE}:here:{person_id}" for person_id in person_ids])
    except (RedisError, OSError):
        return None
    pairs = zip(person_ids, found, strict=True)
    return {person: what.decode() for person, what in pairs if isinstance(what, bytes)}


def run(name: str) -> int:
    """Do job `name` here and now; how much there was to do. Needs an app context."""
    with ExitStack() as surrounded:
        for begin in around:
            surrounded.enter_context(begin(name))
        return int(_named(JOBS[name])() or 0)


def due(name: str) -> bool:
    """Whether job `name` has work and may do it; asks the database. Needs an app context."""
    return bool(_named(f"{JOBS[name]}_due")()) and name not in quarantined()


def _named(path: str) -> Any:
    module, _, function = path.rpartition(".")
    return getattr(import_module(module), function)


_FIELDS = frozenset(
    b"created_at data ended_at enqueued_at failure_ttl last_heartbeat origin result_ttl started_at status "
    b"timeout ttl worker_name".split()
)


class _Bell(Job):
    """A job read from Redis, stripped of all that could make RQ import, call or unpickle something."""

    def restore(self, raw_data: Mapping[bytes, bytes]) -> Any:
        # Callbacks, webhooks, meta, retries, dependencies: none of ours has them.
        return super().restore({key: value for key, value in raw_data.items() if key in _FIELDS})

    def known_as(self) -> str | None:
        """The name of the job asked for; None when it is not exactly one of ours."""
        try:
            function, instance, args, kwargs = self.serializer.loads(self.data)
        except Exception:  # whatever bytes a writer to Redis thought of: none of ours
            return None
        if instance is not None or args != [] or kwargs != {}:
            return None
        return next((name for name, path in JOBS.items() if path == function), None)

    @property
    def func(self) -> Any:
        raise RuntimeError("a job is looked up in the allow-list, never imported by RQ")

    def _execute(self) -> Any:
        name = self.known_as()
        if name is None:
            raise RuntimeError("not a job of ours")
        try:
            # From here on a new ring is a new job: what becomes due while this one runs is not missed.
            _client().delete(f"{QUEUE}:bell:{name}")
            _client().incr(f"{QUEUE}:starts:{name}")
        except (RedisError, OSError):
            pass
        try:
            run(name)
        except Exception as error:
            log.exception("job %s failed", name)
            # RQ keeps what it is told in Redis, and the message may quote what was sent.
            raise RuntimeError(type(error).__name__) from None


class _Worker(Worker):
    """One process per job, forked from one that has imported the application already."""

    max_connection_wait_time = 2.0
    app: Flask

    def execute_job(self, job: Job, queue: Queue) -> None:
        name = job.known_as() if isinstance(job, _Bell) else None
        if name is not None and name not in quarantined():
            super().execute_job(job, queue)
            return
        log.error("refused a job that is %s", "in quarantine" if name else "none of ours")
        self.connection.lrem(queue.intermediate_queue_key, 1, job.id)
        self.connection.delete(job.key)

    def handle_work_horse_killed(self, job: Job, retpid: int, ret_val: int, rusage: Any) -> None:
        """RQ's hook in the process that lives on: whoever ends its worker three times is left alone."""
        name = job.known_as() if isinstance(job, _Bell) else None
        if name is not None:
            key = f"{QUEUE}:killed:{name}"
            self.connection.set(key, 0, nx=True, ex=KILLS_WITHIN)
            count = self.connection.incr(key)
            log.error("job %s ended its worker, %s times within %s s", name, count, KILLS_WITHIN)

    def perform_job(self, job: Job, queue: Queue) -> bool:
        with self.app.app_context():
            db.engine.dispose(close=False)  # connections the parent process opened are not ours to use
            done: bool = super().perform_job(job, queue)
            db.engine.dispose()
            return done


def work(app: Flask, burst: bool = False) -> None:
    """Do jobs until told to stop, through any outage of Redis; with `burst`, until none waits, or Busy."""
    # A worker blocks on Redis for its ttl less 15 s, and looks for jobs of dead workers only in between.
    while True:
        worker: _Worker | None = None
        try:
            client = Redis.from_url(current().redis_url, retry=Retry(NoBackoff(), 0))
            queue = Queue(QUEUE, connection=client, serializer=JSONSerializer, job_class=_Bell)
            worker = _Worker(
                [queue],
                connection=client,
                serializer=JSONSerializer,
                job_class=_Bell,
                worker_ttl=45,
                maintenance_interval=30,
                log_job_description=False,
            )
            worker.app = app
            worker.work(burst=burst, logging_level="WARNING")
        except (RedisError, OSError) as error:
            why = f"Redis does not answer ({type(error).__name__}); REDIS_URL says where it is"
            if burst:
                raise Busy(why) from None
            log.warning(why)
        if burst or (worker is not None and worker._shutdown_requested_date is not None):
            return
        time.sleep(1)
