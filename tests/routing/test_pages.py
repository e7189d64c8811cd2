"""The pages of policies: what is in force, what changed, pausing, and the trial's form."""

from __future__ import annotations

from typing import Any

import pytest

from reviewqueue.db import db
from reviewqueue.models import Project
from tests.make import Make

pytestmark = pytest.mark.usefixtures("app")

RULE = {
    "name": "large refund",
    "when": [{"field": "output", "op": "contains", "value": "<b>refund</b>"}],
    "route": "review",
    "queue": "seniors",
}


@pytest.fixture
def project(make: Make) -> Any:
    """A project with three versions of its policy."""
    make.project(confidence_below=0.8, guidelines="Be *kind*. <script>alert(1)</script>")
    make.project(confidence_below=0.7, guidelines="Be *kind*. <script>alert(1)</script>")
    return make.project(confidence_below=0.7, rules=[RULE], guidelines="Be *kind*. <script>alert(1)</script>")


def test_policies_lists_the_projects_one_may_see(client: Any, make: Make, project: Any) -> None:
    for name in ("ada", "cleo", "aud"):
        page = client(make.person(name)).get("/policies").text
        assert 'href="/policies/support-replies"' in page
        assert "below 0.70" in page
    assert "support-replies" not in client(make.person("mallory")).get("/policies").text
    assert client(make.person("mallory")).get("/policies/support-replies").status_code == 404
    assert client().get("/policies").status_code == 303


def test_policy_says_what_is_in_force_and_what_each_version_changed(
    client: Any, make: Make, project: Any
) -> None:
    page = client(make.person("ada")).get("/policies/support-replies").text
    assert "its confidence is below 0.70" in page
    assert "large refund" in page
    assert "review in seniors" in page
    assert "confidence_below 0.8 → 0.7" in page
    assert "rule &#34;large refund&#34; added" in page
    assert "The first." in page
    assert page.count("<strong>Version ") == 3
    assert "<em>kind</em>" in page
    assert "<script>alert" not in page
    assert "<b>refund" not in page


def test_pause_and_resume_are_for_admins(client: Any, make: Make, project: Any) -> None:
    for name in ("ada", "cleo", "aud"):
        visitor = client(make.person(name))
        assert "/pause" not in visitor.get("/policies/support-replies").text
        assert visitor.send("/policies/support-replies/pause").status_code == 403
    dora = client(make.person("dora"))
    assert dora.send("/policies/support-replies/pause").status_code == 303
    assert db.session.get_one(Project, project.id).paused
    page = dora.get("/policies/support-replies").text
    assert "whatever the policy says" in page
    assert "/policies/support-replies/resume" in page
    assert make.item(project, confidence=0.99).status == "pending"
    assert dora.send("/policies/support-replies/resume").status_code == 303
    assert make.item(project, confidence=0.99).status == "released"
    assert dora.send("/policies/nobody/pause").status_code == 404


def test_trial_page_says_what_would_have_been(client: Any, make: Make, project: Any) -> None:
    ada = make.person("ada")
    for confidence in (0.2, 0.6, 0.9):
        item = make.item(project, confidence=confidence)
        if confidence == 0.6:
            make.decide(ada, item, "reject", None, "tone")
    lead = client(make.person("cleo"))
    path = "/policies/support-replies/trial"
    assert 'value="0.7"' in lead.get(path).text
    page = lead.get(f"{path}?below=0.5&above=&missing=review&items=1000").text
    assert (
        "With 0.50 instead of 0.70: 1 of 3 would have been reviewed, 1 error would have been released, "
        "of the ones we know." in page
    )
    assert "Nothing is known of the rest" in page
    page = lead.get(f"{path}?below=&above=&missing=review&items=1000").text
    assert "With none instead of 0.70: 3 of 3 would have been reviewed" in page


@pytest.mark.parametrize(
    "wrong",
    ["below=2", "below=x", "above=-1", "above=nan", "items=0", "items=5001", "items=x", "missing=maybe"],
)
def test_trial_page_keeps_what_was_typed_beside_the_message(
    client: Any, make: Make, project: Any, wrong: str
) -> None:
    asked = {"below": "0.5", "above": "", "missing": "review", "items": "100"}
    name, value = wrong.split("=")
    query = "&".join(f"{key}={text}" for key, text in (asked | {name: value}).items())
    answer = client(make.person("cleo")).get(f"/policies/support-replies/trial?{query}")
    assert answer.status_code == 422
    assert "field-error" in answer.text
    assert 'value="0.5"' in answer.text or name == "below"


def test_trial_page_is_for_those_who_oversee(client: Any, make: Make, project: Any) -> None:
    path = "/policies/support-replies/trial"
    assert client(make.person("aud")).get(path).status_code == 200
    assert client(make.person("ada")).get(path).status_code == 403
    assert "/trial" not in client(make.person("ada")).get("/policies/support-replies").text
    assert (
        "no items to try" in client(make.person("cleo")).get(f"{path}?below=0.5&items=10&missing=pass").text
    )
