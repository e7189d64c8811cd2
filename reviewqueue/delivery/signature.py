"""The signature of a message in Standard Webhooks form: made here, verified here, for both directions.

Must never say "verified" of a message when any check was not made.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets as random_source
from collections.abc import Mapping, Sequence
from typing import Literal

SIGNATURES_READ = 16

Check = Literal["missing", "malformed", "timestamp", "signature"]

_ID = re.compile(r"[!-\-/-~]{1,256}")  # visible ASCII without the dot that separates the signed parts
_TIMESTAMP = re.compile(r"0|[1-9][0-9]{0,11}")
_NOBODY = "whsec_" + base64.b64encode(bytes(32)).decode()


class Unverified(Exception):
    """A signed message was refused; `check` is `missing`, `malformed`, `timestamp` or `signature`."""

    def __init__(self, check: Check, message: str) -> None:
        super().__init__(message)
        self.check = check


def new_secret() -> str:
    """A fresh signing secret: `whsec_` and 32 random bytes in base64."""
    return "whsec_" + base64.b64encode(random_source.token_bytes(32)).decode()


def sign(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """The Standard Webhooks signature `v1,…` of one message; `timestamp` in seconds since 1970.

    Raises ValueError when `secret` is not `whsec_` and base64.
    """
    return _sign(secret, webhook_id, str(timestamp), body)


def signed_headers(
    webhook_id: str, timestamp: int, body: bytes, secrets: Sequence[str], attempt: int = 1
) -> dict[str, str]:
    """The headers of one attempt, with one signature for each active secret."""
    return {
        "content-type": "application/json",
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(sign(secret, webhook_id, timestamp, body) for secret in secrets),
        "webhook-attempt": str(attempt),
    }


def verify(
    headers: Mapping[str, str], body: bytes, secrets: Sequence[str], now: float, tolerance: int = 300
) -> str:
    """Check a signed message and return its `webhook-id`; raises Unverified naming the check that failed.

    `now` and `tolerance` are in seconds; the window is exact in whole seconds, the unit of the header. With
    no secret at all (an unknown sender) the work is the same and the answer always no.
    """
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        webhook_id, timestamp, given = (lower[f"webhook-{part}"] for part in ("id", "timestamp", "signature"))
    except KeyError as missing:
        raise Unverified("missing", f"The header {missing.args[0]} is missing.") from None
    if not _ID.fullmatch(webhook_id):
        raise Unverified("malformed", "The header webhook-id cannot be read.")
    if not _TIMESTAMP.fullmatch(timestamp):
        raise Unverified("malformed", "The header webhook-timestamp is not a whole number of seconds.")
    if abs(int(now) - int(timestamp)) > tolerance:
        raise Unverified("timestamp", f"The timestamp is more than {tolerance} seconds away.")
    # As text: base64 leaves bits unused, so several texts would decode to one signature.
    signatures = [each.encode("utf-8", "replace") for each in given.split(" ")[:SIGNATURES_READ]]
    matched = False
    for secret in secrets or [_NOBODY]:
        wanted = _sign(secret, webhook_id, timestamp, body).encode()
        for signature in signatures:
            matched |= hmac.compare_digest(wanted, signature)
    if not (matched and secrets):
        raise Unverified("signature", "No signature fits the message.")
    return webhook_id


def _sign(secret: str, webhook_id: str, timestamp: str, body: bytes) -> str:
    prefix, encoded = secret[:6], secret[6:]
    try:
        key = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if prefix != "whsec_" or not key:
        raise ValueError("a webhook secret is whsec_ and base64")
    digest = hmac.digest(key, f"{webhook_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return "v1," + base64.b64encode(digest).decode()
