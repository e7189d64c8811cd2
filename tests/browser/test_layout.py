"""The pages of people in a real browser: nothing sticks out, is too small to touch, or is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.make import Make

pytestmark = pytest.mark.sqlite

PATHS = (
    "/account", "/account/password", "/people", "/people/{ada}", "/backends", "/backends/shop",
    "/leave?to=https://example.org/" + "long" * 60, "/nothing",
)  # fmt: skip
SMALL = """() => [...document.querySelectorAll("button, .button, .app-nav a, select, textarea, input")]
    .filter((e) => e.checkVisibility() && !e.matches("[type=checkbox], [type=radio], [type=hidden]"))
    .filter((e) => e.getBoundingClientRect().height < 43.9).map((e) => e.outerHTML.slice(0, 90))"""


@pytest.fixture
def paths(make: Make) -> tuple[str, ...]:
    """Pages with long names and real rows on them."""
    project = make.project("a-project-with-quite-a-long-name-for-a-narrow-screen")
    make.backend(project, "shop", callback="http://127.0.0.1:9/" + "a-long-path/" * 12)
    make.person("somebody.with.a.very.long.address.indeed.yes.really", "lead")
    return tuple(path.format(ada=make.person("ada").id) for path in PATHS)


@pytest.fixture
def window(browser: Any, live: str, make: Make) -> Iterator[Any]:
    """A window in which Dora is signed in; `.said` holds whatever the browser complained about."""
    context = browser.new_context(base_url=live)
    page = context.new_page()
    page.said = []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("request", lambda request: request.url.startswith(live) or page.said.append(request.url))
    page.goto(make.sign_in_path(make.person("dora")))
    yield page
    context.close()


@pytest.mark.parametrize("width", [360, 640, 1024, 1440, 2560])
def test_nothing_sticks_out_of_the_page(width: int, window: Any, paths: tuple[str, ...]) -> None:
    window.set_viewport_size({"width": width, "height": 800})
    for path in ("/login", *paths):
        window.goto(path)
        assert window.evaluate("document.documentElement.scrollWidth") <= width, path
        assert width > 640 or window.evaluate(SMALL) == [], path
    assert [text for text in window.said if "404" not in text] == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_chosen_theme_beats_the_device(theme: str, window: Any) -> None:
    window.emulate_media(color_scheme="dark" if theme == "light" else "light")
    window.goto("/account")
    window.check(f"input[value={theme}]")
    window.click("text=Use this look")
    window.wait_for_selector(f"html[data-theme={theme}]")
    ground = window.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground.removeprefix("rgb(").split(",")[0]) > 128) is (theme == "light")


def test_a_person_is_added_with_the_keyboard_alone(window: Any) -> None:
    window.goto("/people")
    window.focus("#f-email")
    window.keyboard.type("eve@example.org")
    window.keyboard.press("Tab")
    window.keyboard.type("Eve")
    window.keyboard.press("Control+Enter")
    window.wait_for_selector("text=Sign-in link for Eve")
    window.click("text=Copy")
    assert window.said == []


def test_a_link_outside_opens_without_a_trace_of_us(window: Any) -> None:
    window.context.route(
        "https://example.org/**", lambda route: route.fulfill(body="there", content_type="text/plain")
    )
    window.goto("/leave?to=https://example.org/x")
    asked = []
    window.context.on("request", lambda request: asked.append(request))
    with window.context.expect_page() as opened:
        window.click("text=Open it in a new tab")
    opened.value.wait_for_load_state()
    (request,) = [request for request in asked if "example.org" in request.url]
    assert "referer" not in request.all_headers()
    assert opened.value.evaluate("window.opener") is None
