"""The page of figures: who may read it, which project and period, and that names stay text."""

from __future__ import annotations

from typing import Any

import pytest

from tests.make import Make

pytestmark = pytest.mark.usefixtures("app")


def test_insight_is_for_those_who_oversee(client: Any, make: Make) -> None:
    make.project()
    for name in ("cleo", "dora", "aud"):
        assert client(make.person(name)).get("/insight").status_code == 200
    for name in ("ada", "mallory"):
        assert client(make.person(name)).get("/insight").status_code == 403
    assert client().get("/insight").status_code == 303


def test_insight_shows_counts_with_their_shares(client: Any, make: Make) -> None:
    project = make.project(confidence_below=0.1, control_rate=1.0, undo_seconds=0)
    ada = make.person("ada")
    for verdict in ("approve", "approve", "reject", "approve"):
        make.decide(ada, make.item(project, confidence=0.9), verdict, None, "tone")
    page = client(make.person("cleo")).get("/insight").text
    assert "<strong>1 of 4</strong> released outputs in the control sample were wrong: 25.0 %" in page
    assert 'class="chart-bad" width="25.00"' in page
    assert "style=" not in page


def test_insight_says_what_is_not_known(client: Any, make: Make) -> None:
    project = make.project(confidence_below=0.1, control_rate=0.0)
    make.item(project, confidence=0.9)
    page = client(make.person("cleo")).get("/insight").text
    assert "how many are wrong is not known" in page
    assert "Nothing to compare" in page


def test_insight_of_the_chosen_project_and_period(client: Any, make: Make) -> None:
    make.item(make.project("one"))
    make.project("two")
    visitor = client(make.person("cleo"))
    assert "Where they went" in visitor.get("/insight?project=one&days=7").text
    assert "Nothing was submitted" in visitor.get("/insight?project=two").text
    for query in ("project=three", "days=8", "days=x"):
        assert visitor.get(f"/insight?{query}").status_code == 422


def test_insight_without_a_project_is_an_empty_page(client: Any, make: Make) -> None:
    assert "No project yet" in client(make.person("cleo")).get("/insight").text


def test_insight_shows_an_arm_as_text(client: Any, make: Make) -> None:
    project = make.project(undo_seconds=0)
    make.decide(make.person("ada"), make.item(project, arm="<b>arm</b>"))
    page = client(make.person("cleo")).get("/insight").text
    assert "&lt;b&gt;arm" in page
    assert "<b>arm" not in page
