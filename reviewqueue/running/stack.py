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
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO

from reviewqueue.config import ConfigError, Settings
from reviewqueue.running import embedded_redis, startup, webserver
from reviewqueue.running.orphans import die_with_parent

ROOT = Path(__file__).resolve().parents[2]
STOP_SECONDS = 15.0
READY_SECONDS = 60.0
HEALTHY_SECONDS = 10.0  # a child that lived this long is started again without delay
LONGEST_DELAY = 30.0
LOG_BYTES = 10_000_000  # a log that has grown over this is put aside at the next start


def say(text: str) -> None:
    """A line for whoever started us."""
    print(text, flush=True)


@dataclass
class Child:
    """A process we keep running."""

    name: str
    command: Sequence[str]
    environ: dict[str, str]
    fds: tuple[int, ...] = ()
    log: Path | None = None  # where it writes; else it writes where we do
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    delay: float = 0.5
    again_at: float = 0.0
    deaths: int = field(default=0)

    def start(self) -> None:
        """Start it in a process group of its own, so that Ctrl-C reaches only us."""
        parent = os.getpid()
        with self.log.open("ab") if self.log else nullcontext() as log:
            self.process = subprocess.Popen(
                self.command,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT if log else None,
                pass_fds=self.fds,
                start_new_session=True,
                preexec_fn=lambda: die_with_parent(parent),
            )
        self.started, self.again_at = time.monotonic(), 0.0

    def watch(self) -> None:
        """Start it again when it ended: at once when it had been well, else later and later."""
        if self.process is None or self.process.poll() is None:
            return
        if not self.again_at:
            self.deaths += 1
            lived = time.monotonic() - self.started
            self.delay = 0.5 if lived > HEALTHY_SECONDS else min(self.delay * 2, LONGEST_DELAY)
            self.again_at = time.monotonic() + self.delay
            why = f", {self.log} may say why" if self.log else ""
            say(f"{self.name} ended ({_ending(self.process.returncode)}{why}); again in {self.delay:g} s")
        elif time.monotonic() >= self.again_at:
            self.start()

    def signal(self, number: int) -> None:
        """Send it a signal, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def _ending(code: int) -> str:
    return f"exit status {code}" if code >= 0 else signal.Signals(-code).name


def stop(children: Sequence[Child], patience: float = STOP_SECONDS) -> None:
    """Ask all of them to end, wait, and kill what did not."""
    for child in children:
        child.signal(signal.SIGTERM)
    deadline = time.monotonic() + patience
    for child in children:
        if child.process is not None:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()


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
    ) -> Child:
        """Start one more child and keep it running; `environ` is what it alone may see."""
        child = Child(name, command, {**self.environ, **environ}, fds, self._log(log) if log else None)
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
        return self.add("web", webserver.command(self.settings, number), (number,), log="web")

    def start_jobs(self) -> None:
        """Start the RQ workers and the relay."""
        for number in range(1, self.settings.job_workers + 1):
            self.add(f"worker {number}", [sys.executable, "-m", "reviewqueue", "worker"], log="jobs")
        self.add("relay", [sys.executable, "-m", "reviewqueue", "relay"], log="jobs")

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
        app = startup.open_base(settings)
        web = stack.start_web()
        with app.app_context():
            lines = prepare(stack)
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
