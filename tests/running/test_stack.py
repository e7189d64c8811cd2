"""One program starts everything, keeps it running, and leaves nothing behind."""

from __future__ import annotations

import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time

import httpx
import pytest

from tests.stacks import ROOT, Stack, command_line, environ, gone, running, wait_until


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A running stack for the tests that do not hurt it."""
    with running(tmp_path_factory.mktemp("stack") / "var") as stack:
        yield stack


def _rows(stack: Stack, query: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(f"file:{stack.data_dir}/reviewqueue.sqlite3?mode=ro", uri=True, timeout=10)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def test_run_answers_pages_and_is_well(shared):
    assert shared.get("/login").status_code == 200
    ready = shared.get("/readyz")
    assert ready.status_code == 200, ready.text


def test_run_keeps_what_it_stores_to_its_owner(shared):
    for path in shared.data_dir.rglob("*.key"):
        assert path.stat().st_mode & 0o077 == 0
    assert shared.data_dir.stat().st_mode & 0o077 == 0


def test_run_shows_no_secret_on_a_command_line(shared):
    lines = " ".join(" ".join(command_line(process)) for process in shared.family())
    for path in (shared.data_dir / "keys").glob("*.key"):
        assert path.read_text().strip() not in lines


def test_run_refuses_a_second_one_in_the_same_folder(shared):
    second = Stack(shared.data_dir)
    assert second.process.wait(30) == 1
    second.reader.join(5)
    assert re.fullmatch(r"reviewqueue: reviewqueue runs already in .*; stop it or set .*", second.text)


def test_run_does_background_work_by_rq(shared, tmp_path):
    command = [sys.executable, "-m", "reviewqueue"]
    env = environ(shared.data_dir)
    (tmp_path / "p.toml").write_text('name = "p"\ntitle = "P"\nkind = "text"\n')
    for words in (
        ["projects", "apply", str(tmp_path / "p.toml")],
        ["backends", "add", "b", "--project", "p"],
    ):
        made = subprocess.run(
            [*command, *words], env=env, cwd=ROOT, capture_output=True, text=True, check=True
        )
    key = re.search(r'"api_key": "([^"]+)"', made.stdout)[1]
    answer = httpx.post(
        f"{shared.url}/api/v1/items",
        json={"project": "p", "output": "hello", "confidence": 0.1},
        headers={"Authorization": f"Bearer {key}"},
    )
    assert answer.status_code == 201, answer.text
    assert wait_until(lambda: _rows(shared, "SELECT 1 FROM review WHERE prepared_at IS NOT NULL"))


def test_run_starts_again_what_was_killed(shared):
    for words in ("reviewqueue worker", "reviewqueue web", "redis-server", "reviewqueue relay"):
        victim = shared.child(words)
        victim.kill()
        assert wait_until(lambda victim=victim: gone([victim]))
    assert wait_until(lambda: shared.text.count("again in") == 4, 20)
    assert wait_until(lambda: len([c for c in shared.family() if "worker" in command_line(c)]) >= 2, 20)
    assert wait_until(lambda: _well(shared), 20)


def _well(stack: Stack) -> bool:
    try:
        return stack.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def test_run_ends_with_all_its_children_and_finds_its_data_again(tmp_path):
    with running(tmp_path / "var") as first:
        family = first.family()
        (link,) = first.links
        with httpx.Client(base_url=first.url, follow_redirects=True) as browser:
            assert browser.get(link).status_code == 200
        assert first.stop(signal.SIGINT) == 0
        assert gone(family)
        assert "Traceback" not in first.text
    begun = time.monotonic()
    with running(tmp_path / "var") as second:
        took = time.monotonic() - begun
        assert _rows(second, "SELECT email FROM person") == [("admin@localhost",)]
        assert second.get("/login").status_code == 200
        assert took < 15, "a warm start takes under 5 s on an idle machine"


def test_run_that_is_killed_leaves_no_child_and_starts_again(tmp_path):
    with running(tmp_path / "var") as first:
        family = first.family()
        port = first.url.rpartition(":")[2]
        first.process.kill()
        first.process.wait(5)
        assert wait_until(lambda: gone(family), 20), [command_line(process) for process in family]
    with running(tmp_path / "var", REVIEWQUEUE_BIND=f"127.0.0.1:{port}") as second:
        assert second.get("/login").status_code == 200


def test_run_says_in_one_line_that_the_port_is_taken(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        stack = Stack(tmp_path / "var", REVIEWQUEUE_BIND=bind)
        assert stack.process.wait(30) == 1
    stack.reader.join(5)
    assert re.fullmatch(rf"reviewqueue: {bind} is in use; .*REVIEWQUEUE_BIND.*", stack.text)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"REVIEWQUEUE_WORKERS": "3"}, "REVIEWQUEUE_WORKERS is not a setting"),
        ({"REVIEWQUEUE_WEB_WORKERS": "many"}, "REVIEWQUEUE_WEB_WORKERS must be a whole number"),
        ({"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/x"}, "the database cannot be opened"),
        ({"REVIEWQUEUE_ENV": "production", "REVIEWQUEUE_PUBLIC_URL": "https://x.example"}, "key file"),
        ({"REVIEWQUEUE_ENV": "production"}, "REVIEWQUEUE_PUBLIC_URL must begin with https://"),
    ],
    ids=["unknown", "unreadable", "database", "keys", "http"],
)
def test_run_says_in_one_line_what_is_set_wrong(tmp_path, settings, line):
    stack = Stack(tmp_path / "var", **settings)
    assert stack.process.wait(30) == 1
    stack.reader.join(5)
    assert len(stack.said) == 1, stack.text
    assert stack.text.startswith("reviewqueue: ")
    assert line in stack.text


def test_run_says_in_one_line_that_the_data_folder_cannot_be_used(tmp_path):
    (tmp_path / "var").write_text("a file")
    stack = Stack(tmp_path / "var" / "deeper")
    assert stack.process.wait(30) == 1
    stack.reader.join(5)
    assert re.fullmatch(r"reviewqueue: the data folder .* cannot be used: .*REVIEWQUEUE_DATA_DIR", stack.text)


def test_run_has_room_for_a_deep_data_folder(tmp_path):
    deep = tmp_path / ("d" * 60) / ("e" * 60) / "var"
    with running(deep, REVIEWQUEUE_JOB_WORKERS="1", REVIEWQUEUE_WEB_WORKERS="1") as stack:
        assert stack.get("/readyz").json()["checks"]["redis"] == "ok"


def test_demo_brings_projects_items_and_an_account_per_role(tmp_path):
    with running(tmp_path / "var", "--demo") as stack:
        kinds = {kind for (kind,) in _rows(stack, "SELECT kind FROM project")}
        assert kinds == {"text", "markdown", "label", "json", "tool_call", "chat"}
        assert min(count for (count,) in _rows(stack, "SELECT count(*) FROM item GROUP BY project_id")) >= 20
        roles = _rows(stack, "SELECT role FROM person ORDER BY role")
        assert roles == [("admin",), ("auditor",), ("lead",), ("reviewer",)]
        assert {state for (state,) in _rows(stack, "SELECT state FROM endpoint")} == {"active"}
        for link in stack.links:
            assert httpx.get(link, follow_redirects=True).status_code == 200
        assert len(stack.links) == 4
