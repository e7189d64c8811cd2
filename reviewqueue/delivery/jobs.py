"""RQ's way into delivery."""

from __future__ import annotations

from reviewqueue.delivery import deliver as deliveries


def deliver() -> int:
    """Attempt every delivery that is due; returns how many attempts were made."""
    return deliveries.deliver_due()


def deliver_due() -> bool:
    """Whether a delivery waits for an attempt."""
    return deliveries.delivery_due()
