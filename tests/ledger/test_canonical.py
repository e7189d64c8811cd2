"""The ledger's bytes and hashes, by the vectors of its specification and by fuzzing."""

import base64
import json
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewqueue.ledger.canonical import (
    BODY_LIMIT,
    NotCanonical,
    commitment,
    decode,
    encode,
    genesis,
    grow,
    key_id,
    leaf_hash,
    mac,
    node_hash,
    root,
)

ORIGIN = "rq.example/ledger/test"
GENESIS = "6a4c8707f1c67421a7582fb0de6db37ec070d7b5c9f58af2d3ece15204066b66"
FIRST = (
    f'{{"key":"test","log":"{ORIGIN}","prev":"{GENESIS}","seq":0,'
    '"time":"2026-11-20T10:00:00.000000Z","type":"ledger.created","v":1}'
).encode()
FIRST_LEAF = "798065b31dffc17396e83cd3fdb3ced3ccbad78bd4e80d810d09930962acd6ed"
OUT = "d1d950d4619c513478b0a3eb6ae88ec556acffb3fd645385cbf419253c288c44"
SECOND = {
    "action": "approve",
    "actor": "usr_1",
    "decision": "dec_1",
    "dwell_ms": 8421,
    "in": "7fa2fcc508743936019bc87cdc7212688ba0425004c600db04f528a47e3198a8",
    "item": "itm_1",
    "log": ORIGIN,
    "out": OUT,
    "prev": FIRST_LEAF,
    "rev": 1,
    "seq": 1,
    "shown": "951994736b1f878f6b69dd3358c76115332b2e1c974f700d32dec73fadf6626e",
    "time": "2026-11-20T10:00:01.000000Z",
    "token": 3,
    "type": "decision",
    "v": 1,
    "why": "68e3ed3cb38e9e2f3d564bb742301bf46c18eab6fb49196cba70ce19a5da4680",
}
SECOND_LEAF = "eb706266d28425719c03e9b0bcd0010778ec16a6bcec3ee02a86141f0b7bc1e1"


def test_genesis_is_the_vector():
    assert genesis(ORIGIN) == GENESIS


def test_encode_gives_the_bytes_of_the_first_vector():
    body = {"v": 1, "type": "ledger.created", "time": "2026-11-20T10:00:00.000000Z", "seq": 0}
    assert encode(body | {"prev": genesis(ORIGIN), "log": ORIGIN, "key": "test"}) == FIRST
    assert leaf_hash(FIRST).hex() == FIRST_LEAF


def test_encode_gives_the_leaf_of_the_second_vector():
    shuffled = dict(reversed(SECOND.items()))
    assert leaf_hash(encode(shuffled)).hex() == SECOND_LEAF


def test_commitment_is_the_vector():
    assert commitment(b"\x01" * 32, "out", b"Refund approved: 20 EUR") == OUT


def test_commitment_depends_on_salt_part_and_payload():
    same = commitment(b"\x01" * 32, "out", b"x")
    assert same != commitment(b"\x02" + b"\x01" * 31, "out", b"x")
    assert same != commitment(b"\x01" * 32, "in", b"x")
    assert same != commitment(b"\x01" * 32, "out", b"y")
    # "ou" + "tx" must not collide with "out" + "x".
    assert same != commitment(b"\x01" * 32, "ou", b"tx")


def test_mac_is_the_vector():
    key = b"\x22" * 32
    expected = "42d146bf807b324787150867b1a4061b3c7a75451da417303d070a3d437468bb"
    assert mac(key, leaf_hash(encode(SECOND))) == expected


def test_root_is_the_vector_at_sizes_one_and_two():
    one = grow([], 0, leaf_hash(FIRST))
    assert base64.b64encode(root(one)) == b"eYBlsx3/wXOW6DzT/bPO08y614vU6A2BDQmTCWKs1u0="
    two = grow(one, 1, bytes.fromhex(SECOND_LEAF))
    assert base64.b64encode(root(two)) == b"77ryPRUxWqoD9fC5t4iCAfy31qjBHitdNEpCZhua4Xc="


def _tree(leaves: list[bytes]) -> bytes:
    """RFC 6962's definition, word for word."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node_hash(_tree(leaves[:split]), _tree(leaves[split:]))


def test_grow_gives_the_root_of_rfc_6962_at_every_size():
    leaves: list[bytes] = []
    frontier: list[bytes] = []
    for number in range(70):
        assert root(frontier) == _tree(leaves)
        assert len(frontier) == number.bit_count()
        leaves.append(leaf_hash(str(number).encode()))
        frontier = grow(frontier, number, leaves[-1])


def test_key_id_tells_keys_apart():
    assert len({key_id(bytes([n]) * 32) for n in range(50)}) == 50
    assert len(key_id(b"\x22" * 32)) == 16


# RFC 8785 section 3.2.2.2 and its appendix, as far as they lie within the profile.
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"\u002f", '"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"'),
        ("\b\t\n\f\r", '"\\b\\t\\n\\f\\r"'),
        ("\x00\x1f\x7f\u2028\u2029", '"\\u0000\\u001f\x7f\u2028\u2029"'),
        ("😂 \u05d3\ufb33 e\u0301", '"😂 \u05d3\ufb33 e\u0301"'),
        ([True, False, 0, -5, 2**53 - 1], f"[true,false,0,-5,{2**53 - 1}]"),
        ({"b": [], "a": {}}, '{"a":{},"b":[]}'),
    ],
)
def test_encode_spells_as_rfc_8785(value, expected):
    assert encode({"a": value}).decode() == f'{{"a":{expected}}}'


@pytest.mark.parametrize(
    "value",
    [1.0, 0.5, float("nan"), None, 2**53, -(2**53), "\ud800", b"x", {"A": 1}, {"": 1}, {"a-b": 1}, {1: 1}],
)
def test_encode_refuses_what_is_outside_the_profile(value):
    with pytest.raises(NotCanonical):
        encode({"a": value})


def test_encode_refuses_long_bodies_and_long_keys():
    encode({"a": "x" * (BODY_LIMIT - 8)})
    with pytest.raises(NotCanonical):
        encode({"a": "x" * (BODY_LIMIT - 7)})
    encode({"a" * 32: 1})
    with pytest.raises(NotCanonical):
        encode({"a" * 33: 1})


@pytest.mark.parametrize(
    "data",
    [
        b'{"a":1 }', b'{"b":1,"a":1}', b'{"a":1,"a":1}', b'{"a":1.0}', b'{"a":1e2}', b'{"a":null}',
        b'{"a":-0}', b'{"a":01}', b'{"a":"\\u0041"}', b'{"a":"\\/"}', b'{"a":NaN}', b'[1]', b"", b"{",
        b'\xef\xbb\xbf{"a":1}', b'{"a":"\xff"}', b'{"a":9007199254740992}', b'{"a":1}\n', b"[" * 100_000,
    ],
)  # fmt: skip
def test_decode_refuses_every_other_spelling(data):
    with pytest.raises(NotCanonical):
        decode(data)


_keys = st.from_regex(r"[a-z][a-z0-9_]{0,31}", fullmatch=True)
_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_values = st.recursive(
    st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | _text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(_keys, _values, max_size=8))
def test_decode_gives_back_what_encode_wrote(body):
    data = encode(body)
    assert decode(data) == body
    assert json.loads(data) == body
    assert encode(decode(data)) == data
