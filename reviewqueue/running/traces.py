"""Traces by OpenTelemetry when OTEL_EXPORTER_OTLP_ENDPOINT says where to; else nothing of it is imported.

A span for each request, job and attempt of a callback. It must never hold more than a log line does: routes,
ids, outcomes.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flask import Flask, Response, g, request

from reviewqueue import background

ASKED = "OTEL_EXPORTER_OTLP_ENDPOINT"
FLUSH_MS = 2000

log = logging.getLogger("reviewqueue.running.traces")


def install(service: str, app: Flask | None = None) -> Any:
    """Trace this process, and the requests of `app`; gives what holds unsent spans, None when not asked."""
    if not os.environ.get(ASKED):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("%s is set, but requirements-otel.txt is not installed: no traces", ASKED)
        return None
    provider = TracerProvider(resource=Resource.create({"service.name": f"reviewqueue-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("reviewqueue")
    if app is not None:
        _trace_requests(app, tracer)
    background.around.append(_jobs(provider, tracer))
    logging.getLogger("reviewqueue.delivery").addHandler(_Attempts(tracer))
    return provider


def _trace_requests(app: Flask, tracer: Any) -> None:
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    incoming = TraceContextTextMapPropagator()

    def begin() -> None:
        carried = {"traceparent": request.headers.get("traceparent", "")}
        g.span = tracer.start_span("request", context=incoming.extract(carried), kind=SpanKind.SERVER)

    def end(response: Response) -> Response:
        span = g.pop("span", None)
        if span is not None:
            route = request.url_rule.rule if request.url_rule else "unknown"
            span.update_name(f"{request.method} {route}")
            span.set_attributes(
                {
                    "http.request.method": request.method, "http.route": route,
                    "http.response.status_code": response.status_code,
                    "reviewqueue.request_id": g.get("request_id", ""),
                }
            )  # fmt: skip
            span.end()
        return response

    # First of all: what is refused at the door is traced as well.
    app.before_request_funcs.setdefault(None, []).insert(0, begin)
    app.after_request(end)


def _jobs(provider: Any, tracer: Any) -> Any:
    @contextmanager
    def job(name: str) -> Iterator[None]:
        try:
            with tracer.start_as_current_span(f"job {name}", record_exception=False):
                yield
        finally:
            provider.force_flush(FLUSH_MS)  # RQ ends the process of a job without asking

    return job


class _Attempts(logging.Handler):
    """Makes a span of each log line about an attempt: it says all there is to say."""

    def __init__(self, tracer: Any) -> None:
        super().__init__(logging.INFO)
        self.tracer = tracer

    def emit(self, record: logging.LogRecord) -> None:
        """A span that ended now and took as long as the line says."""
        if record.msg != "attempt":
            return
        said: dict[str, Any] = getattr(record, "said", {})
        ended = time.time_ns()
        span = self.tracer.start_span("attempt", start_time=ended - said.get("ms", 0) * 1_000_000)
        told = {f"reviewqueue.{name}": value for name, value in said.items() if value is not None}
        span.set_attributes(told)
        span.end(ended)
