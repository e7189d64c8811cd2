"""What can be measured: what is stored and how old it is, and what web processes counted themselves.

Labels are words from fixed lists; a metric must never carry an id, an address or content. What is dear to
read is remembered for a hundred times as long as it took, so that being scraped costs a hundredth at most.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from flask import current_app
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import ColumnElement, Select, func, literal_column, select
from sqlalchemy.exc import SQLAlchemyError

from reviewqueue.background import away_since, lost
from reviewqueue.config import current
from reviewqueue.db import db, now
from reviewqueue.models import (
    Attempt,
    Claim,
    Delivery,
    Endpoint,
    Example,
    Item,
    Leader,
    LedgerHead,
    Queue,
    Review,
)

log = logging.getLogger("reviewqueue.metrics")

REMEMBERED = 100  # times as long as reading took
PREFIX = "reviewqueue_"

CSP_REPORTS = Counter("reviewqueue_csp_reports", "Reports of browsers that refused something on a page")
REQUESTS = Counter("reviewqueue_requests", "Requests answered", ("method", "status"))
SECONDS = Histogram(
    "reviewqueue_request_seconds", "Time to answer", ("kind",), buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
)
TURNED_AWAY = Counter("reviewqueue_turned_away", "Requests answered without being read", ("status",))
REFUSALS = Counter("reviewqueue_refusals", "Requests refused, by the code of the refusal", ("code",))
LOG_LINES_DROPPED = Counter("reviewqueue_log_lines_dropped", "Log lines that could not be written")
LEASE_CONFLICTS = Counter("reviewqueue_lease_conflicts", "Answers that a claim is no longer in force")
HINTS_DROPPED = Counter("reviewqueue_hints_dropped", "Rings that Redis did not take", ("job",))

lost.append(lambda name: HINTS_DROPPED.labels(name).inc())


def exposition() -> tuple[bytes, str]:
    """All metrics as Prometheus text, and its content type.

    With PROMETHEUS_MULTIPROC_DIR set, the counts of all web processes are added up.
    """
    registry = CollectorRegistry()
    registry.register(_Stored())
    stored = generate_latest(registry)
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        counted = CollectorRegistry()
        MultiProcessCollector(counted)  # type: ignore[no-untyped-call]  # it is not typed
        return stored + generate_latest(counted), CONTENT_TYPE_LATEST
    return stored + generate_latest(REGISTRY), CONTENT_TYPE_LATEST


class _Stored(Collector):
    """What the database and this machine hold at this moment, or did a moment ago."""

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        for read in (_parts, _ages, _open, _counted):
            yield from _remembered(read)


_reading = threading.Lock()


def _remembered(read: Callable[[], Iterator[Metric]]) -> list[Metric]:
    """What `read` gives, or gave not long ago; what it gave last when the database refuses now."""
    known: dict[str, tuple[float, list[Metric]]] = current_app.extensions.setdefault("metrics", {})
    with _reading:
        until, metrics = known.get(read.__name__, (0.0, []))
        began = time.monotonic()
        if began < until:
            return metrics
        try:
            metrics = list(read())
        except SQLAlchemyError as error:
            db.session.rollback()
            log.warning("metrics %s could not be read: %s", read.__name__, type(error).__name__)
        ended = time.monotonic()
        known[read.__name__] = ended + REMEMBERED * (ended - began), metrics
        return metrics


def _parts() -> Iterator[Metric]:
    disk = shutil.disk_usage(current().data_dir)
    yield _gauge("disk_free_bytes", "Free bytes where the data folder lies", disk.free)
    yield _gauge("disk_bytes", "Bytes of the disk on which the data folder lies", disk.total)
    yield _gauge("redis_up", "Whether Redis took the last hint of this machine", away_since() is None)
    leading = select(Leader.duty).where(Leader.duty == "relay", Leader.expires_at > now())
    yield _gauge("relay_up", "Whether a relay leads", db.session.scalar(leading) is not None)


def _ages() -> Iterator[Metric]:
    moment = now()
    oldest = GaugeMetricFamily(
        PREFIX + "oldest_seconds", "Age of the oldest review wanted and delivery due", labels=["kind"]
    )
    for kind, first in (("review", _oldest_review()), ("delivery", oldest_due())):
        oldest.add_metric([kind], max(0.0, (moment - first).total_seconds()) if first else 0.0)
    yield oldest
    yield _gauge("ledger_entries", "Entries of the ledger", _scalar(select(LedgerHead.size)))


def _oldest_review() -> Any:
    """When the item that has waited longest came; one look at an index for each queue."""
    firsts = [
        db.session.scalar(
            select(func.min(Review.item_number)).where(Review.queue_id == queue, _is(Review, "wanted"))
        )
        for queue in db.session.scalars(select(Queue.id)).all()
    ]
    numbers = [number for number in firsts if number is not None]
    return db.session.scalar(select(func.min(Item.created_at)).where(Item.number.in_(numbers)))


def oldest_due() -> Any:
    """When the delivery became due that waits longest for us; waiting for a receiver does not count."""
    healthy = (Endpoint.state == "active", Endpoint.failing_since.is_(None))
    return db.session.scalar(
        select(func.min(Delivery.next_attempt_at))
        .join(Endpoint, Endpoint.backend_id == Delivery.backend_id)
        .where(_is(Delivery, "due"), Delivery.next_attempt_at <= now(), *healthy)
    )


def _open() -> Iterator[Metric]:
    """What must stay small; read from partial indexes."""
    overdue = select(func.count()).where(_is(Review, "wanted"), Review.due_at < now())
    yield _gauge("reviews_overdue", "Reviews wanted past their due time", _scalar(overdue))
    dead = select(func.count()).where(_is(Delivery, "dead"))
    yield _gauge("dead_deliveries", "Deliveries that ended undelivered", _scalar(dead))


def _counted() -> Iterator[Metric]:
    """Whole tables by state."""
    again = select(Claim.review_id).group_by(Claim.review_id, Claim.fence).having(func.count() > 1)
    twice = select(func.count()).select_from(again.subquery())
    yield _gauge("double_claims", "Turns at a review that two claims were given; must be 0", _scalar(twice))
    yield _counts("items", "Items by status", "status", Item.status)
    yield _counts("reviews", "Reviews by state", "state", Review.state)
    yield _counts("claims", "Claims that ended, by how", "ended", Claim.ended)
    yield _counts("deliveries", "Deliveries by state", "state", Delivery.state)
    attempts = _counts("attempts", "Attempts that ended, by outcome", "outcome", Attempt.outcome)
    yield attempts
    by = {sample.labels["outcome"]: sample.value for sample in attempts.samples}
    yield _gauge("fenced_results", "Results of attempts that came too late to count", by.get("fenced", 0))
    yield _gauge("blocked_targets", "Attempts that the address guard refused", by.get("blocked", 0))
    yield _counts("endpoints", "Callback addresses by state", "state", Endpoint.state)
    yield _counts("examples", "Examples by state", "state", Example.state)


def _is(table: Any, state: str) -> ColumnElement[bool]:
    """A literal, because a partial index is not used for a parameter."""
    # `table` is any that has a state.
    return table.state == literal_column(f"'{state}'")  # type: ignore[no-any-return]


def _counts(name: str, what: str, label: str, column: Any) -> Metric:
    family = GaugeMetricFamily(PREFIX + name, what, labels=[label])
    for word, count in db.session.execute(select(column, func.count()).group_by(column)):
        if word is not None:
            family.add_metric([word], count)
    return family


def _scalar(query: Select[Any]) -> float:
    return db.session.scalar(query) or 0


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, what, value=value)
