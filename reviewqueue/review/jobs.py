"""RQ's way into review: what waits to be prepared, and what the passing of time asks for."""

from __future__ import annotations

from reviewqueue.people import forget
from reviewqueue.review import expire, set_back
from reviewqueue.review import prepare as preparing


def prepare() -> int:
    """Prepare every review that waits for it; returns how many there were."""
    return preparing.prepare_due()


def prepare_due() -> bool:
    """Whether a review waits to be prepared."""
    return preparing.unprepared()


def upkeep() -> int:
    """Let overdue items go as their policies say, forget old sign-ins, mend what a wrong clock put far off;
    returns how much there was."""
    return set_back.bring_near() + expire.expire_due() + forget.forget_old()


def upkeep_due() -> bool:
    """Whether time asks for anything."""
    return expire.expiry_due() or forget.has_old()
