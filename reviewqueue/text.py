"""One canonical text of any JSON, and the words it is searched by.

What is shown, compared and indexed is made here, so that the three never disagree.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

LONGEST_WORD = 40
MOST_WORDS = 2000

# Scripts written without spaces are searched by pairs of neighbouring characters.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_NO_WORD_BEFORE, _NO_WORD_BEHIND = rf"(?<![^\W_{_UNSPACED}])", rf"(?![^\W_{_UNSPACED}])"
_WORD = re.compile(rf"((?:(?=\w)[{_UNSPACED}])+)|([^\W_{_UNSPACED}]+)")


def as_text(value: Any) -> str:
    """The one text of any JSON, for diff, search and examples: a string as it is, other JSON pretty."""
    return value if isinstance(value, str) else pretty_json(value)


def pretty_json(value: Any) -> str:
    """`value` as JSON, two spaces deep, keys in their own order, every script as itself."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def leaves(value: Any) -> list[str]:
    """What stands in an object or list at whatever depth, in order, as texts; what is empty is left out."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    if inner is None:
        return [] if value in (None, "") else [as_text(value)]
    return [text for one in inner for text in leaves(one)]


def words(text: str) -> list[str]:
    """The words `text` is found by, in order: case and width folded, accents dropped, at most 2,000."""
    plain = _folded(text[: MOST_WORDS * 20])
    found: list[str] = []
    for match in _WORD.finditer(plain):
        run = match[1]
        if run is None:
            found.append(match[2][:LONGEST_WORD])
        else:
            found.extend([run] if len(run) == 1 else [run[i : i + 2] for i in range(len(run) - 1)])
        if len(found) >= MOST_WORDS:
            break
    return found[:MOST_WORDS]


def folded(text: str) -> str:
    """The part of `text` that it is found by, folded as its words are."""
    return _folded(text[: MOST_WORDS * 20])


def phrase(text: str) -> re.Pattern[str] | None:
    """What finds the words of `text` in their order in a `folded` one; None when it holds no word.

    Between two words stands anything but another word, so that marks and line ends do not matter.
    """
    found = list(_WORD.finditer(folded(text)))
    if not found:
        return None
    pattern = "" if found[0][1] else _NO_WORD_BEFORE
    for one, following in zip(found, [*found[1:], None], strict=True):
        pattern += re.escape(one[0])
        if following is not None:
            pattern += r"[\W_]*" if one[1] or following[1] else r"[\W_]+"
    return re.compile(pattern + ("" if found[-1][1] else _NO_WORD_BEHIND))


def unspaced(word: str) -> bool:
    """Whether a word is of a script that is written without spaces."""
    found = _WORD.match(word)
    return bool(found and found[1])


def _folded(text: str) -> str:
    if text.isascii():  # nothing to decompose
        return text.lower()
    plain = unicodedata.normalize("NFKD", text).casefold()
    return unicodedata.normalize("NFC", "".join(c for c in plain if not unicodedata.combining(c)))


def tokens(text: str) -> int:
    """About how many tokens a language model counts in `text`: a quarter of its bytes, rounded up."""
    return -(-len(text.encode()) // 4)
