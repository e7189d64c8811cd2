"""Traces leave when they are asked for, tell what a log line tells, and cost nothing otherwise."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from reviewqueue import background
from reviewqueue.delivery.deliver import deliver_due
from reviewqueue.running import traces
from tests.listener import listener
from tests.make import Make
from tests.receiver import Receiver, receiver

pytestmark = pytest.mark.sqlite
CANARY = "Zaphod-Beeblebrox"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def spans(collector: Receiver) -> dict[str, Any]:
    """What a collector was sent, by name."""
    wire = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    found = {}
    for heard in collector.heard:
        told = wire.ExportTraceServiceRequest.FromString(heard.body)
        for resource in told.resource_spans:
            found |= {span.name: span for scope in resource.scope_spans for span in scope.spans}
    return found


def said(span: Any) -> dict[str, str]:
    return {pair.key: str(pair.value.string_value or pair.value.int_value) for pair in span.attributes}


@pytest.mark.own_app
def test_requests_jobs_and_attempts_are_spans_without_content(
    app: Flask, client: Callable[..., Any], make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make.project(undo_seconds=0)
    logging.getLogger("reviewqueue.delivery").setLevel(logging.INFO)
    with receiver() as collector, listener() as called:
        monkeypatch.setenv(traces.ASKED, collector.url.removesuffix("/callbacks"))
        monkeypatch.setattr(background, "around", [])
        provider = traces.install("web", app)
        assert provider is not None, "requirements-otel.txt is not installed"
        try:
            new = make.backend(project, callback=called.url)
            called.secret = new.callback_secret
            body = {"project": project.name, "output": CANARY, "input": CANARY, "confidence": 0.1}
            headers = {
                "Authorization": f"Bearer {new.api_key}",
                "X-Request-Id": "request-17",
                "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
            }
            assert client().post("/api/v1/items", json=body, headers=headers).status_code == 201
            client().get(f"/{CANARY}?{CANARY}")
            make.decide(make.person("ada"), make.item(project))
            background.run("deliver")
            assert deliver_due() == 0
            provider.force_flush()
        finally:
            provider.shutdown()
            logger = logging.getLogger("reviewqueue.delivery")
            logger.handlers = [one for one in logger.handlers if not isinstance(one, traces._Attempts)]
            logger.setLevel(logging.NOTSET)
        found = spans(collector)
    submitted = found["POST /api/v1/items"]
    assert submitted.trace_id.hex() == TRACE
    assert said(submitted)["reviewqueue.request_id"] == "request-17"
    assert said(submitted)["http.response.status_code"] == "201"
    assert said(found["attempt"])["reviewqueue.outcome"] == "ok"
    assert found["attempt"].end_time_unix_nano >= found["attempt"].start_time_unix_nano
    assert "job deliver" in found
    assert "GET unknown" in found
    assert CANARY not in str(collector.heard)


def test_nothing_is_imported_when_nobody_asks() -> None:
    program = (
        "import sys; from reviewqueue.running import traces; assert traces.install('web') is None;"
        "sys.exit(any(name.startswith('opentelemetry.exporter') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_missing_packages_are_told_and_stop_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(traces.ASKED, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    assert traces.install("web") is None
    assert "requirements-otel.txt" in caplog.text
