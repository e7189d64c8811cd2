"""The routes of no stage: health, metrics, reports of browsers, the page before a link leads away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from reviewqueue.config import Settings
from reviewqueue.db import transaction
from tests.make import Make

pytestmark = pytest.mark.sqlite  # nothing here depends on the database


def test_readyz_names_every_part(client: Callable[..., Any]) -> None:
    answer = client().get("/readyz")
    assert answer.status_code == 200
    assert answer.json["checks"] == {
        "database": "ok", "schema": "ok", "disk": "ok", "ledger": "ok", "redis": "down",
    }  # fmt: skip


def test_readyz_says_redis_is_there(redis_url: str, client: Callable[..., Any]) -> None:
    assert client().get("/readyz").json["checks"]["redis"] == "ok"


def test_readyz_refuses_a_schema_that_is_not_the_newest(client: Callable[..., Any]) -> None:
    with transaction() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    answer = client().get("/readyz", headers={"Host": "10.0.0.1"})
    assert (answer.status_code, answer.json["checks"]["schema"]) == (503, "not at the newest migration")
    assert answer.headers["Retry-After"]


def test_metrics_count_what_is_there(client: Callable[..., Any], make: Make) -> None:
    make.person("ada")
    text = client().get("/metrics").text
    assert "reviewqueue_ledger_entries" in text
    assert 'reviewqueue_oldest_seconds{kind="review"} 0.0' in text


def test_metrics_add_up_what_web_processes_counted(settings: Settings) -> None:
    program = """if True:
        import os, sys
        from reviewqueue.running.webserver import application
        app = application()
        for _ in range(3):
            if os.fork() == 0:
                app.test_client().get("/login")
                os._exit(0)
            os.wait()
        sys.stdout.write(app.test_client().get("/metrics").text)
    """
    given = {
        "REVIEWQUEUE_DATA_DIR": str(settings.data_dir),
        "REVIEWQUEUE_KEYS_DIR": str(settings.keys_dir),
        "DATABASE_URL": settings.database_url,
        "PATH": os.environ["PATH"],
    }
    ran = subprocess.run(
        [sys.executable, "-c", program], env=given, capture_output=True, text=True, check=True
    )
    assert 'reviewqueue_requests_total{method="GET",status="200"} 3.0' in ran.stdout


def test_csp_reports_are_counted_and_tell_no_address(
    client: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    visitor = client()
    report = {
        "csp-report": {"effective-directive": "img-src", "blocked-uri": "https://evil.example/?leak=Zaphod"}
    }
    before = visitor.get("/metrics").text
    answer = visitor.post("/csp", data=json.dumps(report), content_type="application/csp-report")
    assert answer.status_code == 204
    for junk in (b"", b"[1, {}]", b"\xff", b'{"csp-report": 3}'):
        assert visitor.post("/csp", data=junk, content_type="application/reports+json").status_code == 204
    after = visitor.get("/metrics").text
    assert _count(after) == _count(before) + 5
    logged = capfd.readouterr().err
    assert "evil.example" in logged
    assert "Zaphod" not in logged


def _count(text: str) -> float:
    line = next(line for line in text.splitlines() if line.startswith("reviewqueue_csp_reports_total"))
    return float(line.split()[1])


def test_leave_shows_where_a_link_leads(client: Callable[..., Any], make: Make) -> None:
    ada = client(make.person("ada"))
    page = ada.get("/leave", query_string={"to": "https://ex\u00e4mple.org/a?b=<i>"}).text
    assert "<strong>ex\u00e4mple.org</strong>" in page
    assert "xn--exmple-cua.org" in page
    assert "<i>" not in page
    assert 'rel="noopener noreferrer nofollow"' in page
    for bad in ("javascript:alert(1)", "data:text/html,x", "//evil.example", "", "https://a\u202eb.example"):
        assert ada.get("/leave", query_string={"to": bad}).status_code == 422
    assert client().get("/leave?to=https://example.org").status_code == 303
