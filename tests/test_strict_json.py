from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewqueue.errors import Invalid
from reviewqueue.strict_json import MAX_NUMBER, loads, loads_entries


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + b"1" + b"}" * depth


REFUSED = [
    (b'{"a": 1, "a": 2}', "/a", "twice"),
    (b'{"x": [{"b": 1, "c": 2, "b": 1}]}', "/x/0/b", "twice"),
    (b'{"a": NaN}', "/a", "finite"),
    (b'{"a": [1, Infinity]}', "/a/1", "finite"),
    (b'{"a": -Infinity}', "/a", "finite"),
    (b'{"a": 1e999}', "/a", "beyond"),
    (b'{"a": -1E400}', "/a", "beyond"),
    (b'{"a": 9007199254740992}', "/a", "beyond"),
    (b'{"a": -9007199254740992}', "/a", "beyond"),
    (b'{"a": 9007199254740992.0}', "/a", "beyond"),
    (b'{"a": ' + b"9" * 10_000 + b"}", "/a", "beyond"),
    (b'{"a": "x\\u0000y"}', "/a", "NUL"),
    (b'{"a": {"k\\u0000": 1}}', "/a", "NUL"),
    (b'{"a": "\\ud800"}', "/a", "half"),
    (b'{"a": "\\uDC00\\ud800"}', "/a", "half"),
    (b'{"a": "\xff"}', "", "UTF-8"),
    (b'{"a": "\xed\xa0\x80"}', "", "UTF-8"),
    (b'{"a": "\x00"}', "", "not JSON"),
    (b"", "", "not JSON"),
    (b"{", "", "line 1"),
    (b'{"a": 1,}', "", "not JSON"),
    (b'{"a": 01}', "", "not JSON"),
    (b"{'a': 1}", "", "not JSON"),
    (b'\xef\xbb\xbf{"a": 1}', "", "not JSON"),
    (nested(33), "/a" * 32, "deeper than 32"),
    (b"[" * 33 + b"]" * 33, "/0" * 32, "deeper than 32"),
    (nested(100_000), "", "deeper than 32"),
    (json.dumps({"a": dict.fromkeys(map(str, range(1001)))}).encode(), "/a", "1000 keys"),
    (b'{"a secret": {"b": NaN}}', "", "finite"),
]


@pytest.mark.parametrize(("body", "pointer", "message"), REFUSED, ids=range(len(REFUSED)))
def test_loads_refuses_with_a_pointer(body: bytes, pointer: str, message: str) -> None:
    with pytest.raises(Invalid) as refused:
        loads(body)
    assert refused.value.errors[0]["pointer"] == pointer
    assert message in refused.value.errors[0]["message"]
    assert "secret" not in str(refused.value.errors)


TAKEN = [
    (nested(32), json.loads(nested(32))),
    (b'{"a": 9007199254740991}', {"a": MAX_NUMBER}),
    (b'{"a": -9007199254740991}', {"a": -MAX_NUMBER}),
    (b'{"a": 1.0}', {"a": 1.0}),
    (b'{"a": "\\ud83d\\ude00"}', {"a": "\N{GRINNING FACE}"}),
    (b'{"a": "\\\\u0000"}', {"a": "\\u0000"}),
    (json.dumps(dict.fromkeys(map(str, range(1000)))).encode(), dict.fromkeys(map(str, range(1000)))),
]


@pytest.mark.parametrize(("body", "value"), TAKEN, ids=range(len(TAKEN)))
def test_loads_takes_what_is_within_the_limits(body: bytes, value: Any) -> None:
    assert loads(body) == value


def test_loads_names_every_fault() -> None:
    with pytest.raises(Invalid) as refused:
        loads(b'{"a": NaN, "b": {"c": 1e999}, "d": "\\u0000"}')
    assert [fault["pointer"] for fault in refused.value.errors] == ["/a", "/b/c", "/d"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_NUMBER, MAX_NUMBER)
    | st.floats(-1e15, 1e15)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(JSON, st.booleans())
def test_loads_keeps_values_and_types(value: Any, ascii_only: bool) -> None:
    read = loads(json.dumps(value, ensure_ascii=ascii_only).encode())
    assert repr(read) == repr(value)


@given(st.binary(max_size=60))
def test_loads_refuses_any_bytes_it_does_not_take(body: bytes) -> None:
    with suppress(Invalid):
        loads(body)


def test_loads_entries_tells_of_each_entry_by_itself() -> None:
    deep = b"[" * 31 + b"]" * 31
    body = b'{"items": [{"a": 1}, {"a": 1, "a": 2}, {"b": {"c": NaN}}, "\\u0000", ' + deep + b'], "of": "x"}'
    value, refusals = loads_entries(body, "items")
    assert value == {"items": [{"a": 1}, None, None, None, None], "of": "x"}
    pointers = {place: [fault["pointer"] for fault in refusal.errors] for place, refusal in refusals.items()}
    assert list(pointers) == [1, 2, 3, 4]
    assert (pointers[1], pointers[2], pointers[3]) == (["/a"], ["/b/c"], [""])


@pytest.mark.parametrize("body", [b'{"items": [1], "of": NaN}', b'{"items": NaN}', b"[NaN]", b"NaN", b"{"])
def test_loads_entries_refuses_the_whole_for_a_fault_elsewhere(body: bytes) -> None:
    with pytest.raises(Invalid):
        loads_entries(body, "items")
