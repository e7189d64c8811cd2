"""Fixtures: an app on each database, a cast, a real Redis, a real browser."""

from __future__ import annotations

import contextvars
import gc
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, has_app_context
from flask.testing import FlaskClient

from reviewqueue import background, create_app, create_base
from reviewqueue.config import Settings, create_keys, use
from reviewqueue.db import db
from reviewqueue.schema import migrate
from tests import servers
from tests.make import Make

DATABASES = ("sqlite", "postgresql")

# Files in memory: a test may kill a process, never the machine, so that waiting for a disk proves nothing.
IN_MEMORY = Path("/dev/shm")
if "TMPDIR" not in os.environ and IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > 2 << 30:
    os.environ["TMPDIR"] = tempfile.tempdir = str(IN_MEMORY)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--database", choices=DATABASES, help="run on this database only")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sqlite: runs on SQLite only")
    config.addinivalue_line("markers", "postgresql: runs on PostgreSQL only")
    config.addinivalue_line("markers", "own_app: changes the application, so that no other test can use it")


def pytest_collection_finish() -> None:
    """What is imported by now stays: looking for garbage in it again and again finds none."""
    gc.freeze()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database" not in metafunc.fixturenames:
        return
    marked = [name for name in DATABASES if metafunc.definition.get_closest_marker(name)]
    only = metafunc.config.getoption("--database")
    wanted = [name for name in marked or DATABASES if only in (None, name)]
    metafunc.parametrize("database", wanted, indirect=True)


def need(part: Callable[[], Any]) -> Any:
    """What `part` gives; when it is not installed the test is skipped, or fails with CI=true."""
    try:
        return part()
    except servers.MissingPart as missing:
        message = f"{servers.MISSING} {missing}"
        if os.environ.get("CI") == "true" and not isinstance(missing, servers.NotAllowed):
            pytest.fail(message, pytrace=False)
        pytest.skip(message)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Name what was not there, so that a green run is not mistaken for a whole one."""
    missing: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        _, _, why = report.longrepr if isinstance(report.longrepr, tuple) else ("", 0, str(report.longrepr))
        if servers.MISSING in why:
            part = why.split(servers.MISSING, 1)[1].strip()
            missing[part] = missing.get(part, 0) + 1
    if missing:
        terminalreporter.section("not installed, so not tested")
        for part, count in sorted(missing.items()):
            terminalreporter.line(f"{count:5d} tests need {part}")


# --- servers, once per process -------------------------------------------------------------------


@pytest.fixture(scope="session")
def _servers() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def keys_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every key; a test that spoils keys makes its own with config.create_keys."""
    folder = tmp_path_factory.mktemp("deployment") / "keys"
    create_keys(folder)
    return folder


@pytest.fixture(scope="session")
def postgres(
    _servers: ExitStack, keys_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> servers.Postgres:
    """A running PostgreSQL with a migrated database `template` to copy."""
    running: servers.Postgres = need(lambda: _servers.enter_context(servers.postgres()))
    _migrated(running.create("template"), keys_dir, tmp_path_factory.mktemp("postgres"))
    return running


@pytest.fixture(scope="session")
def sqlite_template(keys_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy."""
    folder = tmp_path_factory.mktemp("sqlite")
    path = folder / "template.sqlite3"
    _migrated(f"sqlite:///{path}", keys_dir, folder)
    return path


def _migrated(url: str, keys_dir: Path, data_dir: Path) -> None:
    app = create_base(load_settings(data_dir, keys_dir, DATABASE_URL=url))
    with app.app_context():
        migrate()
        db.engine.dispose()


@pytest.fixture(scope="session")
def _redis(_servers: ExitStack) -> servers.Redis:
    running: servers.Redis = need(lambda: _servers.enter_context(servers.redis_server()))
    return running


# --- one test -------------------------------------------------------------------------------------


def load_settings(data_dir: Path, keys_dir: Path, **environ: str) -> Settings:
    """Settings as a process would load them, for a data folder and keys of the test's own."""
    given = {
        "REVIEWQUEUE_ENV": "test",
        "REVIEWQUEUE_DATA_DIR": str(data_dir),
        "REVIEWQUEUE_KEYS_DIR": str(keys_dir),
    }
    # A test may not wait for the sun: nothing listens here unless the test asked for a Redis.
    given["REDIS_URL"] = f"unix://{data_dir}/no-redis.sock"
    return Settings.load(given | environ)


@pytest.fixture
def redis_server(_redis: servers.Redis) -> servers.Redis:
    """A real Redis, running and empty; a test may kill and start it."""
    _redis.start()
    with _redis.client() as client:
        client.flushall()
    return _redis


@pytest.fixture
def redis_url(redis_server: servers.Redis) -> str:
    """The address of a real, empty Redis. A test that asks for it has an app whose bell rings there."""
    return redis_server.url


@pytest.fixture(autouse=True)
def _bell_untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """What one test learnt of its Redis is not true of the next one's."""
    monkeypatch.setattr(background, "_away_until", 0.0)


@pytest.fixture
def quiet_signals() -> Iterator[None]:
    """For tests that run a worker or relay in this process: they take over its signals."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, action in before.items():
        signal.signal(number, action)


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder whose database and data every test finds empty, at the same address as the one before."""
    return tmp_path_factory.mktemp("places")


@pytest.fixture
def database(request: pytest.FixtureRequest, places: Path) -> Iterator[str]:
    """The URL of a fresh migrated database; a test that uses it runs once on each kind."""
    if request.param == "sqlite":
        path = places / "reviewqueue.sqlite3"
        for old in places.glob("reviewqueue.sqlite3*"):
            old.unlink()
        shutil.copyfile(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    running: servers.Postgres = request.getfixturevalue("postgres")
    yield running.emptied("test", template="template")


@pytest.fixture
def environ() -> dict[str, str]:
    """Settings a test module wants besides the usual ones; override this fixture to give them."""
    return {}


@pytest.fixture
def settings(
    request: pytest.FixtureRequest, database: str, keys_dir: Path, places: Path, environ: dict[str, str]
) -> Settings:
    """The settings of `app`; the data folder is new."""
    shutil.rmtree(places / "var", ignore_errors=True)
    (places / "var").mkdir()
    given = {"DATABASE_URL": database, "REVIEWQUEUE_CALLBACK_ALLOW": "127.0.0.0/8,::1/128"}
    if {"redis_url", "redis_server"} & set(request.fixturenames):
        given["REDIS_URL"] = request.getfixturevalue("redis_url")
    return load_settings(places / "var", keys_dir, **(given | environ))


@pytest.fixture
def base(settings: Settings) -> Iterator[Flask]:
    """Settings and database without pages, as workers and commands have them; its context pushed."""
    yield from _pushed(_kept(create_base, settings))


def _kept(create: Callable[[Settings], Flask], settings: Settings) -> Flask:
    """The application with these settings, made once: what it has compiled serves the next test, too."""
    if (create, settings) not in _APPS:
        _APPS[create, settings] = create(settings)
    use(settings)
    return _APPS[create, settings]


_APPS: dict[Any, Flask] = {}


def _pushed(app: Flask) -> Iterator[Flask]:
    with app.app_context():
        yield app
        db.session.remove()
        if db.engine.dialect.name == "sqlite":  # whose file is another one in the next test
            db.engine.dispose()


@pytest.fixture
def app(request: pytest.FixtureRequest, settings: Settings) -> Iterator[Flask]:
    """The whole application on a fresh database, its context pushed.

    A test that changes the application itself is marked `own_app`.
    """
    own = request.node.get_closest_marker("own_app")
    app = create_app(settings) if own else _kept(create_app, settings)
    app.test_client_class = Visitor
    yield from _pushed(app)


@pytest.fixture
def make(request: pytest.FixtureRequest, settings: Settings) -> Make:
    """Projects, people, backends, items …, made by the product's own verbs."""
    if "app" not in request.fixturenames:
        request.getfixturevalue("base")
    return Make()


class Visitor(FlaskClient):
    """A browser without JavaScript: keeps cookies, sends the CSRF token of the page it is on."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("base_url", self.application.config["REVIEWQUEUE"].public_url)
        # An empty context: the request must not share the test's app context, nor its session and `g`.
        response = contextvars.Context().run(super().open, *args, **kwargs)
        if has_app_context():
            db.session.rollback()  # the test reads what the request wrote
        return response

    def csrf(self, page: str = "/login") -> str:
        """The CSRF token that `page` carries in its <meta>."""
        found = re.search(r'name="csrf-token" content="([^"]+)"', self.get(page).text)
        assert found, f"{page} carries no CSRF token"
        return found[1]

    def send(self, path: str, data: dict[str, Any] | None = None, page: str = "/login", **kwargs: Any) -> Any:
        """POST a form as a person would, with a token from `page`."""
        return self.post(path, data={"csrf_token": self.csrf(page), **(data or {})}, **kwargs)


@pytest.fixture
def client(app: Flask, make: Make) -> Callable[..., Visitor]:
    """`client()` is a new visitor; `client(actor)` one who is signed in as that person."""

    def visitor(person: Any = None) -> Visitor:
        new = app.test_client()
        assert isinstance(new, Visitor)
        if person is not None:
            answer = new.get(make.sign_in_path(person))
            assert answer.status_code == 303, answer.text
        return new

    return visitor


# --- a real browser --------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def browser(_servers: ExitStack) -> Any:
    """A headless Chromium, driven by Playwright."""
    path = need(servers.chromium)
    from playwright.sync_api import sync_playwright

    playwright = _servers.enter_context(sync_playwright())
    running = playwright.chromium.launch(executable_path=path, args=list(servers.CHROMIUM_FLAGS))
    _servers.callback(running.close)
    return running


@pytest.fixture
def live(app: Flask) -> Iterator[str]:
    """The address of the app, served by threads of this process on a free port."""
    with servers.serve(app) as url:
        yield url


@pytest.fixture
def page(browser: Any, live: str) -> Iterator[Any]:
    """A new private window whose relative addresses are those of the live app."""
    context = browser.new_context(base_url=live)
    yield context.new_page()
    context.close()
