"""RQ's way into finding."""

from __future__ import annotations

from reviewqueue.finding import catalogue


def index() -> int:
    """Bring the catalogue up to date; returns how many items were written."""
    return catalogue.index_due()


def index_due() -> bool:
    """Whether the catalogue lacks something."""
    return catalogue.behind()
