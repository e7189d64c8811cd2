"""Log lines: one JSON object on standard error for each event, whichever library tells it.

An exception is told by its kind and by where it happened. Its message must never stand in a line: it may
quote what was sent.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, TextIO, cast

import structlog

FRAMES = 12
# These quote what was sent in their messages; theirs are cut where the quotation begins.
QUOTING = ("gunicorn", "rq", "sqlalchemy")


def configure() -> None:
    """Send lines of structlog to standard error, as JSON."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        cache_logger_on_first_use=True,
        logger_factory=lambda *_: structlog.WriteLogger(cast(TextIO, StandardError())),
    )


def configure_process() -> None:
    """Send what the standard library's loggers say there as well; for processes that are ours alone."""
    configure()
    handler = logging.StreamHandler(cast(TextIO, StandardError()))
    handler.setFormatter(Lines())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    for name in ("httpx", "httpcore", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


class StandardError:
    """Where log lines go. One that cannot be written, on a full disk, is counted: nobody waits for a log."""

    def write(self, line: str) -> int:
        """Write to the standard error of this moment."""
        # Asked for with every line: whoever redirects standard error later gets the lines too.
        try:
            return sys.stderr.write(line)
        except OSError:
            # Not at the top: what counts must be imported after webserver has said where counts are shared.
            from reviewqueue import metrics

            metrics.LOG_LINES_DROPPED.inc()
            return 0

    def flush(self) -> None:
        """Flush it, if that can be done."""
        with suppress(OSError):
            sys.stderr.flush()


class Lines(logging.Formatter):
    """A record of the standard library as such a line; `extra={"said": {...}}` adds to it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line: dict[str, Any] = {"event": _event(record), **getattr(record, "said", {})}
        if record.exc_info and record.exc_info[0] is not None:
            line |= {"error": record.exc_info[0].__name__, "where": where(record.exc_info[2])}
        moment = datetime.fromtimestamp(record.created, UTC).isoformat().replace("+00:00", "Z")
        line |= {"logger": record.name, "level": record.levelname.lower(), "timestamp": moment}
        return json.dumps(line, default=str)


def where(trace: TracebackType | None) -> list[str]:
    """The last frames of a traceback: file, line and function, nothing of what was in them."""
    frames = traceback.extract_tb(trace)[-FRAMES:]
    return [f"{'/'.join(f.filename.split('/')[-2:])}:{f.lineno} {f.name}" for f in frames]


def _event(record: logging.LogRecord) -> str:
    if record.name.partition(".")[0] not in QUOTING:
        return record.getMessage()
    numbers = isinstance(record.args, tuple) and all(isinstance(value, int) for value in record.args)
    said = record.getMessage() if numbers else str(record.msg)
    return said.partition("\n")[0].partition(": ")[0][:200]
