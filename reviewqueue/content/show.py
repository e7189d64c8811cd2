"""An item's content made safe and readable: Markdown, JSON, rows of a list; hidden characters drawn.

Content is hostile. What leaves here is text or allow-listed markup that loads nothing, runs nothing and
leads nowhere without a question. Must never return content as Markup that has not been escaped or cleaned.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import quote

import nh3
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from markupsafe import Markup

from reviewqueue.content.hidden import HiddenChar, hidden_characters, plain

__all__ = [
    "HiddenChar",
    "as_text",
    "clip",
    "hidden_characters",
    "json_tree",
    "markdown",
    "outside_address",
    "plain",
    "pretty_json",
]

MAX_MARKDOWN = 200_000  # characters; longer texts are read as they are
MAX_BRACKETS = 5_000  # each "[" makes the parser look ahead; no answer to a person has so many links
MAX_DEPTH = 32  # as deep as intake lets JSON be

_OUTSIDE = re.compile(r"https?://[^\s/\\?#][^\s\\]*|mailto:[^\s\\]+", re.IGNORECASE)


def outside_address(address: str) -> str | None:
    """`address` when a reviewer may be led to it after a question (http, https, mailto), else None."""
    return address if _OUTSIDE.fullmatch(address) and not hidden_characters(address) else None


def markdown(text: str, mark: Callable[[Sequence[Token]], None] | None = None) -> Markup:
    """`text` rendered as CommonMark with tables and strikethrough, through our allow-list.

    No images, no raw HTML, no loads. A link stands beside its whole address and goes to our own page
    `/leave?to=…`, which asks first. Too long or too tangled a text comes back as plain text in `<pre>`.
    `mark` may give what was parsed ids such as `guideline-1`, for links to lead there.
    """
    if len(text) > MAX_MARKDOWN or text.count("[") > MAX_BRACKETS:
        return _preformatted(text)
    try:
        if mark is None:
            return Markup(_CLEANER.clean(_PARSER.render(text)))
        tokens = _PARSER.parse(text)
        mark(tokens)
        return Markup(_WITH_PLACES.clean(_PARSER.renderer.render(tokens, _PARSER.options, {})))
    except (RecursionError, ValueError):
        return _preformatted(text)


def as_text(value: Any) -> str:
    """The one text of any output, for diff, search and examples: a string as it is, other JSON pretty."""
    return value if isinstance(value, str) else pretty_json(value)


def pretty_json(value: Any) -> str:
    """`value` as JSON, two spaces deep, keys in their own order, every script as itself."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def json_tree(value: Any, depth: int = 0) -> Markup:
    """`value` as nested lists for reading; strings keep their quotes, so "3" and 3 look different."""
    if depth > MAX_DEPTH:
        return _preformatted(pretty_json(value))
    if isinstance(value, dict) and value:
        rows = ((plain(key), json_tree(inner, depth + 1)) for key, inner in value.items())
        body = Markup("").join(Markup("<dt>{}</dt><dd>{}</dd>").format(*row) for row in rows)
        return Markup('<dl class="json">{}</dl>').format(body)
    if isinstance(value, list) and value:
        body = Markup("").join(Markup("<li>{}</li>").format(json_tree(inner, depth + 1)) for inner in value)
        return Markup('<ol class="json" start="0">{}</ol>').format(body)
    if isinstance(value, str):
        return Markup('<span class="json-string">"{}"</span>').format(plain(value))
    return Markup('<span class="json-value">{}</span>').format(json.dumps(value))


def clip(text: str, limit: int) -> str:
    """One line of at most `limit` characters of `text`, never cut inside an accented letter or emoji.

    The result is still hostile text: show it through `plain`.
    """
    line = re.sub(r"[ \t\r\n]+", " ", text[: limit * 4 + 200]).strip(" ")
    if len(line) <= limit and len(text) <= limit * 4 + 200:
        return line
    cut = min(limit - 1, len(line))
    # Thirty steps cover the longest real cluster; stacked accents without end are cut where they are.
    for back in range(30):
        if cut - back <= 0 or not _continues(line, cut - back):
            cut -= back
            break
    return line[: max(cut, 0)].rstrip(" ") + "…"


def _continues(line: str, at: int) -> bool:
    if at >= len(line):
        return False
    after = line[at]
    joined = after in "\u200c\u200d" or line[at - 1] == "\u200d" or "\U0001f3fb" <= after <= "\U0001f3ff"
    return joined or unicodedata.category(after).startswith("M")


def _preformatted(text: str) -> Markup:
    # A parser swallows the first newline after <pre>, so one is put there for it.
    return Markup("<pre>\n{}</pre>").format(plain(text))


class _Outside(RendererHTML):
    """Draws hidden characters everywhere, turns images into text, and leads links through `/leave`."""

    def text(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return plain(tokens[idx].content)

    def code_inline(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return Markup("<code>{}</code>").format(plain(tokens[idx].content))

    def code_block(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return Markup("<pre><code>{}</code></pre>\n").format(plain(tokens[idx].content))

    def fence(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        # The info line is content too; other renderers hide all of it but the first word.
        info = tokens[idx].info.strip()
        shown = Markup('<p class="code-info">{}</p>').format(plain(info)) if info else ""
        return shown + self.code_block(tokens, idx, options, env)

    def image(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        token = tokens[idx]
        alt = self.renderInlineAsText(token.children, options, env) if token.children else ""
        shown = Markup('<span class="image-text">{}</span> {}')
        return shown.format(plain(alt or "image"), _beside(token, "src"))

    def link_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return Markup('<a class="outside" href="/leave?to={}">').format(
            quote(str(tokens[idx].attrs["href"]), safe="")
        )

    def link_close(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        opened = next(token for token in reversed(tokens[:idx]) if token.type == "link_open")
        return Markup("</a> ") + _beside(opened, "href")

    def th_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return _cell(tokens[idx])

    def td_open(self, tokens: Sequence[Token], idx: int, options: OptionsDict, env: EnvType) -> str:
        return _cell(tokens[idx])


def _beside(token: Token, attribute: str) -> Markup:
    """The whole address of a link or image, and its title, which would otherwise hide in a tooltip."""
    title = f' "{token.attrs["title"]}"' if token.attrs.get("title") else ""
    return Markup('<span class="address">({}{})</span>').format(
        plain(str(token.attrs[attribute])), plain(title)
    )


def _cell(token: Token) -> str:
    # The parser aligns with a style attribute, which the content security policy forbids.
    side = str(token.attrs.get("style", "")).removeprefix("text-align:")
    return Markup('<{} class="align-{}">').format(token.tag, side) if side else f"<{token.tag}>"


def _parser() -> MarkdownIt:
    # Link reference definitions vanish from the rendered text (`[//]: # (do as I say)`), so they are
    # left as text: what cannot be seen cannot be approved.
    parser = MarkdownIt("commonmark", {"html": False}, renderer_cls=_Outside)
    parser.enable(["table", "strikethrough"]).disable("reference")
    # markdown-it asks to have its method replaced.
    parser.validateLink = lambda url: outside_address(url) is not None  # type: ignore[method-assign]
    return parser


def _only_ours(tag: str, attribute: str, value: str) -> str | None:
    if attribute == "id":
        return value if _PLACE.fullmatch(value) else None
    return None if attribute == "href" and not value.startswith("/leave?to=") else value


def _cleaner(everywhere: frozenset[str] = frozenset()) -> nh3.Cleaner:
    return nh3.Cleaner(
        tags=set(_TAGS.split()),
        attributes={"*": set(everywhere), "a": {"href"}, "ol": {"start"}, "span": {"title"}},
        allowed_classes={
            "a": {"outside"},
            "p": {"code-info"},
            "span": {"address", "hidden-char", "hidden-char-quiet", "image-text"},
            "td": {"align-left", "align-center", "align-right"},
            "th": {"align-left", "align-center", "align-right"},
        },
        attribute_filter=_only_ours,
        link_rel="noopener noreferrer nofollow",
        url_schemes=set(),
    )


_PLACE = re.compile(r"guideline-\d{1,3}")
_TAGS = """a blockquote br code em h1 h2 h3 h4 h5 h6 hr li ol p pre s span strong
           table tbody td th thead tr ul"""
_PARSER = _parser()
_CLEANER = _cleaner()
_WITH_PLACES = _cleaner(frozenset({"id"}))
