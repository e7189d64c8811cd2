"""What can be measured: counts and ages read from the database, and what this process counted itself.

Labels are words from fixed lists; a metric must never carry an id, an address or content.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from sqlalchemy import Select, func, select

from reviewqueue.db import db, now
from reviewqueue.models import Attempt, Delivery, Example, Item, LedgerHead, Review

CSP_REPORTS = Counter("reviewqueue_csp_reports", "Reports of browsers that refused something on a page")
REQUESTS = Counter("reviewqueue_requests", "Requests answered", ("method", "status"))
SECONDS = Histogram(
    "reviewqueue_request_seconds", "Time to answer", ("kind",), buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)
)
TURNED_AWAY = Counter("reviewqueue_turned_away", "Requests answered without being read", ("status",))


def exposition() -> tuple[bytes, str]:
    """All metrics as Prometheus text, and its content type.

    With PROMETHEUS_MULTIPROC_DIR set, the counts of all web processes are added up.
    """
    registry = CollectorRegistry()
    registry.register(_Stored())
    stored = generate_latest(registry)
    if os.environ.get("PROMETHEUS_MULTIPROC_DIR"):
        counted = CollectorRegistry()
        MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
        return stored + generate_latest(counted), CONTENT_TYPE_LATEST
    return stored + generate_latest(REGISTRY), CONTENT_TYPE_LATEST


class _Stored(Collector):
    """What the database holds at this moment."""

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        moment = now()
        yield _counts("reviewqueue_items", "Items by status", "status", Item.status)
        yield _counts("reviewqueue_reviews", "Reviews by state", "state", Review.state)
        yield _counts("reviewqueue_deliveries", "Deliveries by state", "state", Delivery.state)
        yield _counts("reviewqueue_attempts", "Attempts that ended, by outcome", "outcome", Attempt.outcome)
        yield _counts("reviewqueue_examples", "Examples by state", "state", Example.state)
        waiting = select(func.min(Item.created_at)).join(Review, Review.item_id == Item.id)
        ages = (
            ("review", waiting.where(Review.state == "wanted")),
            ("delivery", select(func.min(Delivery.next_attempt_at)).where(Delivery.state == "due")),
        )
        oldest = GaugeMetricFamily(
            "reviewqueue_oldest_seconds", "Age of the oldest review wanted and delivery due", labels=["kind"]
        )
        for kind, query in ages:
            first = db.session.scalar(query)
            oldest.add_metric([kind], max(0.0, (moment - first).total_seconds()) if first else 0.0)
        yield oldest
        overdue = select(func.count()).where(Review.state == "wanted", Review.due_at < moment)
        yield _number("reviewqueue_reviews_overdue", "Reviews wanted past their due time", overdue)
        yield _number("reviewqueue_ledger_entries", "Entries of the ledger", select(LedgerHead.size))


def _counts(name: str, what: str, label: str, column: object) -> Metric:
    family = GaugeMetricFamily(name, what, labels=[label])
    for word, count in db.session.execute(select(column, func.count()).group_by(column)):  # type: ignore[call-overload]
        if word is not None:
            family.add_metric([word], count)
    return family


def _number(name: str, what: str, query: Select[int]) -> Metric:
    return GaugeMetricFamily(name, what, value=db.session.scalar(query) or 0)
