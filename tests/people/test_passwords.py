"""Which passwords are good enough, and that none is compared any other way than by its hash."""

from __future__ import annotations

import pytest

from reviewqueue.errors import Invalid
from reviewqueue.people import passwords

EMAIL = "ada@example.org"


@pytest.mark.parametrize(
    "password",
    [
        "", "short", "elevenchars", "x" * 129, "password1234", "Password2026!!", "PASSWORDPASSWORD",
        "123456789012", "qwertyuiop123", "aaaaaaaaaaaaaaaa", "ada@example.org", "ADA@Example.org",
        "ReviewQueue2026", "changemenow!!", "correcthorsebatterystaple", "111122223333", "ada123456789",
        "administrator", "1q2w3e4r5t6y", "e\u0301" * 12,
    ],
)  # fmt: skip
def test_check_refuses_what_is_short_long_or_easy_to_guess(password):
    with pytest.raises(Invalid) as refusal:
        passwords.check(password, email=EMAIL)
    assert refusal.value.errors[0]["pointer"] == "password"
    assert password == "" or password not in refusal.value.message


@pytest.mark.parametrize(
    "password",
    [
        "nine purple otters", "x7#k" * 3, "пароль из слов", "👍🏽 thumbs are up", "abcd" * 32,
        "e\u0301a\u0300u\u0308o\u0302" * 3, "            abcd", "\ud800 half a pair",
    ],
)  # fmt: skip
def test_check_accepts_anything_else_of_12_to_128_characters(password):
    assert passwords.matches(password, passwords.hashed(passwords.check(password, email=EMAIL)))


def test_check_counts_characters_as_people_do():
    """A letter with its accent is one character, however it was typed."""
    with pytest.raises(Invalid):
        passwords.check("e\u0301a\u0300" * 5 + "x", email=EMAIL)


def test_matches_only_the_same_password():
    stored = passwords.hashed("nine purple otters")
    for wrong in ("nine purple otter", "", "nine purple otters ", "Nine purple otters", "\ud800"):
        assert not passwords.matches(wrong, stored)
    assert not passwords.matches("nine purple otters", None)
    assert not passwords.matches("nine purple otters", "nonsense")


def test_matches_refuses_what_is_longer_than_any_password():
    long = "ab c" * 32
    assert passwords.matches(long, passwords.hashed(long))
    assert not passwords.matches(long + "x", passwords.hashed(long))


def test_hashed_is_argon2id_of_the_wanted_strength():
    assert passwords.hashed("nine purple otters").startswith("$argon2id$v=19$m=19456,t=2,p=1$")
