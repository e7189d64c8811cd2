"""Seals on what a callback needs: whoever can write to the database, but has no key, causes none.

An address is sealed when it is registered and an event when it is scheduled; both are looked at before every
attempt. A row without its seal must never be sent.
"""

from __future__ import annotations

import hashlib
import hmac

from reviewqueue.config import current


class Seals:
    """Makes and checks seals with the ledger's key, read once."""

    def __init__(self) -> None:
        self._key = current().key("ledger")

    def address(self, backend_id: str, url: str, trusted: bool) -> str:
        """The seal of where a backend is called back."""
        return self._seal("endpoint", backend_id.encode(), url.encode(), b"trusted" if trusted else b"")

    def event(self, delivery_id: str, backend_id: str, body: bytes) -> str:
        """The seal of what a backend is told."""
        return self._seal("delivery", delivery_id.encode(), backend_id.encode(), body)

    def _seal(self, what: str, *parts: bytes) -> str:
        # Each part with its length, so that no two lists of parts are sealed alike.
        text = b"".join(b"%d:%b," % (len(part), part) for part in (what.encode(), *parts))
        return hmac.digest(self._key, b"reviewqueue-seal-v1\n" + text, hashlib.sha256).hex()


def holds(made: str, found: str | None) -> bool:
    """Whether a row carries the seal that was made for what it says."""
    return found is not None and hmac.compare_digest(made, found)
