"""Signatures in Standard Webhooks form, with the published library as an independent judge."""

from __future__ import annotations

import base64
import datetime
import json
import time

import pytest
import standardwebhooks
from hypothesis import assume, given
from hypothesis import strategies as st

from reviewqueue.delivery import signature

SECRET = "whsec_ERERERERERERERERERERERERERERERERERERERERERE="
BODY = b'{"type":"decision.final"}'
SIGNATURE = "v1,eTA1eEZZAvhHAn239/IApSji6tvnnYxuuR3/RjfA1ds="
AT = 1763632800


def signed(body: bytes = BODY, *secrets: str) -> dict[str, str]:
    return signature.signed_headers("evt_1", AT, body, secrets or [SECRET])


def refused(
    headers: dict[str, str], body: bytes = BODY, secrets: tuple[str, ...] = (SECRET,), now: float = AT
) -> str:
    with pytest.raises(signature.Unverified) as refusal:
        signature.verify(headers, body, secrets, now)
    assert str(refusal.value)
    return refusal.value.check


def test_sign_gives_the_signature_of_the_specification() -> None:
    assert signature.sign(SECRET, "evt_1", AT, BODY) == SIGNATURE
    assert signature.verify(signed(), BODY, [SECRET], AT) == "evt_1"


def test_sign_agrees_with_the_standard_library_of_webhooks() -> None:
    secret, now = signature.new_secret(), int(time.time())
    body = json.dumps(
        {"type": "item.decided", "data": {"output": "zwölf – 12 ✓"}}, ensure_ascii=False
    ).encode()
    judge = standardwebhooks.Webhook(secret)
    headers = signature.signed_headers("evt_judged", now, body, [signature.new_secret(), secret])
    assert judge.verify(body, headers) == json.loads(body)
    theirs = judge.sign("evt_judged", datetime.datetime.fromtimestamp(now, datetime.UTC), body.decode())
    assert signature.verify(headers | {"webhook-signature": theirs}, body, [secret], now) == "evt_judged"
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        judge.verify(body + b" ", headers)


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_!!!!", "whsec_abc", SECRET[6:], "WHSEC_" + SECRET[6:], "whsec_é"]
)
def test_sign_refuses_what_is_no_secret(secret: str) -> None:
    with pytest.raises(ValueError, match="whsec_"):
        signature.sign(secret, "evt_1", AT, BODY)


def test_new_secret_is_32_random_bytes() -> None:
    made = {signature.new_secret() for _ in range(50)}
    assert len(made) == 50
    assert all(len(base64.b64decode(secret.removeprefix("whsec_"))) == 32 for secret in made)


@given(st.binary(max_size=200), st.sampled_from(["body", "id", "timestamp", "signature"]), st.data())
def test_verify_refuses_any_flipped_bit(body: bytes, part: str, data: st.DataObject) -> None:
    headers = signed(body)
    name = f"webhook-{part}"
    original = body if part == "body" else headers[name].encode()
    assume(original)
    place = data.draw(st.integers(0, len(original) * 8 - 1))
    flipped = bytearray(original)
    flipped[place // 8] ^= 1 << place % 8
    if part == "body":
        body = bytes(flipped)
    else:
        headers[name] = flipped.decode("latin-1")
    with pytest.raises(signature.Unverified):
        signature.verify(headers, body, [SECRET], AT, tolerance=10**12)


@pytest.mark.parametrize(("off", "fits"), [(-301, False), (-300, True), (0, True), (300, True), (301, False)])
def test_verify_keeps_the_window_of_300_seconds_exactly(off: int, fits: bool) -> None:
    for now in (AT + off, AT + off + 0.999):
        if fits:
            assert signature.verify(signed(), BODY, [SECRET], now) == "evt_1"
        else:
            assert refused(signed(), now=now) == "timestamp"


def test_verify_says_which_check_failed() -> None:
    good = signed()
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        assert refused({key: value for key, value in good.items() if key != name}) == "missing"
    for odd in ("", "evt.1", "evt 1", "évt", "x" * 257):
        assert refused(good | {"webhook-id": odd}) == "malformed"
    for odd in ("", "soon", "-1", "+1", "1e9", f"{AT}.0", f"0{AT}", f" {AT}", "٣", "9" * 5000):
        assert refused(good | {"webhook-timestamp": odd}) == "malformed"
    for odd in ("", "v1,", "v1", "v1a," + SIGNATURE[3:], SIGNATURE[3:], SIGNATURE.rstrip("="), "é", "\udcff"):
        assert refused(good | {"webhook-signature": odd}) == "signature"
    assert refused(good, BODY + b" ") == "signature"
    assert refused(good, secrets=(signature.new_secret(),)) == "signature"


def test_verify_reads_header_names_in_any_case() -> None:
    assert signature.verify({name.title(): value for name, value in signed().items()}, BODY, [SECRET], AT)


def test_verify_takes_either_secret_while_they_overlap() -> None:
    old, new = signature.new_secret(), signature.new_secret()
    both = signed(BODY, old, new)
    assert both["webhook-signature"].count(" ") == 1
    for secrets in ([old], [new], [new, old]):
        assert signature.verify(both, BODY, secrets, AT) == "evt_1"
        assert signature.verify(signed(BODY, secrets[0]), BODY, [old, new], AT) == "evt_1"


def test_verify_looks_at_16_signatures_and_no_more() -> None:
    for before, fits in ((15, True), (16, False)):
        headers = signed() | {"webhook-signature": " ".join(["v1,x"] * before + [SIGNATURE])}
        if fits:
            assert signature.verify(headers, BODY, [SECRET], AT)
        else:
            assert refused(headers) == "signature"


def test_verify_without_any_secret_always_says_no() -> None:
    nobody = "whsec_" + base64.b64encode(bytes(32)).decode()
    assert refused(signed(BODY, nobody), secrets=()) == "signature"
