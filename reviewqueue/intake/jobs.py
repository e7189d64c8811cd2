"""RQ's way into intake: what was submitted enters the ledger."""

from __future__ import annotations

from reviewqueue.intake import seal as sealing


def seal() -> int:
    """Seal every item that is not sealed yet; returns how many there were."""
    return sealing.seal()


def seal_due() -> bool:
    """Whether an item waits to be sealed."""
    return sealing.seal_due()
