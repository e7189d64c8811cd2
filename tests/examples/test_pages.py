"""The pages of examples: who sees what, comparing, promoting by a second person, and hostile content."""

from __future__ import annotations

import re
from typing import Any

import pytest

from reviewqueue.db import db
from reviewqueue.models import Example
from tests.examples.conftest import Teach
from tests.make import Make

pytestmark = pytest.mark.usefixtures("app")

PARCEL = "Where is the parcel that I ordered last Monday?"
HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(2)>\u202egnp.exe ![x](https://evil.example/x.png)"
)


def shown(page: str) -> list[str]:
    return re.findall(r'data-row[^>]*href="/examples/(exa_\w+)"', page)


def state(example: Example) -> str:
    db.session.rollback()
    return db.session.get_one(Example, example.id).state


def test_examples_lists_what_one_may_see_newest_first(
    client: Any, make: Make, proposed: Teach, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [proposed(f"{PARCEL} {number}", "At the depot.").id for number in range(5)]
    monkeypatch.setattr("reviewqueue.lists.PAGE", 2)
    for name in ("ada", "cleo", "aud"):
        visitor, seen = client(make.person(name)), []
        address: str | None = "/examples"
        while address:
            page = visitor.get(address).text
            seen += shown(page)
            found = re.search(r'href="([^"]+)" rel="next"', page)
            address = found[1].replace("&amp;", "&") if found else None
        assert seen == made[::-1]
    assert shown(client(make.person("mallory")).get("/examples").text) == []
    assert client().get("/examples").status_code == 303


def test_examples_offers_to_promote_what_is_not_ones_own(
    client: Any, make: Make, proposed: Teach, active: Teach
) -> None:
    waiting, used = proposed(PARCEL, "At the depot."), active("How do I return it?", "Use the label.")

    def offered(name: str) -> list[str]:
        page = client(make.person(name)).get("/examples").text
        return sorted(re.findall(r'<form method="post" action="/examples/(exa_\w+/\w+)"', page))

    mine = {f"{waiting.id}/retirement", f"{used.id}/retirement"}
    assert offered("cleo") == sorted({*mine, f"{waiting.id}/promotion"})
    assert offered("ada") == []
    assert offered("aud") == []
    visitor = client(make.person("cleo"))
    assert visitor.send(f"/examples/{waiting.id}/promotion").status_code == 303
    assert state(waiting) == "active"


def test_examples_filters_by_project_state_and_reason(
    client: Any, make: Make, project: Any, proposed: Teach, active: Teach
) -> None:
    other = make.project("other", undo_seconds=0)
    waiting = proposed(PARCEL, "At the depot.", reason="tone").id
    used = active("How do I return it?", "Use the label.", reason="wrong fact").id
    elsewhere = proposed(PARCEL, "At the depot.", project=other, reason="tone").id
    visitor = client(make.person("ada"))
    for query, expected in {
        "": [elsewhere, used, waiting],
        "project=other": [elsewhere],
        "state=active": [used],
        "reason=tone": [elsewhere, waiting],
        f"project={project.name}&state=proposed&reason=tone": [waiting],
        "reason=nothing+of+the+kind": [],
    }.items():
        assert shown(visitor.get(f"/examples?{query}").text) == expected, query
    for query in ("project=none", "state=lost", "cursor=itm_1", "cursor=%00"):
        assert visitor.get(f"/examples?{query}").status_code == 422


def test_example_is_missing_for_who_sees_none_of_its_queues(
    client: Any, make: Make, project: Any, proposed: Teach
) -> None:
    example = proposed(PARCEL, "At the depot.")
    mallory = client(make.person("mallory"))
    assert mallory.get(f"/examples/{example.id}").status_code == 404
    assert mallory.get(f"/examples/projects/{project.name}").status_code == 404
    assert client(make.person("ada")).get("/examples/exa_none").status_code == 404


def test_example_compares_word_by_word(client: Any, make: Make, proposed: Teach) -> None:
    example = proposed(PARCEL, "It waits at the depot.", "It waits at the harbour.", note="Checked by phone")
    page = client(make.person("ada")).get(f"/examples/{example.id}").text
    assert "<del>harbour</del><ins>depot</ins>" in page
    assert "Checked by phone" in page
    assert PARCEL in page


def test_example_of_a_reject_says_that_it_has_no_other_output(
    client: Any, make: Make, proposed: Teach
) -> None:
    example = proposed(PARCEL, None, "Go away.")
    page = client(make.person("ada")).get(f"/examples/{example.id}").text
    assert "what not to say" in page
    assert "<ins>" not in page


def test_example_content_is_inert(client: Any, make: Make, project: Any, active: Teach) -> None:
    example = active(HOSTILE, HOSTILE + " Better.", HOSTILE + " Worse.", note=HOSTILE)
    visitor = client(make.person("cleo"))
    pages = [visitor.get("/examples").text, visitor.get(f"/examples/{example.id}").text]
    pages.append(
        visitor.send(
            f"/examples/projects/{project.name}/search", {"input": HOSTILE, "k": "5", "max_tokens": "1500"}
        ).text
    )
    for page in pages:
        assert "&lt;script&gt;alert(1)" in page
        assert "<script>alert" not in page
        assert "<img" not in page
        typed = re.sub(r"<textarea.*?</textarea>", "", page, flags=re.DOTALL)
        assert "\u202e" not in typed


def test_promotion_is_for_a_lead_who_is_not_the_author(client: Any, make: Make, proposed: Teach) -> None:
    by_ada = proposed(PARCEL, "At the depot.")
    by_cleo = proposed("How do I return it?", "Use the label.", by=make.person("cleo"))
    form = "/examples/{}/promotion"
    for name in ("ada", "aud"):
        visitor = client(make.person(name))
        assert form.format(by_ada.id) not in visitor.get(f"/examples/{by_ada.id}").text
        assert visitor.send(form.format(by_ada.id)).status_code == 403
    cleo = client(make.person("cleo"))
    own = cleo.get(f"/examples/{by_cleo.id}").text
    assert form.format(by_cleo.id) not in own
    assert "somebody else must promote it" in own
    assert cleo.send(form.format(by_cleo.id)).status_code == 403
    assert (state(by_ada), state(by_cleo)) == ("proposed", "proposed")

    assert f'action="{form.format(by_ada.id)}"' in cleo.get(f"/examples/{by_ada.id}").text
    answer = cleo.send(form.format(by_ada.id))
    assert (answer.status_code, answer.location) == (303, f"/examples/{by_ada.id}")
    assert state(by_ada) == "active"
    assert "Promoted" in cleo.get(f"/examples/{by_ada.id}").text
    assert cleo.send(form.format(by_ada.id)).status_code == 409


def test_retirement_takes_an_example_out(client: Any, make: Make, active: Teach) -> None:
    example = active(PARCEL, "At the depot.")
    path = f"/examples/{example.id}/retirement"
    assert client(make.person("ada")).send(path).status_code == 403
    assert state(example) == "active"
    assert client(make.person("dora")).send(path).status_code == 303
    assert state(example) == "retired"


def test_promotion_needs_the_token_of_a_form(client: Any, make: Make, proposed: Teach) -> None:
    example = proposed(PARCEL, "At the depot.")
    assert client(make.person("cleo")).post(f"/examples/{example.id}/promotion").status_code in (400, 403)
    assert client(make.person("cleo")).get(f"/examples/{example.id}/promotion").status_code == 405
    assert state(example) == "proposed"


def test_contradictions_and_near_copies_are_pointed_out(client: Any, make: Make, active: Teach) -> None:
    one, two = active(PARCEL, "At the depot."), active(PARCEL, "In the van.")
    copy = active(PARCEL + " Monday!", "At the depot.")
    visitor = client(make.person("ada"))
    assert visitor.get("/examples").text.count(">contradicts<") == 2
    page = visitor.get(f"/examples/{one.id}").text
    assert "contradicts another example" in page
    assert f'href="/examples/{two.id}"' in page
    page = visitor.get(f"/examples/{copy.id}").text
    assert "Nearly the same input" in page
    assert "contradicts another" not in page


def test_project_page_searches_as_a_backend_would(
    client: Any, make: Make, project: Any, active: Teach
) -> None:
    example = active(PARCEL, "It waits at the depot.")
    visitor = client(make.person("ada"))
    path = f"/examples/projects/{project.name}"
    assert "newest set" in visitor.get(path).text
    asked = {"input": PARCEL, "k": "5", "max_tokens": "1500"}
    page = visitor.send(f"{path}/search", asked).text
    assert example.id in page
    assert "It waits at the depot." in page
    assert "No active example" in visitor.send(f"{path}/search", asked | {"input": "Bonjour"}).text
    for wrong in ({"k": "0"}, {"k": "x"}, {"max_tokens": "-1"}, {"input": " "}):
        answer = visitor.send(f"{path}/search", asked | wrong)
        assert answer.status_code == 422
        assert "field-error" in answer.text


def test_project_page_exports_for_who_may(client: Any, make: Make, project: Any, active: Teach) -> None:
    active(PARCEL, "At the depot.")
    path = f"/examples/projects/{project.name}"
    lead = client(make.person("cleo"))
    assert f"{path}/exports" in lead.get(path).text
    answer = lead.send(f"{path}/exports", {"format": "dpo"})
    assert '"chosen":"At the depot."' in answer.text
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{project.name}-dpo.jsonl"'
    assert lead.send(f"{path}/exports", {"format": "xlsx"}).status_code == 422
    for name in ("ada", "aud"):
        visitor = client(make.person(name))
        assert f"{path}/exports" not in visitor.get(path).text
        assert visitor.send(f"{path}/exports", {"format": "dpo"}).status_code == 403
