"""Each misconfiguration is found by its id, with what is wrong and how to mend it; a sound place has none."""

from __future__ import annotations

import base64
import shutil
import sqlite3
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from reviewqueue.config import KEY_NAMES, Settings, create_keys
from reviewqueue.db import db
from reviewqueue.running import doctor
from reviewqueue.running.doctor import Finding, examine
from tests.servers import Postgres, Redis

Found = Callable[..., dict[str, Finding]]


@pytest.fixture
def found(base: Flask, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Found:
    """What is found in a sound installation after these settings were changed, by id."""
    keys = tmp_path / "keys"
    create_keys(keys)
    settings.data_dir.chmod(0o700)
    monkeypatch.setattr(doctor, "SAFE_SQLITE", sqlite3.sqlite_version_info)

    def look(**changed: str) -> dict[str, Finding]:
        environ: Mapping[str, str] = {
            "REVIEWQUEUE_ENV": "test",
            "REVIEWQUEUE_DATA_DIR": str(settings.data_dir),
            "REVIEWQUEUE_KEYS_DIR": str(keys),
            "DATABASE_URL": settings.database_url,
            "REDIS_URL": settings.redis_url,
        }
        findings = examine({**environ, **changed})
        assert all(each.problem and each.remedy for each in findings)
        return {each.id: each for each in findings}

    return look


def test_examine_finds_nothing_in_a_sound_installation(found: Found, redis_server: Redis) -> None:
    assert found() == {}


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("settings_changed", "id", "words"),
    [
        ({"FLASK_DEBUG": "1"}, "debug", "FLASK_DEBUG"),
        ({"REVIEWQUEUE_PUBLIC_URL": "http://review.example.org"}, "public-http", "plain http"),
        ({"REVIEWQUEUE_BIND": "0.0.0.0:8000"}, "development-open", "0.0.0.0"),
        ({"REVIEWQUEUE_CALLBACK_ALLOW": "10.1.0.0/16"}, "callback-allow", "10.1.0.0/16"),
        ({"REDIS_URL": "redis://127.0.0.1:1"}, "redis-password", "password"),
        ({"REDIS_URL": "rediss://127.0.0.1:1"}, "redis-password", "password"),
        ({"REDIS_URL": "redis://:secret@127.0.0.1:1"}, "redis", "does not answer"),
        ({"DATABASE_URL": "postgresql://x@127.0.0.1:1/x"}, "database", "cannot be opened"),
        ({"REVIEWQUEUE_DATA_DIR": "/dev/null/var"}, "data-folder", "cannot be written"),
        ({"REVIEWQUEUE_WORKERS": "3"}, "settings", "REVIEWQUEUE_WORKERS"),
    ],
)  # fmt: skip
def test_examine_names_what_is_set_wrong(
    found: Found, settings_changed: dict[str, str], id: str, words: str
) -> None:
    findings = found(**settings_changed)
    assert words in findings[id].problem
    assert "secret" not in str(findings)


@pytest.mark.sqlite
@pytest.mark.parametrize("name", KEY_NAMES)
def test_examine_names_a_key_that_is_weak_open_or_missing(found: Found, tmp_path: Path, name: str) -> None:
    path = tmp_path / "keys" / f"{name}.key"
    for spoil, words in (
        (lambda: path.chmod(0o644), "readable by others"),
        (lambda: path.write_bytes(base64.b64encode(b"changeme" * 4)), "random bytes"),
        (path.unlink, "missing"),
    ):
        spoil()
        finding = found()[f"key-{name}"]
        assert (finding.level, words in finding.problem) == ("error", True)
        if path.exists():
            path.chmod(0o600)


@pytest.mark.sqlite
def test_examine_names_what_this_machine_lacks(
    found: Found, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.data_dir.chmod(0o755)
    monkeypatch.setattr(doctor, "SAFE_SQLITE", (99, 0, 0))
    monkeypatch.setattr(doctor, "_file_system", lambda _path: "nfs4")
    usage = shutil._ntuple_diskusage(100 << 30, 0, 1 << 20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage)
    findings = found()
    assert {"data-folder-open", "sqlite-version", "sqlite-remote", "disk"} <= set(findings)
    assert findings["sqlite-remote"].level == findings["disk"].level == "error"


def test_examine_compares_clocks(found: Found, redis_server: Redis, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    for seconds, off in (("3", False), ("-3600", True), ("9", True)):
        clock.write_text(seconds)
        assert ("clock" in found(REVIEWQUEUE_TEST_CLOCK=str(clock))) is off


@pytest.mark.postgresql
def test_examine_names_a_superuser_and_a_careless_server(found: Found, postgres: Postgres) -> None:
    name = db.engine.url.database
    as_superuser = f"postgresql://postgres@/{name}?host={postgres.folder}"
    assert "database-superuser" in found(DATABASE_URL=as_superuser)
    postgres.admin(f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    try:
        assert "postgresql-synchronous_commit" not in found(), "we set it ourselves for each connection"
    finally:
        postgres.admin(f'ALTER DATABASE "{name}" RESET ALL')
    for setting in ("fsync", "full_page_writes"):
        switch(postgres, setting, "off")
        try:
            assert found()[f"postgresql-{setting}"].level == "error"
        finally:
            switch(postgres, setting, "on")


def switch(postgres: Postgres, setting: str, value: str) -> None:
    """Change a setting of the running server."""
    postgres.admin(f"ALTER SYSTEM SET {setting} = {value}")
    postgres.admin("SELECT pg_reload_conf()")
    deadline = time.monotonic() + 10
    while postgres.admin(f"SHOW {setting}") != [(value,)]:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_examine_says_that_the_schema_is_old(found: Found) -> None:
    with db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '0001'")
    assert "0001" in found()["schema"].problem


def test_examine_reads_the_mounts(tmp_path: Path) -> None:
    assert doctor._file_system(Path("/proc/self")) == "proc"
    assert isinstance(doctor._file_system(tmp_path), str)


def test_findings_show_no_secret(found: Found, tmp_path: Path) -> None:
    shown: Any = str(found(REDIS_URL="redis://:hunter2@127.0.0.1:1", REVIEWQUEUE_CALLBACK_ALLOW="10.0.0.0/8"))
    assert "hunter2" not in shown
    for path in (tmp_path / "keys").iterdir():
        assert path.read_text().strip() not in shown
