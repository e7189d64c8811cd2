"""The ledger's bytes and hashes: canonical form, chain, tree, commitments, MAC.

All of it is pure and pinned by vectors. It must never change for entries that already exist: a second
verifier, written by somebody else, has to come to the same bytes.
"""

from __future__ import annotations

import hmac
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from typing import Any, NoReturn

BODY_LIMIT = 16 * 1024
SALT_BYTES = 32
_INTEGER_LIMIT = 2**53 - 1
_KEY = re.compile(r"[a-z][a-z0-9_]{0,31}")


class NotCanonical(ValueError):
    """A value or a body is outside the ledger's profile of JSON."""


def encode(body: Mapping[str, object]) -> bytes:
    """`body` as RFC 8785 bytes in the ledger's profile, at most 16 KiB.

    The profile has no floats and no null, integers within ±(2^53 - 1) and keys `[a-z][a-z0-9_]{0,31}`, so
    that sorting by code point is RFC 8785's order and no number has two spellings.
    """
    said = body if isinstance(body, dict) else dict(body)
    _check(said)
    try:
        data = _WRITE.encode(said).encode()
    except UnicodeEncodeError:
        raise NotCanonical("a string holds half of a surrogate pair") from None
    if len(data) > BODY_LIMIT:
        raise NotCanonical(f"an entry is at most {BODY_LIMIT} bytes; this one has {len(data)}")
    return data


def decode(data: bytes) -> dict[str, Any]:
    """The body that `data` is the canonical form of; NotCanonical for any other spelling of it."""
    if not isinstance(data, bytes):
        raise NotCanonical("not bytes")  # SQLite stores whatever somebody puts there
    try:
        body = _READ.decode(data.decode())
    except (ValueError, RecursionError) as error:
        raise NotCanonical(f"not JSON: {error}") from None
    if not isinstance(body, dict) or encode(body) != data:
        raise NotCanonical("not in canonical form")
    return body


def _refuse(text: str) -> NoReturn:
    raise NotCanonical(f"{text} is no integer")


# Made once: verifying reads and writes a body for every entry.
_READ = json.JSONDecoder(parse_float=_refuse, parse_constant=_refuse)
_WRITE = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False)


@lru_cache(256)
def _is_key(key: object) -> bool:
    return isinstance(key, str) and _KEY.fullmatch(key) is not None


def _check(value: object, depth: int = 0) -> None:
    if depth > 8:
        raise NotCanonical("nested deeper than 8")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not _is_key(key):
                raise NotCanonical(f"{key!r} is no key of the profile")
            kind = type(inner)  # most are strings, and nearly all others small numbers
            if kind is not str and not (kind is int and -_INTEGER_LIMIT <= inner <= _INTEGER_LIMIT):
                _check(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check(inner, depth + 1)
    elif isinstance(value, int):
        if abs(value) > _INTEGER_LIMIT:
            raise NotCanonical(f"{value} is beyond ±(2^53 - 1)")
    elif not isinstance(value, str):
        raise NotCanonical(f"{type(value).__name__} is not in the profile")


def genesis(origin: str) -> str:
    """What entry 0 has as `prev`, in hex: H("reviewqueue-ledger-v1\\n" || origin)."""
    return sha256(b"reviewqueue-ledger-v1\n" + origin.encode()).hexdigest()


def leaf_hash(body: bytes) -> bytes:
    """H(00 || body), RFC 6962."""
    return sha256(b"\x00" + body).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """H(01 || left || right), RFC 6962."""
    return sha256(b"\x01" + left + right).digest()


def commitment(salt: bytes, part: str, payload: bytes) -> str:
    """What an entry says of a part, in hex: H(02 || salt || u8 len(part) || part || payload)."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    name = part.encode()
    return sha256(b"\x02" + salt + bytes([len(name)]) + name + payload).hexdigest()


def mac(key: bytes, leaf: bytes) -> str:
    """HMAC-SHA256 of the leaf, in hex; the key is not in the database."""
    return hmac.digest(key, leaf, "sha256").hex()


class Seal:
    """`mac` for many leaves under one key: the key's two blocks are hashed once (RFC 2104)."""

    def __init__(self, key: bytes) -> None:
        block = (key if len(key) <= 64 else sha256(key).digest()).ljust(64, b"\0")
        self._inner = sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = sha256(bytes(byte ^ 0x5C for byte in block))

    def __call__(self, leaf: bytes) -> str:
        """The same as `mac(key, leaf)`."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(leaf)
        outer.update(inner.digest())
        return outer.hexdigest()


def key_id(key: bytes) -> str:
    """16 hex characters that name a key without telling anything about it."""
    return sha256(b"reviewqueue-key-id\n" + key).hexdigest()[:16]


def grow(frontier: Sequence[bytes], size: int, leaf: bytes) -> list[bytes]:
    """The compact range of a tree of `size` leaves after `leaf` was appended; largest subtree first."""
    grown, node = list(frontier), leaf
    while size & 1:
        node = node_hash(grown.pop(), node)
        size >>= 1
    return [*grown, node]


def root(frontier: Sequence[bytes]) -> bytes:
    """The RFC 6962 root of the tree with this compact range; of no leaves at all: H of nothing."""
    if not frontier:
        return sha256(b"").digest()
    node = frontier[-1]
    for left in reversed(frontier[:-1]):
        node = node_hash(left, node)
    return node
