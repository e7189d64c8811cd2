"""Passwords: which ones are good enough, their hash, and the check that takes the same time for anybody.

A password must never be kept, logged or compared other than here.
"""

from __future__ import annotations

import unicodedata
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from reviewqueue.errors import Invalid
from reviewqueue.ids import new_token

SHORTEST, LONGEST = 12, 128

# 19 MiB, two passes, one lane: what OWASP advises for Argon2id.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)

# Compared without the digits and signs at either end, so "Password2026!!" is found as "password".
_COMMON = (
    "password passwords passwordpassword passw0rd p@ssword p@ssw0rd pass passphrase mypassword newpassword "
    "thepassword changeme changemenow changeit default secret topsecret letmein letmeinnow opensesame "
    "welcome welcomeback hello helloworld login signin admin administrator root superuser user guest test "
    "testtest testing demo example qwerty qwertz azerty qwertyuiop qwertyqwerty qwertyasdfgh asdfghjkl "
    "asdfasdfasdf asdfqwerzxcv zxcvbnm abc abcdef abcabcabcabc abcdefghijkl abcdefghijklm iloveyou "
    "iloveyousomuch sunshine princess dragon monkey football baseball superman batman starwars master "
    "trustnoone correcthorsebatterystaple reviewqueue review queue reviewer lead auditor"
)
_ROWS = "01234567890123456789 09876543210987654321 1q2w3e4r5t6y7u8i9o0p qwertyuiopasdfghjklzxcvbnm"


def check(password: str, *, email: str) -> str:
    """The password as it is hashed; Invalid unless it has 12 to 128 characters and is not easy to guess."""
    text = unicodedata.normalize("NFC", password)
    if not SHORTEST <= len(text) <= LONGEST:
        raise Invalid(f"a password has {SHORTEST} to {LONGEST} characters", field="password")
    if _is_common(text.casefold(), email):
        raise Invalid("this password is easy to guess; a few unrelated words are better", field="password")
    return text


def _is_common(text: str, email: str) -> bool:
    word = text.strip("0123456789!?.,;:#$%&*+-_=@ ")
    if text == email or word in (email, email.partition("@")[0]) or word in _COMMON.split():
        return True
    return len(set(text)) < 4 or any(text in row for row in _ROWS.split())


def hashed(password: str) -> str:
    """The Argon2id hash of a password that `check` has passed."""
    return _hasher.hash(_bytes(password))


def matches(password: str, stored: str | None) -> bool:
    """Whether the password belongs to `stored`; without one, False after the same work."""
    text, nobody = unicodedata.normalize("NFC", password), _nobody()
    try:
        right = _hasher.verify(stored or nobody, _bytes(text[:LONGEST]))
    except (VerificationError, InvalidHashError):
        return False
    return right and stored is not None and len(text) <= LONGEST


def _bytes(password: str) -> bytes:
    return password.encode("utf-8", "surrogatepass")  # a browser may send half a pair


@cache
def _nobody() -> str:
    return _hasher.hash(new_token())
