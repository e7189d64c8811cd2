"""The one-machine supervisor: Redis, web, workers, relay; their order, restart and shutdown.

It holds nothing that matters: killed at any moment, its children end too and the next start goes on.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import IO

from reviewqueue.config import ConfigError, Settings
from reviewqueue.db import db
from reviewqueue.running import embedded_redis, startup, webserver
from reviewqueue.running.children import Child, say, stop
from reviewqueue.running.forked import OURS, load

ROOT = Path(__file__).resolve().parents[2]
READY_SECONDS = 60.0
LOG_BYTES = 10_000_000  # a log that has grown over this is put aside at the next start


class Lock:
    """One supervisor in a data folder; knows whether the one before ended well."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "supervisor.lock"
        self.file: IO[str] = self.path.open("a+")
        try:
            fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise ConfigError(
                f"reviewqueue runs already in {folder}; stop it or set REVIEWQUEUE_DATA_DIR"
            ) from None
        self.file.seek(0)
        self.unclean = bool(self.file.read().strip())
        self._write(f"{os.getpid()}\n")

    def _write(self, text: str) -> None:
        self.file.truncate(0)
        self.file.write(text)
        self.file.flush()

    def release(self) -> None:
        """Leave a note that this run ended well."""
        self._write("")
        self.file.close()


def listen(bind: str, patience: float = 0.0) -> socket.socket:
    """A listening socket on HOST:PORT; ConfigError when the port is taken for over `patience` seconds."""
    host, _, port = bind.rpartition(":")
    deadline = time.monotonic() + patience
    while True:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            listening = socket.socket(family, kind, protocol)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(1024)
        except OSError as error:
            if time.monotonic() < deadline:
                time.sleep(0.1)
                continue
            reason = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
            remedy = "stop what listens there or set REVIEWQUEUE_BIND, for example 127.0.0.1:8001"
            raise ConfigError(f"{bind} {reason}; {remedy}") from None
        return listening


class Stack:
    """Everything on one machine, from start to end."""

    def __init__(self, settings: Settings, environ: dict[str, str], listening: socket.socket) -> None:
        self.settings = settings
        self.environ = environ
        self.listening = listening
        self.redis: list[Child] = []
        self.children: list[Child] = []
        self.keep: list[socket.socket] = []  # open for as long as we run: children are given their numbers
        self.stopping = threading.Event()

    def add(
        self,
        name: str,
        command: Sequence[str],
        fds: tuple[int, ...] = (),
        environ: Mapping[str, str] = MappingProxyType({}),
        log: str | None = None,
        main: Callable[[], object] | None = None,
    ) -> Child:
        """Start one more child and keep it running; `environ` is what it alone may see."""
        child = Child(name, command, {**self.environ, **environ}, fds, self._log(log) if log else None, main)
        child.start()
        self.children.append(child)
        return child

    def _log(self, name: str) -> Path:
        folder = self.settings.data_dir / "logs"
        folder.mkdir(exist_ok=True, mode=0o700)
        path = folder / f"{name}.log"
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(path.with_suffix(".log.1"))
        return path

    def start_redis(self) -> None:
        """Start the embedded Redis, unless REDIS_URL names another one."""
        if self.settings.embedded_redis:
            child = Child("redis", embedded_redis.command(self.settings), self.environ)
            child.start()
            self.redis.append(child)

    def start_web(self) -> Child:
        """Start the web server on the open socket."""
        number = self.listening.fileno()
        command = webserver.command(self.settings, number)
        return self.add(
            "web", ("reviewqueue", "web"), (number,), log="web", main=lambda: webserver.serve(command)
        )

    def start_jobs(self) -> None:
        """Start the RQ workers and the relay."""
        for number in range(1, self.settings.job_workers + 1):
            self._start_command(f"worker {number}", "worker")
        self._start_command("relay", "relay")

    def _start_command(self, name: str, word: str) -> None:
        from reviewqueue.cli import main

        self.add(name, ("reviewqueue", word), log="jobs", main=lambda: main([word], prog_name="reviewqueue"))

    def wait_for_web(self, web: Child) -> None:
        """Until pages are answered; ConfigError when the web server does not come up."""
        deadline = time.monotonic() + READY_SECONDS
        while not self.stopping.is_set():
            if web.deaths >= 3 or time.monotonic() > deadline:
                raise ConfigError(f"the web server does not start: {_last_line(web.log)}; more in {web.log}")
            web.watch()
            if _answers(self.listening.getsockname()):
                return
            self.stopping.wait(0.05)

    def watch(self) -> None:
        """Keep everything running until told to stop."""
        while not self.stopping.wait(0.25):
            for child in [*self.redis, *self.children]:
                child.watch()

    def stop(self) -> None:
        """End all children: first those that use Redis, then Redis."""
        stop(self.children)
        stop(self.redis)


def _last_line(log: Path | None) -> str:
    lines = log.read_text("utf-8", "replace").split("\n") if log and log.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it says nothing")


def _answers(address: tuple[str, int]) -> bool:
    with socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET) as probe:
        probe.settimeout(3.0)
        try:
            probe.connect(address[:2])
            probe.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return probe.recv(12).startswith(b"HTTP/1.")
        except OSError:
            return False


def _arranged(settings: Settings, listening: socket.socket) -> tuple[Settings, dict[str, str]]:
    """The settings with the port that was really taken, and the environment our children get."""
    host = settings.bind.rpartition(":")[0]
    bind = f"{host}:{listening.getsockname()[1]}"
    public = settings.public_url if "REVIEWQUEUE_PUBLIC_URL" in os.environ else f"http://{bind}"
    environ = dict(os.environ) | {
        "REVIEWQUEUE_DATA_DIR": str(settings.data_dir),
        "REVIEWQUEUE_KEYS_DIR": str(settings.keys_dir),
        "REVIEWQUEUE_BIND": bind,
        "REVIEWQUEUE_PUBLIC_URL": public,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }
    return replace(settings, bind=bind, public_url=public), environ


def run(settings: Settings, prepare: Callable[[Stack], list[str]]) -> None:
    """Start everything, say what `prepare` found worth saying, and keep it running until told to stop."""
    lock = Lock(settings.data_dir)
    # Children of a supervisor that was killed need a moment to notice and let go of the port.
    listening = listen(settings.bind, 5.0 if lock.unclean else 0.0)
    settings, environ = _arranged(settings, listening)
    stack = Stack(settings, environ, listening)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stack.stopping.set())
    try:
        stack.start_redis()
        environ[webserver.COUNTS] = os.environ[webserver.COUNTS] = webserver.count_in(settings)
        load()
        OURS.update((lock.file.fileno(), listening.fileno()))
        app = startup.open_base(settings)
        web = stack.start_web()
        with app.app_context():
            lines = prepare(stack)
            db.session.remove()
            db.engine.dispose()
        stack.start_jobs()
        stack.wait_for_web(web)
        if not stack.stopping.is_set():
            say("\n".join(["", *lines, "Ctrl-C stops everything.", ""]))
        stack.watch()
    finally:
        stack.stop()
        listening.close()
        lock.release()


def main(arguments: Sequence[str]) -> int:
    """`python app.py`: 0 when it was told to stop, 1 with one line when it could not start."""
    parser = argparse.ArgumentParser(prog="app.py", description="Run all of reviewqueue on this machine.")
    parser.add_argument("--demo", action="store_true", help="with sample projects, accounts and a receiver")
    chosen = parser.parse_args(arguments)
    from reviewqueue.running import welcome

    if chosen.demo:
        os.environ["REVIEWQUEUE_CALLBACK_ALLOW"] = welcome.allow(os.environ.get("REVIEWQUEUE_CALLBACK_ALLOW"))
    try:
        run(startup.load(), welcome.with_samples if chosen.demo else welcome.usual)
    except ConfigError as error:
        print(f"reviewqueue: {error}", file=sys.stderr)
        return 1
    return 0
