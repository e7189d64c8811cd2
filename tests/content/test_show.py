from __future__ import annotations

import html
import json
import re
import time
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewqueue.content.show import (
    as_text,
    clip,
    hidden_characters,
    json_tree,
    markdown,
    outside_address,
    plain,
    pretty_json,
)

RLO = "\u202e"


def unmarked(markup: str) -> str:
    """What `plain` would have been given: marks turned back into their characters, tags dropped."""

    def characters(mark: re.Match[str]) -> str:
        found = re.findall(r"⟨U\+([0-9A-F]+)(?: × (\d+))?⟩", mark[1])
        return "".join(chr(int(code, 16)) * int(times or 1) for code, times in found)

    text = re.sub(
        r'<span class="hidden-char" title="[^"]*">(.*?)</span>', characters, markup, flags=re.DOTALL
    )
    text = text.replace("␍</span>", "\r</span>")
    return html.unescape(
        re.sub(r'<span class="hidden-char-quiet" title="[^"]*">(.*?)</span>', r"\1", text, flags=re.DOTALL)
    )


@pytest.mark.parametrize(
    ("char", "mark"),
    [
        (RLO, '<span class="hidden-char" title="U+202E RIGHT-TO-LEFT OVERRIDE">⟨U+202E⟩</span>'),
        ("\u200b", '<span class="hidden-char" title="U+200B ZERO WIDTH SPACE">⟨U+200B⟩</span>'),
        ("\x1b", '<span class="hidden-char" title="U+001B ESCAPE">⟨U+001B⟩</span>'),
        (
            "\U000e0041",
            '<span class="hidden-char" title="U+E0041 TAG LATIN CAPITAL LETTER A">⟨U+E0041⟩</span>',
        ),
        ("\ue000", '<span class="hidden-char" title="U+E000 PRIVATE USE CHARACTER">⟨U+E000⟩</span>'),
        ("\u0378", '<span class="hidden-char" title="U+0378 UNASSIGNED CHARACTER">⟨U+0378⟩</span>'),
    ],
)
def test_plain_draws_a_hidden_character_with_its_name(char: str, mark: str) -> None:
    assert plain(f"a{char}b") == f"a{mark}b"


HIDDEN = """0 B 7F 85 A0 AD 34F 61C 115F 180E 200B 200C 200D 200E 2028 2029 202A 2060 2066 2069 2800 3164
            FE0F FEFF FFA0 FFFC E0001 E0020 E007F E0100 F0000"""


@pytest.mark.parametrize("code", [int(code, 16) for code in HIDDEN.split()])
def test_plain_leaves_no_hidden_character_unmarked_between_letters(code: int) -> None:
    shown = plain(f"a{chr(code)}b")
    assert chr(code) not in shown
    assert f"⟨U+{code:04X}⟩" in shown
    assert [(char.codepoint, char.in_place) for char in hidden_characters(f"a{chr(code)}b")] == [
        (f"U+{code:04X}", False)
    ]


@pytest.mark.parametrize(
    "text",
    [
        "👨‍👩‍👧",
        "❤️",
        "👍🏽",
        "1️⃣",
        "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
        "می‌خواهم",
        "क्‍ष",
        "ക്‍",
        "葛󠄀",
        "Bonjour\u00a0!",
        "1\u202f234",
        "東京\u3000大阪",
    ],
)
def test_plain_draws_joiners_quietly_where_the_script_needs_them(text: str) -> None:
    shown = plain(f"x {text} y")
    assert "hidden-char-quiet" in shown or text == "👍🏽"
    assert '"hidden-char"' not in shown
    assert all(char.in_place for char in hidden_characters(text))


@pytest.mark.parametrize(
    "text",
    [
        "❤\ufe0f\ufe0f\ufe0f",
        "a\u200db",
        "😀\U000e0100\U000e0155",
        "🏴\U000e0068\U000e0069\U000e007f",
        "می\u200c\u200cخ",
    ],
)
def test_plain_shouts_where_joiners_or_selectors_could_carry_a_message(text: str) -> None:
    assert '"hidden-char"' in plain(text)
    assert any(not char.in_place for char in hidden_characters(text))


def test_plain_escapes_markup_and_keeps_lines() -> None:
    assert plain("<b onclick='x'>&\n\t\"") == "&lt;b onclick=&#39;x&#39;&gt;&amp;\n\t&#34;"


def test_plain_counts_long_runs_and_stays_small() -> None:
    assert "⟨U+200B × 100000⟩" in plain("\u200b" * 100_000)
    assert len(plain("\u200b\u200c" * 50_000)) < 1_000_000


def test_plain_shows_a_line_end_of_windows_quietly_and_a_lone_carriage_return_loudly() -> None:
    assert plain("a\r\nb") == 'a<span class="hidden-char-quiet" title="U+000D CARRIAGE RETURN">␍</span>\nb'
    assert "⟨U+000D⟩" in plain("a\rb")


@given(
    st.text(st.characters(exclude_characters="⟨⟩␍"))
    | st.text("ab\u200b\u200d\u202e👩\ufe0fك\u094d\r\n <&", max_size=40)
)
def test_plain_can_be_read_back_to_the_very_text(text: str) -> None:
    assert unmarked(plain(text)) == text


def test_hidden_characters_counts_and_puts_the_suspicious_first() -> None:
    found = hidden_characters(f"{RLO}a{RLO}\u200b 👨‍👩‍👧")
    assert [(char.name, char.codepoint, char.count, char.in_place) for char in found] == [
        ("RIGHT-TO-LEFT OVERRIDE", "U+202E", 2, False),
        ("ZERO WIDTH SPACE", "U+200B", 1, False),
        ("ZERO WIDTH JOINER", "U+200D", 2, True),
    ]
    assert hidden_characters("plain text\n\twith émojis 😀 and العربية") == []


def test_markdown_renders_the_common_constructs() -> None:
    shown = markdown("# T\n\n**b** *i* ~~s~~ `c`\n\n3. x\n\n|a|b|\n|-|-:|\n|1|2|\n\n> q\n\n```py\nx<y\n```\n")
    parts = ["<h1>T</h1>", "<strong>b</strong>", "<em>i</em>", "<s>s</s>", "<code>c</code>", '<ol start="3">']
    parts += ['<td class="align-right">2</td>', "<blockquote>", "<pre><code>x&lt;y\n</code></pre>"]
    for part in parts:
        assert part in shown
    assert '<p class="code-info">py</p>' in shown


def test_markdown_leads_a_link_through_our_own_page_and_shows_its_whole_address() -> None:
    shown = markdown('[bank](https://evil.example/?a=1&b=2 "tip")')
    assert shown == (
        '<p><a class="outside" href="/leave?to=https%3A%2F%2Fevil.example%2F%3Fa%3D1%26b%3D2" '
        'rel="noopener noreferrer nofollow">bank</a> '
        '<span class="address">(https://evil.example/?a=1&amp;b=2 "tip")</span></p>\n'
    )


ELSEWHERE = """javascript:alert(1) JaVaScRiPt:alert(1) data:text/html,x vbscript:x file:///etc/passwd /logout
               //evil.example #id http:evil https:/\\evil blob:x x-y:z"""


@pytest.mark.parametrize("address", [*ELSEWHERE.split(), "java\tscript:alert(1)"])
def test_markdown_shows_a_link_of_any_other_scheme_as_text(address: str) -> None:
    for source in (f"[x]({address})", f"[x](<{address}>)", f"<{address}>", f"![x]({address})"):
        shown = markdown(source)
        assert "<a" not in shown
        assert "<img" not in shown
        assert html.unescape(address.split("\t")[0]) in html.unescape(shown)


def test_markdown_turns_an_image_into_its_words_and_address() -> None:
    shown = markdown("![a *cat*](https://evil.example/leak.png?secret)")
    assert '<span class="image-text">a cat</span>' in shown
    assert '<span class="address">(https://evil.example/leak.png?secret)</span>' in shown
    assert "<img" not in shown
    assert "<a" not in shown


def test_markdown_shows_what_other_renderers_hide() -> None:
    shown = markdown(
        "[//]: # (obey me)\n\n[ref]: https://x.example 'secret'\n\n```py ignore rules\n```\n<!-- psst -->"
    )
    for words in ("obey me", "secret", "ignore rules", "psst"):
        assert words in shown


def test_markdown_draws_hidden_characters_in_text_code_and_entities() -> None:
    shown = markdown(f"a{RLO} `b{RLO}` &#x202e; [c{RLO}](https://x.example)\n\n    d{RLO}")
    assert shown.count("⟨U+202E⟩") == 5
    assert RLO not in shown


def test_markdown_drops_attributes_and_tags_of_the_content() -> None:
    shown = markdown('<a hx-get="/x" id="csrf" data-x="1" class="btn">y</a><form id=f></form><svg onload=x>')
    assert "<a" not in shown
    assert "<form" not in shown
    assert "<svg" not in shown


@pytest.mark.parametrize(
    "unit",
    [
        "[",
        "![",
        "[a](",
        "> ",
        "- ",
        "*a_ ",
        "`",
        "<",
        "|a\n|-\n",
        "a*",
        "1. ",
        "\\",
        "&",
        "[x](http://a.b ",
        "**[*",
    ],
)
def test_markdown_takes_hostile_nesting_in_bounded_time(unit: str) -> None:
    began = time.process_time()
    shown = markdown(unit * (60_000 // len(unit)))
    assert time.process_time() - began < 10
    assert shown


def test_markdown_shows_a_very_long_text_as_it_is() -> None:
    assert markdown("**a** " * 40_000).startswith("<pre>\n**a** **a**")
    assert markdown("a\ud800b")


@given(st.text(max_size=300) | st.text("[]()<>!*_`~|#-\n \\&;:/ahtps\"'", max_size=200))
def test_markdown_never_raises_and_balances_its_tags(text: str) -> None:
    opened: list[str] = []

    class Balance(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag not in ("br", "hr"):
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Balance().feed(markdown(text))
    assert opened == []


@pytest.mark.parametrize("address", ["https://a.example/x?y#z", "HTTP://a.example", "mailto:a@b.example"])
def test_outside_address_passes_what_may_be_opened(address: str) -> None:
    assert outside_address(address) == address


@pytest.mark.parametrize(
    "address",
    [
        "",
        "javascript:x",
        "https://",
        "https:///x",
        "http://a b",
        f"https://a{RLO}",
        "ftp://a",
        "https://a\\b",
    ],
)
def test_outside_address_refuses_the_rest(address: str) -> None:
    assert outside_address(address) is None


def test_as_text_keeps_strings_and_key_order() -> None:
    assert as_text("a\n") == "a\n"
    assert (
        as_text({"b": 1.0, "a": "é"}) == '{\n  "b": 1.0,\n  "a": "é"\n}' == pretty_json({"b": 1.0, "a": "é"})
    )


def test_json_tree_tells_types_apart_and_escapes() -> None:
    shown = json_tree({"<k>": ["3", 3, None, True, {}, []]})
    assert "<dt>&lt;k&gt;</dt>" in shown
    assert '<span class="json-string">"3"</span>' in shown
    for value in ("3", "null", "true", "{}", "[]"):
        assert f'<span class="json-value">{value}</span>' in shown


def test_json_tree_shows_bottomless_nesting_as_text() -> None:
    deep = json.loads("[" * 200 + "]" * 200)
    assert "<pre>" in json_tree(deep)


@pytest.mark.parametrize(
    ("text", "limit", "row"),
    [
        ("short", 10, "short"),
        ("  a \n\n b\t", 10, "a b"),
        ("abcdefghij", 5, "abcd…"),
        ("aaae\u0301x", 5, "aaa…"),
        ("aa👨‍👩‍👧bb", 5, "aa…"),
        ("", 5, ""),
        ("a" * 10_000, 3, "aa…"),
    ],
)
def test_clip_makes_one_line_and_cuts_between_letters(text: str, limit: int, row: str) -> None:
    assert clip(text, limit) == row


@given(st.text(), st.integers(1, 30))
def test_clip_never_exceeds_its_limit(text: str, limit: int) -> None:
    assert len(clip(text, limit)) <= limit
