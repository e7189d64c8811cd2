"""gunicorn's configuration: `gunicorn --config python:reviewqueue.running.webserver app:app`.

Forwarded headers are never believed here: the application alone decides, by REVIEWQUEUE_PROXY_HOPS.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from flask import Flask

from reviewqueue import create_app, logs
from reviewqueue.config import ConfigError, Settings
from reviewqueue.running import startup, traces
from reviewqueue.running.orphans import die_with_parent

COUNTS = "PROMETHEUS_MULTIPROC_DIR"


def application() -> Flask:
    """The whole application, its database at the newest schema; a bad setting ends the process."""
    logs.configure_process()
    try:
        settings = startup.load()
        _share_counts(settings)
        app = create_app(settings)
        with app.app_context():
            startup.ensure_schema(settings)
        from reviewqueue.running.condition import Watch

        app.extensions["conditions"] = Watch(app)
        traces.install("web", app)
    except ConfigError as error:
        sys.exit(f"reviewqueue: {error}")
    return app


def recorded(path: str) -> Flask:
    """The same application, writing down its history in the file at `path`."""
    from reviewqueue.running import history

    app = application()
    try:
        history.install(app, Path(path))
    except OSError as error:
        sys.exit(f"reviewqueue: the history {path} cannot be written: {error.strerror}")
    return app


def _share_counts(settings: Settings) -> None:
    """Before anything counts: the web processes forked from this one add up their counts in one folder."""
    if COUNTS not in os.environ:
        os.environ[COUNTS] = count_in(settings)


def count_in(settings: Settings) -> str:
    """A folder of this web server's own, empty, in which its processes count."""
    folder = settings.data_dir / "counts" / settings.bind.replace(":", "_")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return str(folder)


def command(settings: Settings, socket: int | None = None, recording: Path | None = None) -> list[str]:
    """How to start the web server: on an open socket's number, or on REVIEWQUEUE_BIND; with a history."""
    bind = settings.bind if socket is None else f"fd://{socket}"
    size = ["--workers", str(settings.web_workers), "--threads", str(settings.web_threads)]
    app = f"{__name__}:recorded({str(recording)!r})" if recording else "app:app"
    gunicorn = [sys.executable, "-m", "gunicorn", "--config", "python:reviewqueue.running.webserver"]
    return [*gunicorn, *size, "--bind", bind, app]


def serve(line: list[str]) -> None:
    """What `command` would do, in this process; does not come back."""
    from gunicorn.app.wsgiapp import run

    sys.argv = ["gunicorn", *line[line.index("gunicorn") + 1 :]]
    run()


def post_fork(_server: Any, worker: Any) -> None:
    """gunicorn's hook: a web process does not outlive the one that watches it."""
    die_with_parent(worker.ppid)


# gunicorn reads the names below.
worker_class = "reviewqueue.running.reception.ReceptionWorker"
preload_app = True
control_socket_disable = True
# A heartbeat file on a disk blocks every thread while the disk is busy.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None
timeout = 60
graceful_timeout = 10
keepalive = 5
logconfig_dict: dict[str, Any] = {
    "disable_existing_loggers": False,
    "root": {"handlers": ["lines"], "level": "INFO"},
    "loggers": {"gunicorn.error": {"level": "WARNING", "handlers": ["lines"], "propagate": False}},
    "handlers": {"lines": {"class": "logging.StreamHandler", "formatter": "lines"}},
    "formatters": {"lines": {"()": "reviewqueue.logs.Lines"}},
}
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
