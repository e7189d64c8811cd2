"""The script every page shares, in a real browser: swaps under trusted types, keys, questions, times."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask, render_template_string, request
from markupsafe import Markup

from reviewqueue import web
from tests.make import Make

pytestmark = [pytest.mark.sqlite, pytest.mark.own_app]

BENCH = """
{% extends "base.html" %}{% import "_macros.html" as ui with context %}
{% block title %}Bench{% endblock %}
{% block main %}
<button id="load" hx-get="/bench/part" hx-target="#part" hx-swap="outerHTML">Load</button>
<div id="part">before</div>
<p id="aside">aside</p>
<button id="fail" hx-get="/bench/fail" hx-target="#part">Fail</button>
<form id="send" hx-post="/bench/echo" hx-target="#part" action="/bench/echo" method="post">
  {{ ui.field("text", "Text", type="textarea") }}
  {{ ui.button("Go", key="g", **{"data-default": ""}) }}
  {{ ui.button("Delete", key="d", confirm="Really?", name="verdict", value="delete") }}
</form>
<form id="decision-form" data-guard method="post" action="/bench/decide">
  {{ ui.csrf() }}{{ ui.button("Approve", key="1", name="v", value="approve") }}
</form>
<input id="search" data-key="/" data-key-label="Search">
<button type="button" data-key="x" hidden>Hidden</button>
<a href="#one" data-row>one</a> <a href="#two" data-row>two</a>
{{ ui.time(now) }}
{{ ui.content("<img src=x onerror=alert(1)><b hx-get='/bench/fail' hx-trigger='load'>x</b>") }}
<div id="rich">{{ ui.content(rich, "rich") }}</div>
{{ ui.secret("shown", "s3cret") }}
{% endblock %}
"""
PART = """<section id="part" class="new"><time datetime="2020-01-01T00:00:00Z">x</time>
<script>document.title = "run"</script>
<button id="again" hx-get="/bench/part" hx-target="#part" hx-swap="outerHTML">again</button></section>
<p id="aside" hx-swap-oob="true">out of band</p>"""


@pytest.fixture
def bench(app: Flask, page: Any, make: Make) -> Any:
    """A page with one of everything; `bench.seen` lists what reached the server, `.said` the console."""
    seen: list[Any] = []

    def echo() -> Any:
        seen.append(dict(request.form))
        return '<section id="part">sent</section>'

    def decide() -> Any:
        seen.append(request.form["v"])
        return "<p>decided</p>"

    def fail() -> Any:
        seen.append("fail")
        return "<p>raw 500</p>", 500

    rich = Markup('<b hx-get="/bench/fail" hx-trigger="load">x</b>')
    views = {
        "": (lambda: render_template_string(BENCH, rich=rich), ["GET"]),
        "/part": (lambda: PART, ["GET"]),
        "/fail": (fail, ["GET"]),
        "/echo": (echo, ["POST"]),
        "/decide": (decide, ["POST"]),
    }
    for path, (view, methods) in views.items():
        app.add_url_rule(f"/bench{path}", f"bench{path}", web.right(None)(view), methods=methods)
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda sent: sent.url.endswith("/csp") and page.said.append("csp report"))
    page.seen = seen
    page.goto("/bench")
    return page


def test_htmx_swaps_under_trusted_types(bench: Any) -> None:
    bench.click("#load")
    bench.wait_for_selector("section#part.new")
    assert bench.inner_text("#aside") == "out of band"
    bench.click("#again")
    bench.wait_for_selector("section#part.new #again")
    assert "y ago" in bench.inner_text("#part time")
    assert bench.title() == "Bench · reviewqueue"
    assert bench.said == []


def test_a_string_becomes_markup_nowhere_else(bench: Any) -> None:
    for code in (
        "document.body.innerHTML = '<b>x</b>'",
        "document.querySelector('#part').outerHTML = '<b>x</b>'",
        "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
        "new DOMParser().parseFromString('<b>x</b>', 'text/html')",
        "trustedTypes.createPolicy('rq-htmx', {createHTML: (x) => x})",
        "trustedTypes.createPolicy('other', {createHTML: (x) => x})",
        "setTimeout('document.title = 1')",
    ):
        refused = bench.evaluate(
            "(code) => { try { eval; const f = "
            + f"() => {{ {code} }}"
            + "; f(); return false } catch (e) { return e.name } }",
            code,
        )
        assert refused in ("TypeError", "EvalError"), code


def test_hostile_markup_is_text_and_htmx_leaves_content_alone(bench: Any) -> None:
    bench.wait_for_timeout(300)
    assert "onerror=alert(1)" in bench.inner_text(".content-text")
    assert bench.seen == []
    assert bench.said == []


def test_a_failed_request_becomes_a_notice(bench: Any) -> None:
    bench.click("#fail")
    bench.wait_for_selector("#notices .notice-refused")
    assert bench.inner_text("#part") == "before"


def test_htmx_sends_the_token(bench: Any) -> None:
    bench.fill("textarea", "hello")
    bench.click("text=Go")
    bench.wait_for_selector("text=sent")
    assert bench.seen == [{"text": "hello"}]


def test_a_key_presses_its_button(bench: Any) -> None:
    bench.wait_for_selector("#decision-form[data-ready]")
    bench.keyboard.press("1")
    bench.wait_for_url("**/bench/decide")
    assert bench.seen == ["approve"]


def test_keys_do_nothing_while_typing_held_or_with_a_modifier(bench: Any) -> None:
    bench.wait_for_selector("#decision-form[data-ready]")
    bench.focus("textarea")
    bench.keyboard.type("1gx?")
    bench.keyboard.press("Escape")
    for combination in ("Control+1", "Alt+1"):
        bench.keyboard.press(combination)
    bench.evaluate(
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: '1', repeat: true, bubbles: true}))"
    )
    bench.keyboard.press("x")
    bench.wait_for_timeout(200)
    assert bench.input_value("textarea") == "1gx?"
    assert bench.seen == []


def test_keys_wait_until_the_form_is_painted(bench: Any) -> None:
    bench.evaluate(
        """() => { const form = document.querySelector("#decision-form"); form.removeAttribute("data-ready");
        const press = () => document.dispatchEvent(new KeyboardEvent("keydown", {key: "1", bubbles: true}));
        press(); rq.wake(); press(); }"""
    )
    bench.wait_for_selector("#decision-form[data-ready]")
    bench.wait_for_timeout(200)
    assert bench.seen == []


def test_ctrl_enter_sends_the_form_in_focus(bench: Any) -> None:
    bench.focus("textarea")
    bench.keyboard.type("x")
    bench.keyboard.press("Control+Enter")
    bench.wait_for_selector("text=sent")
    assert bench.seen == [{"text": "x"}]


def test_slash_goes_to_the_search_and_j_k_walk_the_rows(bench: Any) -> None:
    bench.keyboard.press("/")
    assert bench.evaluate("document.activeElement.id") == "search"
    assert bench.input_value("#search") == ""
    bench.keyboard.press("Escape")
    focused = "document.activeElement.textContent"
    walked = []
    for key in "jjk":
        bench.keyboard.press(key)
        walked.append(bench.evaluate(focused))
    assert walked == ["one", "two", "one"]


def test_a_question_is_asked_first(bench: Any) -> None:
    bench.click("text=Delete")
    bench.wait_for_selector("#confirm[open]")
    assert bench.inner_text("[data-confirm-text]") == "Really?"
    bench.keyboard.press("Escape")
    bench.wait_for_selector("#confirm[open]", state="detached")
    assert bench.seen == []
    bench.keyboard.press("d")
    bench.click("#confirm [data-confirm-yes]")
    bench.wait_for_selector("text=sent")
    assert bench.seen == [{"text": "", "verdict": "delete"}]


def test_help_lists_the_keys_of_the_page(bench: Any, make: Make) -> None:
    bench.goto(make.sign_in_path(make.person("ada")))
    bench.goto("/bench")
    bench.keyboard.press("?")
    bench.wait_for_selector("#keys-help[open]")
    told = bench.inner_text("[data-keys-list]")
    for line in ("1", "Approve", "Go", "Search", "J / K", "Ctrl Enter"):
        assert line in told
    assert "Hidden" not in told


def test_without_script_everything_is_still_a_form(app: Flask, browser: Any, bench: Any, live: str) -> None:
    context = browser.new_context(base_url=live, java_script_enabled=False)
    still = context.new_page()
    still.goto("/bench")
    assert not still.is_visible("[data-copy]")
    still.click("#decision-form button")
    assert still.inner_text("p") == "decided"
    assert bench.seen == ["approve"]
    context.close()
