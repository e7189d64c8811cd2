"""Settings and keys: what is half configured does not start, and says why."""

from __future__ import annotations

import base64
import os

import pytest

from reviewqueue.config import (
    KEY_NAMES,
    ConfigError,
    Settings,
    create_keys,
    describe,
    key_path,
    load_key,
    rotate_key,
)
from reviewqueue.running import startup


def _load(tmp_path, **environ):
    return Settings.load({"REVIEWQUEUE_DATA_DIR": str(tmp_path / "var")} | environ)


def test_load_has_the_defaults_of_the_contract(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings.load({})
    assert settings.env == "development"
    assert settings.data_dir == tmp_path / "var"
    assert settings.keys_dir == tmp_path / "var" / "keys"
    assert settings.database_url == f"sqlite:///{tmp_path}/var/reviewqueue.sqlite3"
    assert settings.embedded_redis
    assert settings.public_url == "http://127.0.0.1:8000"
    assert (settings.web_workers, settings.web_threads, settings.job_workers) == (2, 8, 2)
    assert settings.callback_allow == ()
    assert settings.intake_rate == (500.0, 2000.0)


def test_load_refuses_a_name_it_does_not_know(tmp_path):
    with pytest.raises(ConfigError, match="REVIEWQUEUE_DATADIR is not a setting"):
        _load(tmp_path, REVIEWQUEUE_DATADIR="x")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("REVIEWQUEUE_ENV", "prod"),
        ("DATABASE_URL", "mysql://x"),
        ("REDIS_URL", "http://x"),
        ("REVIEWQUEUE_BIND", "8000"),
        ("REVIEWQUEUE_BIND", "127.0.0.1:99999"),
        ("REVIEWQUEUE_PUBLIC_URL", "review.example"),
        ("REVIEWQUEUE_WEB_WORKERS", "0"),
        ("REVIEWQUEUE_WEB_THREADS", "-1"),
        ("REVIEWQUEUE_JOB_WORKERS", "two"),
        ("REVIEWQUEUE_CALLBACK_ALLOW", "10.0.0.0/33"),
        ("REVIEWQUEUE_CALLBACK_ALLOW", "localhost"),
        ("REVIEWQUEUE_INTAKE_RATE", "500"),
        ("REVIEWQUEUE_INTAKE_RATE", "0/10"),
        ("REVIEWQUEUE_PROXY_HOPS", "many"),
    ],
)
def test_load_refuses_a_value_it_cannot_read_and_names_it(tmp_path, name, value):
    with pytest.raises(ConfigError, match=f"^{name} must "):
        _load(tmp_path, **{name: value})


def test_load_reads_what_is_given(tmp_path):
    settings = _load(
        tmp_path,
        DATABASE_URL="postgresql://u@h/d",
        REDIS_URL="redis://h:1/0",
        REVIEWQUEUE_PUBLIC_URL="https://review.example/",
        REVIEWQUEUE_CALLBACK_ALLOW="10.0.0.0/8, ::1/128",
        REVIEWQUEUE_INTAKE_RATE="0",
    )
    assert settings.database_url == "postgresql+psycopg://u@h/d"
    assert not settings.embedded_redis
    assert settings.secure
    assert settings.public_url == "https://review.example"
    assert [str(network) for network in settings.callback_allow] == ["10.0.0.0/8", "::1/128"]
    assert settings.intake_rate is None


def test_load_refuses_plain_http_in_production(tmp_path):
    with pytest.raises(ConfigError, match="https://"):
        _load(tmp_path, REVIEWQUEUE_ENV="production", REVIEWQUEUE_PUBLIC_URL="http://review.example")


def test_load_gives_a_deep_data_folder_a_short_socket(tmp_path):
    deep = tmp_path / ("d" * 80) / "var"
    settings = Settings.load({"REVIEWQUEUE_DATA_DIR": str(deep)})
    assert len(os.fsencode(settings.redis_url.removeprefix("unix://"))) <= 100
    assert settings.embedded_redis


def test_every_setting_says_what_it_means():
    assert all(name and meaning for name, _, meaning in describe())


def test_create_keys_makes_private_keys_that_all_differ(tmp_path):
    assert create_keys(tmp_path / "keys") == list(KEY_NAMES)
    keys = {name: load_key(tmp_path / "keys", name) for name in KEY_NAMES}
    assert len(set(keys.values())) == len(KEY_NAMES)
    assert {len(key) for key in keys.values()} == {32}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").iterdir()} == {0o600}
    assert (tmp_path / "keys").stat().st_mode & 0o077 == 0


def test_create_keys_never_overwrites(tmp_path):
    create_keys(tmp_path)
    before = load_key(tmp_path, "ledger")
    assert create_keys(tmp_path) == []
    assert load_key(tmp_path, "ledger") == before
    assert len(list(tmp_path.iterdir())) == len(KEY_NAMES)


def test_rotate_key_keeps_the_old_one(tmp_path):
    create_keys(tmp_path)
    before = load_key(tmp_path, "session")
    old = rotate_key(tmp_path, "session")
    assert base64.b64decode(old.read_bytes()) == before
    assert load_key(tmp_path, "session") != before
    assert old.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "is missing"),
        (b"", "must hold 32 random bytes"),
        (b"not base64!", "is not base64"),
        (base64.b64encode(b"x" * 32), "must hold 32 random bytes"),
        (base64.b64encode(os.urandom(16)), "must hold 32 random bytes"),
        (base64.b64encode(b"changemechangemechangemechangeme"), "must hold 32 random bytes"),
    ],
    ids=["missing", "empty", "text", "one symbol", "short", "weak"],
)
def test_load_key_refuses_what_is_no_key_and_shows_nothing_of_it(tmp_path, content, said):
    if content is not None:
        key_path(tmp_path, "session").write_bytes(content)
        key_path(tmp_path, "session").chmod(0o600)
    with pytest.raises(ConfigError, match=said) as refusal:
        load_key(tmp_path, "session")
    assert "keys create" in str(refusal.value)
    assert not content or content.decode() not in str(refusal.value)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_load_key_refuses_a_file_that_others_can_read(tmp_path, mode):
    create_keys(tmp_path)
    key_path(tmp_path, "session").chmod(mode)
    with pytest.raises(ConfigError, match="chmod 600"):
        load_key(tmp_path, "session")


def test_startup_makes_keys_in_development_and_never_in_production(tmp_path):
    data = {"REVIEWQUEUE_DATA_DIR": str(tmp_path / "var")}
    live = {"REVIEWQUEUE_ENV": "production", "REVIEWQUEUE_PUBLIC_URL": "https://review.example"}
    with pytest.raises(ConfigError, match="is missing"):
        startup.load(data | live)
    assert not (tmp_path / "var" / "keys").exists()
    assert startup.load(data).key("session")
    assert (tmp_path / "var").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", KEY_NAMES)
def test_startup_refuses_every_key_that_others_can_read(tmp_path, name):
    data = {"REVIEWQUEUE_DATA_DIR": str(tmp_path / "var")}
    startup.load(data)
    key_path(tmp_path / "var" / "keys", name).chmod(0o644)
    with pytest.raises(ConfigError, match=f"{name}.key is readable by others"):
        startup.load(data)


def test_startup_refuses_a_data_folder_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="REVIEWQUEUE_DATA_DIR"):
        startup.load({"REVIEWQUEUE_DATA_DIR": str(tmp_path / "file" / "var")})


@pytest.mark.parametrize(("name", "value"), [("CLOCK", "clock"), ("FAULT", "exit:3")])
def test_load_refuses_test_seams_outside_tests(tmp_path, name, value):
    given = {f"REVIEWQUEUE_TEST_{name}": value}
    for env in ("development", "production"):
        with pytest.raises(ConfigError, match=f"REVIEWQUEUE_TEST_{name} is for tests"):
            _load(tmp_path, REVIEWQUEUE_ENV=env, REVIEWQUEUE_PUBLIC_URL="https://a.example", **given)
    assert _load(tmp_path, REVIEWQUEUE_ENV="test", **given)
    with pytest.raises(ConfigError, match="must be fail:N or exit:N"):
        _load(tmp_path, REVIEWQUEUE_ENV="test", REVIEWQUEUE_TEST_FAULT="exit")
