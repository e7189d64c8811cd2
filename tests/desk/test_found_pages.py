"""Lists narrowed by what their address says: a queue's, and that of all items."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from reviewqueue.finding import catalogue
from reviewqueue.review.decide import undo

pytestmark = pytest.mark.sqlite  # what depends on the database is tested in tests/finding

QUEUE = "/queues/support-replies/main"


def shown(page: str) -> list[str]:
    """The outputs a list shows, in its order."""
    return re.findall(r'data-row><span dir="auto">([^<]*)', page)


def test_a_queue_is_narrowed_by_words_of_input_and_output(make: Any, client: Callable[..., Any]) -> None:
    project = make.project()
    make.item(project, output="A parcel <b>left</b>", input="Where is Zoë?", model="m-1")
    make.item(project, output="Buy tulips", model="m-2", prompt={"name": "p", "version": "2"})
    catalogue.index_due()
    ada = client(make.person("ada"))
    for query, expected in (
        ("text=zoe", ["A parcel &lt;b&gt;left&lt;/b&gt;"]), ("text=TULIPS&model=m-2", ["Buy tulips"]),
        ("text=tulips&model=m-1", []), ("prompt=p@2", ["Buy tulips"]), ("model=never+heard+of", []),
    ):  # fmt: skip
        page = ada.get(f"{QUEUE}?{query}").text
        assert shown(page) == expected, query
        assert f"{len(expected)} waiting" in page
    page = ada.get(f"{QUEUE}?text=tulips&model=m-2&sort=newest").text
    assert f'href="{QUEUE}?text=tulips&amp;sort=newest"' in page, "a filter is taken away by a link"
    make.item(project, output="Late tulips")
    assert "1 new item is not found yet" in ada.get(f"{QUEUE}?text=tulips").text


def test_a_reviewer_cannot_ask_a_queue_what_would_sway_them(make: Any, client: Callable[..., Any]) -> None:
    """Not by confidence or risk, which tell what is out already, nor by a verdict that was taken back."""
    project = make.project(undo_seconds=600)
    item = make.item(project, confidence=0.2, risk=0.9, risk_flags=["toxic"])
    ada = make.person("ada")
    undo(ada, make.decide(ada, item, "edit", "By camel.", "tone", note="nonsense").decision.id)
    catalogue.index_due()
    visitor = client(ada)
    for query in ("confidence_from=0.9", "risk_to=0.1", "flag=none", "status=released", "verdict=approve"):
        assert len(shown(visitor.get(f"{QUEUE}?{query}").text)) == 1, f"{query} means nothing here"
    for word in ("camel", "nonsense"):
        assert shown(visitor.get(f"{QUEUE}?text={word}").text) == []
    lead = client(make.person("cleo"))
    assert shown(lead.get(f"{QUEUE}?confidence_from=0.9").text) == []
    assert len(shown(lead.get(f"{QUEUE}?risk_from=0.9&flag=toxic").text)) == 1


def test_items_are_found_page_by_page(make: Any, client: Callable[..., Any]) -> None:
    project = make.project(confidence_below=0.8)
    for number in range(53):
        make.item(project, output=f"Parcel {number}", confidence=0.9 if number < 52 else 0.3)
    cleo = client(make.person("cleo"))
    assert "53 new items are not found yet" in cleo.get("/items?status=released").text
    catalogue.index_due()
    page = cleo.get("/items?status=released&text=parcel").text
    assert "52 found" in page
    assert shown(page) == [f"Parcel {number}" for number in range(51, 1, -1)]
    following = re.search(r'href="(/items\?[^"]*)" rel="next"', page)
    assert following
    assert shown(cleo.get(following[1].replace("&amp;", "&")).text) == ["Parcel 1", "Parcel 0"]
    page = cleo.get("/items?status=lost")
    assert (page.status_code, shown(page.text)) == (422, [])
    assert "Status is one of" in page.text
    assert "Nothing matches" in cleo.get("/items?text=nowhere").text
