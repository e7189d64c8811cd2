"""Every hostile string of the development data, through everything that turns content into markup."""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from markupsafe import Markup

from reviewqueue.content.diff import to_markup, words
from reviewqueue.content.show import (
    as_text,
    clip,
    hidden_characters,
    json_tree,
    markdown,
    outside_address,
    plain,
)

STRINGS = Path(__file__).parents[3] / "shared" / "data" / "hostile" / "strings.jsonl"
VOID = {"br", "hr"}
BARE = """blockquote br code dd del dt em h1 h2 h3 h4 h5 h6 hr ins li pre s strong table tbody thead tr ul"""
ALLOWED: dict[str, set[str]] = {tag: set() for tag in BARE.split()} | {
    "a": {"class", "href", "rel"},
    "dl": {"class"},
    "ol": {"class", "start"},
    "p": {"class"},
    "span": {"class", "title"},
    "td": {"class"},
    "th": {"class"},
}
OURS = """address align-center align-left align-right code-info hidden-char hidden-char-quiet image-text json
          json-string json-value line-end outside"""
CLASSES = set(OURS.split())


@pytest.fixture(scope="module")
def hostile() -> list[str]:
    if not STRINGS.exists():
        reason = "the development data (../shared/data/hostile) is not here"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    texts = [
        text for line in STRINGS.read_text("utf-8").split("\n") if line for text in _texts(json.loads(line))
    ]
    assert len(texts) > 1_800
    return texts


def _texts(row: dict[str, Any]) -> list[str]:
    if row.get("recipe"):
        recipe = row["recipe"]
        times = min(recipe["times"], 1_000_000 // len(recipe["unit"].encode()))
        close = recipe.get("close", "") * times
        return [recipe.get("prefix", "") + recipe["unit"] * times + recipe["suffix"] + close]
    if row["text"] is None:
        return [base64.b64decode(row["bytes_b64"]).decode("utf-8", "replace")]
    return [row["text"]]


class Strict(HTMLParser):
    """Fails on any tag, attribute, class, address or declaration that we do not write ourselves."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.opened: list[str] = []
        self.shown: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in ALLOWED, tag
        for name, value in attrs:
            assert name in ALLOWED[tag], (tag, name)
            if name == "class":
                assert set((value or "").split()) <= CLASSES, value
            if name == "href":
                assert value
                assert value.startswith("/leave?to=")
                assert outside_address(unquote(value.removeprefix("/leave?to="))), value
            if name == "rel":
                assert value == "noopener noreferrer nofollow"
            if name == "start":
                assert (value or "").isdecimal()
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        self.shown.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError("a comment")

    def handle_decl(self, decl: str) -> None:
        raise AssertionError("a declaration")

    def handle_pi(self, data: str) -> None:
        raise AssertionError("a processing instruction")

    def unknown_decl(self, data: str) -> None:
        raise AssertionError("a declaration")


def shown(markup: Markup) -> str:
    """The text a reader sees, after every tag and attribute was found to be ours."""
    assert isinstance(markup, Markup)
    parser = Strict()
    parser.feed(markup)
    parser.close()
    assert parser.opened == []
    return "".join(parser.shown)


def _attributes_broken_out(text: str) -> Markup:
    return json_tree({text: [text, {"k": text}]})


@pytest.mark.parametrize(
    "render", [plain, markdown, _attributes_broken_out, lambda text: plain(clip(text, 80))]
)
def test_hostile_strings_leave_only_our_own_markup(
    hostile: list[str], render: Callable[[str], Markup]
) -> None:
    for text in hostile:
        began = time.process_time()
        read = shown(render(text))
        assert not any(not char.in_place for char in hidden_characters(read)), text[:80]
        assert time.process_time() - began < 20, text[:80]


def test_hostile_strings_leave_only_our_own_markup_in_a_diff(hostile: list[str]) -> None:
    for before, after in zip(hostile, [*hostile[1:], ""], strict=True):
        ops = words(before, after)
        assert "".join(op.before for op in ops) == before
        assert "".join(op.after for op in ops) == after
        shown(to_markup(ops))


def test_hostile_strings_without_hidden_characters_are_shown_letter_by_letter(hostile: list[str]) -> None:
    clean = [text for text in hostile if not hidden_characters(text)]
    assert len(clean) > 1_500
    for text in clean:
        assert shown(plain(text)) == text
        assert as_text(text) == text


def test_hostile_strings_do_not_make_the_answer_explode(hostile: list[str]) -> None:
    for text in hostile:
        assert len(plain(text)) < 40 * len(text) + 500
