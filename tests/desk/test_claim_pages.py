"""The reviewer's pages over plain HTTP, as a browser without script sees them."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.finding import catalogue
from reviewqueue.ids import new_id
from reviewqueue.models import Claim, Decision, Item, Review

OUTPUTS_EDITED: dict[str, dict[str, str]] = {
    "text": {"output": "Your parcel left our warehouse on Tuesday."},
    "markdown": {"output": "Your parcel left on **Tuesday**."},
    "json": {"output.total": "13.5"},
    "label": {"output": "delivery"},
    "chat": {"output": "It left on Tuesday."},
    "tool_call": {"output.arguments.amount": "25"},
}
CORRECTED: dict[str, Any] = {
    "text": "Your parcel left our warehouse on Tuesday.",
    "markdown": "Your parcel left on **Tuesday**.",
    "json": {"total": 13.5, "currency": "EUR"},
    "label": "delivery",
    "chat": [{"role": "assistant", "content": "It left on Tuesday."}],
    "tool_call": {"name": "refund", "arguments": {"order": "A-17", "amount": 25}},
}


def form_of(page: str, form_id: str = "decision-form") -> dict[str, str]:
    """The fields of a form as a browser would send them when nothing is touched."""
    body = re.search(rf'<form id="{form_id}".*?</form>', page, re.DOTALL)
    assert body, f"no form {form_id}"
    fields: dict[str, str] = {}
    for tag in re.findall(r"<input [^>]*>", body[0]):
        name, value = re.search(r'name="([^"]*)"', tag), re.search(r'value="([^"]*)"', tag)
        if name:
            fields[html.unescape(name[1])] = html.unescape(value[1]) if value else ""
    for name, text in re.findall(
        r'<textarea[^>]* name="([^"]*)"[^>]*>\n?(.*?)</textarea>', body[0], re.DOTALL
    ):
        fields[html.unescape(name)] = html.unescape(text).replace("\n", "\r\n")
    for name, options in re.findall(r'<select[^>]* name="([^"]*)"[^>]*>(.*?)</select>', body[0], re.DOTALL):
        chosen = re.search(r'value="([^"]*)" selected', options) or re.search(r'value="([^"]*)"', options)
        fields[html.unescape(name)] = html.unescape(chosen[1]) if chosen else ""
    return fields


def claimed(visitor: Any, queue: str = "/queues/support-replies/main") -> str:
    """Claim the next review of the queue and give its address."""
    answer = visitor.send(f"{queue}/claims")
    assert answer.status_code == 303, answer.text
    return str(answer.location)


def decided(visitor: Any, address: str, verdict: str, **fields: str) -> Any:
    """Send the form of the review page with a verdict, and with `fields` changed."""
    form = form_of(visitor.get(address).text)
    return visitor.post(f"{address}/decision", data={**form, "verdict": verdict, **fields})


@pytest.mark.parametrize("kind", list(OUTPUTS_EDITED))
def test_decide_edit_keeps_kind_and_types(kind: str, client: Any, make: Any) -> None:
    item = make.item(make.project(kind=kind))
    ada = client(make.person("ada"))
    address = claimed(ada)
    page = ada.get(address).text
    assert item.id in page
    answer = ada.post(
        f"{address}/decision",
        data={**form_of(page), **OUTPUTS_EDITED[kind], "verdict": "edit", "reason": "wrong fact"},
    )
    assert answer.status_code == 303, answer.text
    decision = db.session.scalars(select(Decision).where(Decision.item_id == item.id)).one()
    assert decision.verdict == "edit"
    assert decision.output == CORRECTED[kind]
    assert [type(part) for part in _leaves(decision.output)] == [
        type(part) for part in _leaves(CORRECTED[kind])
    ]


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for inner in value.values() for leaf in _leaves(inner)]
    return [leaf for inner in value for leaf in _leaves(inner)] if isinstance(value, list) else [value]


@pytest.mark.parametrize("kind", list(OUTPUTS_EDITED))
def test_decide_approve_sends_the_shown_output_back_unchanged(kind: str, client: Any, make: Any) -> None:
    item = make.item(make.project(kind=kind))
    ada = client(make.person("ada"))
    answer = decided(ada, claimed(ada), "approve")
    assert answer.status_code == 303, answer.text
    decision = db.session.scalars(select(Decision).where(Decision.item_id == item.id)).one()
    assert (decision.verdict, decision.output, decision.edited) == ("approve", item.output, False)


def test_claim_beyond_the_fifth_leads_to_those_that_are_held(client: Any, make: Any) -> None:
    project = make.project()
    items = [make.item(project) for _ in range(6)]
    ada = client(make.person("ada"))
    for _ in range(5):
        claimed(ada)
    for address in ("/queues/support-replies/main/claims", f"/items/{items[5].id}/claims"):
        answer = ada.send(address)
        assert (answer.status_code, answer.location) == (303, "/")
        assert "You hold 5 items; finish or release one." in ada.get("/").text


def test_claim_with_nothing_free_is_the_empty_page(client: Any, make: Any) -> None:
    make.project()
    answer = client(make.person("ada")).send("/queues/support-replies/main/claims")
    assert answer.status_code == 200
    assert "Nothing is waiting" in answer.text


def test_decide_goes_to_the_next_review_then_to_the_queue(client: Any, make: Any) -> None:
    project = make.project(undo_seconds=60)
    make.item(project)
    second = make.item(project, output="Another answer.")
    ada = client(make.person("ada"))
    first_address = claimed(ada)
    answer = decided(ada, first_address, "approve")
    assert answer.status_code == 303
    assert answer.location.startswith("/claims/")
    assert answer.location != first_address
    page = ada.get(answer.location).text
    assert second.id in page
    assert "/undo" in page
    answer = decided(ada, answer.location, "reject", reason="tone")
    assert answer.location == "/queues/support-replies/main"
    page = ada.get(answer.location).text
    assert "Nothing is waiting" in page
    assert "/undo" in page


def test_decide_offers_the_next_review_and_opening_it_holds_it(client: Any, make: Any) -> None:
    project = make.project()
    made = [make.item(project).id for _ in range(3)]
    ada, cleo = client(make.person("ada")), client(make.person("cleo"))

    def shown(visitor: Any, address: str) -> str:
        return str(re.search(r'data-item="(itm_\w+)"', visitor.get(address).text)[1])  # type: ignore[index]

    offered = decided(ada, claimed(ada), "approve").location
    taken = claimed(cleo)
    assert shown(cleo, taken) == made[1]
    onwards = ada.get(offered)
    assert onwards.status_code == 303
    assert shown(ada, onwards.location) == made[2]
    assert cleo.send("/queues/support-replies/main/claims").status_code == 200
    assert decided(cleo, taken, "approve").status_code == 303
    assert cleo.send("/queues/support-replies/main/claims").status_code == 200
    assert decided(ada, onwards.location, "approve").status_code == 303


def test_claim_after_a_decision_gives_the_offered_review_to_who_did_not_open_it(
    client: Any, make: Any
) -> None:
    project = make.project()
    made = [make.item(project).id for _ in range(3)]
    ada = client(make.person("ada"))
    given = []
    for _ in made:
        address = claimed(ada)
        page = ada.get(address).text
        given.append(re.search(r'data-item="(itm_\w+)"', page)[1])  # type: ignore[index]
        decided(ada, address, "approve")
    assert given == made


def test_decide_without_a_decision_id_decides_once(client: Any, make: Any) -> None:
    make.item(make.project())
    ada = client(make.person("ada"))
    address = claimed(ada)
    assert decided(ada, address, "approve", decision_id="").status_code == 303
    assert db.session.scalars(select(Decision.verdict)).all() == ["approve"]


def test_decide_refused_comes_back_filled_in(client: Any, make: Any) -> None:
    item = make.item(make.project())
    ada = client(make.person("ada"))
    address = claimed(ada)
    first = form_of(ada.get(address).text)
    typed = {"output": "Better so.\r\nAnd so.", "note": "as <b>agreed</b>", "cause": "prompt"}
    answer = ada.post(f"{address}/decision", data={**first, **typed, "verdict": "edit"})
    assert answer.status_code == 422
    back = form_of(answer.text)
    assert {name: back[name] for name in typed} == typed
    assert back["decision_id"] == first["decision_id"]
    assert "<b>agreed</b>" not in answer.text
    assert re.search(r'id="f-reason-error">.*?Choose a reason', answer.text, re.DOTALL)
    answer = ada.post(f"{address}/decision", data={**back, "verdict": "edit", "reason": "tone"})
    assert answer.status_code == 303
    decision = db.session.scalars(select(Decision).where(Decision.item_id == item.id)).one()
    assert decision.output == "Better so.\nAnd so."


def test_decide_without_a_verdict_is_refused(client: Any, make: Any) -> None:
    make.item(make.project())
    ada = client(make.person("ada"))
    answer = decided(ada, claimed(ada), "")
    assert answer.status_code == 422
    assert "Choose approve, edit or reject" in answer.text


def test_decide_approve_refuses_a_changed_output(client: Any, make: Any) -> None:
    make.item(make.project())
    ada = client(make.person("ada"))
    address = claimed(ada)
    answer = decided(ada, address, "approve", output="Something else.")
    assert answer.status_code == 422
    assert "Something else." in answer.text
    assert "press Edit" in answer.text.replace("Press", "press")
    assert db.session.scalars(select(Decision)).all() == []


def test_decide_approve_needs_no_output(client: Any, make: Any) -> None:
    item = make.item(make.project(kind="json"))
    ada = client(make.person("ada"))
    address = claimed(ada)
    form = form_of(ada.get(address).text)
    answer = ada.post(
        f"{address}/decision",
        data={"csrf_token": form["csrf_token"], "decision_id": form["decision_id"], "verdict": "approve"},
    )
    assert answer.status_code == 303, answer.text
    assert db.session.scalars(select(Decision.output).where(Decision.item_id == item.id)).one() == item.output


def test_decide_edit_takes_raw_json_instead_of_fields(client: Any, make: Any) -> None:
    item = make.item(make.project(kind="tool_call"))
    ada = client(make.person("ada"))
    address = claimed(ada)
    form = form_of(ada.get(address).text)
    raw = '{"name": "refund", "arguments": {"order": "A-17", "amount": 7.5}}'
    data = {name: form[name] for name in ("csrf_token", "decision_id")}
    answer = ada.post(
        f"{address}/decision", data={**data, "verdict": "edit", "output": raw, "reason": "format"}
    )
    assert answer.status_code == 303, answer.text
    output = db.session.scalars(select(Decision.output).where(Decision.item_id == item.id)).one()
    assert output == {"name": "refund", "arguments": {"order": "A-17", "amount": 7.5}}


def test_decide_sent_twice_gives_the_same_answer(client: Any, make: Any) -> None:
    make.item(make.project())
    ada = client(make.person("ada"))
    address = claimed(ada)
    data = {**form_of(ada.get(address).text), "verdict": "approve"}
    assert [ada.post(f"{address}/decision", data=data).status_code for _ in range(2)] == [303, 303]
    assert len(db.session.scalars(select(Decision)).all()) == 1


def lose_lease() -> None:
    with transaction() as session:
        session.execute(update(Review).values(lease_expires_at=now() - timedelta(seconds=1)))


def test_decide_twice_is_409_whatever_the_second_form_says(client: Any, make: Any) -> None:
    item = make.item(make.project())
    ada = client(make.person("ada"))
    address = claimed(ada)
    form = form_of(ada.get(address).text)
    first = {**form, "verdict": "edit", "output": "What I meant", "reason": "tone"}
    assert ada.post(f"{address}/decision", data=first).status_code == 303
    for fields in (
        {"verdict": "approve", "output": "What I meant"},
        {"verdict": "reject", "reason": ""},
        {"verdict": "edit", "output": form["output"], "reason": "tone"},
        {"verdict": "banana"},
    ):
        answer = ada.post(f"{address}/decision", data={**first, "decision_id": new_id("dec"), **fields})
        assert answer.status_code == 409, fields
        assert "Ada" in answer.text
    assert db.session.scalars(select(Decision.verdict).where(Decision.item_id == item.id)).all() == ["edit"]


def test_decide_after_somebody_else_did_is_409_and_sees_the_first(client: Any, make: Any) -> None:
    item = make.item(make.project())
    ada = client(make.person("ada"))
    address = claimed(ada)
    form = form_of(ada.get(address).text)
    lose_lease()
    make.decide(make.person("cleo"), item, "reject", reason="tone")
    answer = ada.post(
        f"{address}/decision", data={**form, "verdict": "edit", "output": "My long text", "reason": "tone"}
    )
    assert answer.status_code == 409
    assert "My long text" in answer.text
    assert "Cleo" in answer.text
    assert "reject" in answer.text
    drafts = db.session.scalars(select(Claim.draft).where(Claim.draft.is_not(None))).all()
    assert [draft["output"] for draft in drafts] == ["My long text"]


def test_keep_saves_the_draft_and_shows_it_again(client: Any, make: Any) -> None:
    make.item(make.project())
    ada = client(make.person("ada"))
    address = claimed(ada)
    token = ada.csrf()
    answer = ada.put(address, data={"csrf_token": token, "output": "half a thought", "note": "ask Cleo"})
    assert answer.status_code == 200
    assert "Draft saved" in answer.text
    assert "<html" not in answer.text
    form = form_of(ada.get(address).text)
    assert (form["output"], form["note"]) == ("half a thought", "ask Cleo")
    assert (
        form_of(ada.get(f"{address}?fresh=1").text)["output"] == "Your parcel left our warehouse on Monday."
    )


def test_keep_a_mere_heartbeat_keeps_no_draft(client: Any, make: Any) -> None:
    item = make.item(make.project())
    ada = client(make.person("ada"))
    address = claimed(ada)
    answer = ada.put(address, data={"output": item.output, "note": ""}, headers={"X-CSRFToken": ada.csrf()})
    assert answer.status_code == 200
    assert "Draft saved" not in answer.text
    assert db.session.scalars(select(Claim.draft)).all() == [None]
    assert "Your draft" not in ada.get(address).text


def test_keep_after_the_lease_was_lost_is_409_with_the_draft_kept(client: Any, make: Any) -> None:
    item = make.item(make.project())
    ada, cleo = client(make.person("ada")), make.person("cleo")
    address = claimed(ada)
    lose_lease()
    make.claim(cleo, item)
    answer = ada.put(address, data={"csrf_token": ada.csrf(), "output": "half a thought"})
    assert answer.status_code == 409
    assert "half a thought" in answer.text
    assert "Cleo" in answer.text
    page = ada.get(address)
    assert page.status_code == 409
    assert "half a thought" in page.text


def test_keep_without_a_token_is_refused(client: Any, make: Any) -> None:
    make.item(make.project())
    ada = client(make.person("ada"))
    assert ada.put(claimed(ada), data={"output": "x"}).status_code == 400


def test_pages_of_a_claim_belong_to_its_holder(client: Any, make: Any) -> None:
    make.item(make.project())
    address = claimed(client(make.person("ada")))
    cleo = client(make.person("cleo"))
    assert cleo.get(address).status_code == 404
    assert cleo.send(f"{address}/decision", {"verdict": "approve"}).status_code == 404
    assert client(make.person("mallory")).get("/queues/support-replies/main").status_code == 404
    assert client(make.person("mallory")).send("/queues/support-replies/main/claims").status_code == 404


def test_claim_of_a_held_item_says_who_has_it(client: Any, make: Any) -> None:
    item = make.item(make.project())
    make.claim(make.person("cleo"), item)
    answer = client(make.person("ada")).send(f"/items/{item.id}/claims")
    assert answer.status_code == 409
    assert "Cleo" in answer.text


def test_skip_release_and_escalation_end_the_claim(client: Any, make: Any) -> None:
    rule = {"name": "seniors", "when": [{"field": "risk", "op": "gt", "value": 0.9}], "route": "review"}
    item = make.item(make.project(rules=[rule | {"queue": "seniors"}]))
    ada = client(make.person("ada"))
    answer = ada.send(f"{claimed(ada)}/release")
    assert (answer.status_code, answer.location) == (303, "/queues/support-replies/main")
    answer = ada.send(f"{claimed(ada)}/escalation", {"queue": "seniors", "note": "Our price?"})
    assert answer.status_code == 303
    cleo = client(make.person("cleo"))
    address = claimed(cleo, "/queues/support-replies/seniors")
    assert "Our price?" in cleo.get(address).text
    answer = cleo.send(f"{address}/skip", {"reason": "busy", "until": "2001-01-01T00:00:00Z"})
    assert answer.status_code == 422
    answer = cleo.send(f"{address}/skip", {"reason": "busy", "until": "+2h"})
    assert answer.status_code == 303
    answer = cleo.send("/queues/support-replies/seniors/claims")
    assert answer.status_code == 200
    assert item.id not in answer.text


def test_undo_returns_to_the_item_with_its_text(client: Any, make: Any) -> None:
    item = make.item(make.project(kind="tool_call", undo_seconds=60))
    ada = client(make.person("ada"))
    decided(ada, claimed(ada), "edit", reason="tone", **{"output.arguments.amount": "25"})
    decision = db.session.scalars(select(Decision)).one()
    answer = ada.send(f"/decisions/{decision.id}/undo")
    assert answer.status_code == 303
    form = form_of(ada.get(answer.location).text)
    assert (form["output.arguments.amount"], form["reason"]) == ("25", "tone")
    answer = decided(ada, answer.location, "edit")
    assert answer.status_code == 303
    outputs = db.session.scalars(select(Decision.output).where(Decision.undone_at.is_(None))).all()
    assert outputs == [{"name": "refund", "arguments": {"order": "A-17", "amount": 25}}]
    assert db.session.get_one(Item, item.number).status == "decided"


def test_review_page_of_a_control_sample_looks_like_any_other(client: Any, make: Any) -> None:
    project = make.project(control_rate=1.0, confidence_below=0.8)
    make.item(project, confidence=0.3, risk=0.123, output="One answer.")
    released = make.item(project, confidence=0.99, risk=0.123, output="One answer.")
    assert released.status == "released"
    ada = client(make.person("ada"))
    pages = []
    for _ in range(2):
        address = claimed(ada)
        text = ada.get(address).text
        body = text[text.index("<main") : text.index("</main>")]
        pages.append(
            re.sub(
                r"itm_\w+|dec_\w+|/claims/[\w-]+|value=\"I[\w.-]+\"|<time.*?</time>|data-left=\"\d+\"",
                "",
                body,
            )
        )
    assert pages[0] == pages[1]
    for word in ("0.99", "0.123", "released", "control"):
        assert word not in pages[1]
    item_page = ada.get(f"/items/{released.id}").text
    assert "released" not in item_page
    assert "control_sample" not in item_page
    lead_page = client(make.person("cleo")).get(f"/items/{released.id}").text
    assert "released" in lead_page
    assert "control_sample" in lead_page


def test_reviews_are_blind_until_all_are_given(client: Any, make: Any) -> None:
    item = make.item(make.project(reviews=2))
    ada, cleo, dora = (client(make.person(name)) for name in ("ada", "cleo", "dora"))
    decided(ada, claimed(ada), "reject", reason="unsafe", note="a secret remark")
    address = claimed(cleo)
    for page in (
        cleo.get(address).text,
        cleo.get(f"/items/{item.id}").text,
        dora.get(f"/items/{item.id}").text,
    ):
        assert "a secret remark" not in page
        assert "Reason: unsafe" not in page
    decided(cleo, address, "approve")
    address = claimed(dora, "/queues/support-replies/adjudication")
    page = dora.get(address).text
    assert "a secret remark" in page
    assert "did not agree" in page
    decided(dora, address, "reject", reason="unsafe")
    assert "unsafe" in ada.get(f"/items/{item.id}").text


def test_why_names_rules_that_asked_for_a_review(client: Any, make: Any) -> None:
    when = [{"field": "output", "op": "contains", "value": "Monday"}]
    make.item(make.project(rules=[{"name": "mentions a day", "when": when, "route": "review"}]))
    ada = client(make.person("ada"))
    assert "mentions a day" in html.unescape(ada.get(claimed(ada)).text)


def test_override_supersedes_and_comes_back_filled_in_when_refused(client: Any, make: Any) -> None:
    item = make.item(make.project())
    make.decide(make.person("ada"), item)
    cleo = client(make.person("cleo"))
    path = f"/items/{item.id}"
    form = form_of(cleo.get(path).text, "override-form")
    answer = cleo.post(f"{path}/overrides", data={**form, "verdict": "edit", "output": "No, Friday."})
    assert answer.status_code == 422
    assert form_of(answer.text, "override-form")["output"] == "No, Friday."
    form = form_of(answer.text, "override-form")
    answer = cleo.post(f"{path}/overrides", data={**form, "verdict": "edit", "reason": "wrong fact"})
    assert (answer.status_code, answer.location) == (303, path)
    page = cleo.get(path).text
    assert "superseded" in page
    assert "override" in page
    assert "override-form" not in client(make.person("ada")).get(path).text
    assert client(make.person("ada")).send(f"{path}/overrides", {"verdict": "approve"}).status_code == 403


def test_queue_list_filters_sorts_and_pages_by_the_address(client: Any, make: Any) -> None:
    project = make.project()
    items = [make.item(project, output=f"Answer {n:02}.") for n in range(53)]
    ada = client(make.person("ada"))
    path = "/queues/support-replies/main"
    page = ada.get(path).text
    assert page.count("data-row") == 50
    after = html.unescape(re.search(r'href="([^"]*cursor=[^"]*)"', page)[1])  # type: ignore[index]
    rest = ada.get(after).text
    assert rest.count("data-row") == 3
    assert items[52].id in rest
    newest = ada.get(f"{path}?sort=newest").text
    assert newest.index(items[52].id) < newest.index(items[51].id)
    catalogue.index_due()
    found = ada.get(f"{path}?text=Answer+07").text
    assert found.count("data-row") == 1
    assert items[7].id in found
    for bad in ("priority=very", "sort=output", "age=x", "claimed=maybe", "cursor=zzz"):
        assert ada.get(f"{path}?{bad}").status_code == 422, bad
    assert ada.get(f"{path}?order_by=output").text.count("data-row") == 50


def test_desk_counts_and_resumes(client: Any, make: Any) -> None:
    project = make.project()
    for n in range(3):
        make.item(project, output=f"Answer {n}.")
    ada = client(make.person("ada"))
    address = claimed(ada)
    page = ada.get("/").text
    assert f'href="{address}"' in page
    assert "Resume" in page
    assert re.search(r'data-label="Waiting">\s*2\b', page)
    assert "support-replies/main" in page
    aud = client(make.person("aud"))
    assert "/claims" not in aud.get("/").text
    assert aud.send("/queues/support-replies/main/claims").status_code == 403


def test_desk_when_empty_shows_how_to_begin(client: Any, make: Any) -> None:
    dora = client(make.person("dora"))
    page = dora.get("/").text
    assert "curl" in page
    assert "/api/v1/items" in page
    assert "/samples" in page
    assert "/samples" not in client(make.person("ada")).get("/").text
    answer = dora.send("/samples")
    assert answer.status_code == 303
    page = dora.get("/").text
    assert "support-replies" in page
    assert "refund-agent" in page
    count = db.session.scalar(select(func.count()).select_from(Item))
    dora.send("/samples")
    assert db.session.scalar(select(func.count()).select_from(Item)) == count
    assert client(make.person("ada")).send("/samples").status_code == 403


HOSTILE = '<img src=x onerror="document.title=1"><script>alert(1)</script>\u202egnp.exe'


@pytest.mark.parametrize("kind", ["text", "markdown", "json", "chat", "tool_call"])
def test_hostile_content_is_text_on_every_page(kind: str, client: Any, make: Any) -> None:
    outputs: dict[str, Any] = {
        "text": HOSTILE,
        "markdown": HOSTILE,
        "json": {HOSTILE: HOSTILE},
        "chat": [{"role": "assistant", "content": HOSTILE}],
        "tool_call": {"name": HOSTILE, "arguments": {HOSTILE: HOSTILE}},
    }
    passage = {"title": HOSTILE, "text": HOSTILE, "url": 'https://example.org/"><script>'}
    item = make.item(
        make.project(kind=kind), output=outputs[kind], input={HOSTILE: HOSTILE}, context=[passage],
        external_id="<script>x", model=HOSTILE, metadata={HOSTILE: HOSTILE}, samples=[outputs[kind]],
    )  # fmt: skip
    ada, cleo = client(make.person("ada")), client(make.person("cleo"))
    pages = [ada.get("/queues/support-replies/main").text, cleo.get(f"/items/{item.id}").text]
    address = claimed(ada)
    pages += [ada.get(address).text, ada.get("/").text]
    form = form_of(pages[2])
    pages.append(ada.post(f"{address}/changes", data=form).text)
    for page in pages:
        main = page[page.index("<main") :]
        assert "<img" not in main
        assert "<script>" not in main
        assert "U+202E" in page or "\u202e" not in re.sub(
            r"<textarea.*?</textarea>|<(input|option)[^>]*>", "", main
        )
    assert decided(ada, address, "approve").status_code == 303


def test_decide_refused_shows_the_text_again_and_leaves_the_draft_alone(client: Any, make: Any) -> None:
    make.item(make.project(kind="json"))
    ada = client(make.person("ada"))
    address = claimed(ada)
    refused = decided(ada, address, "edit", reason="tone", **{"output.total": "nonsense"})
    assert refused.status_code == 422
    assert form_of(refused.text)["output.total"] == "nonsense"
    assert form_of(ada.get(address).text)["output.total"] == "12.5"
    token = {"csrf_token": form_of(refused.text)["csrf_token"]}
    assert ada.put(address, data={**token, "output.total": "14"}).status_code == 200
    assert decided(ada, address, "edit", **{"output.total": "nonsense"}).status_code == 422
    assert form_of(ada.get(address).text)["output.total"] == "14"


def test_decide_a_form_sent_before_with_other_content_shows_the_text(client: Any, make: Any) -> None:
    project = make.project()
    make.item(project)
    make.item(project, output="Another one.")
    ada = client(make.person("ada"))
    address = claimed(ada)
    used = form_of(ada.get(address).text)["decision_id"]
    following = decided(ada, address, "approve", decision_id=used).location
    answer = decided(ada, following, "edit", output="My text", reason="tone", decision_id=used)
    assert answer.status_code == 409
    assert "My text" in answer.text
    assert form_of(ada.get(following).text)["output"] == "My text"


def test_what_the_guidelines_say_of_a_reason_is_linked_without_script(client: Any, make: Any) -> None:
    project = make.project(guidelines="*tone*: curt & blaming.", reasons=["format", "tone"])
    item, ada = make.item(project), client(make.person("ada"))
    address = claimed(ada)
    page = ada.get(address).text
    assert '<em id="guideline-2">' in page
    assert re.search(r'data-guide="tone">.*curt &amp; blaming\..*href="#guideline-2"', page)
    decided(ada, address, "reject", reason="tone")
    link = '<a href="/policies/support-replies#guideline-2">tone</a>'
    assert link in ada.get(f"/items/{item.id}").text
    assert '<em id="guideline-2">' in ada.get("/policies/support-replies").text


def test_a_free_key_comes_and_is_renamed_without_script(client: Any, make: Any) -> None:
    item, ada = make.item(make.project(kind="json"), output={"total": 12.5}), client(make.person("ada"))
    address = claimed(ada)
    form = form_of(ada.get(address).text)
    typed = form | {"output.total": "13", "new.output": "total", "kind.output": "list", "do": "new output"}
    page = ada.post(f"{address}/shape", data=typed).text
    assert "There is a key of this name already." in page
    form = form_of(page)
    assert (form["new.output"], form["kind.output"], form["output.total"]) == ("total", "list", "13")
    page = ada.post(f"{address}/shape", data=form | {"new.output": "<b>", "do": "new output"}).text
    assert "<b>" not in page
    form = form_of(page)
    page = ada.post(
        f"{address}/shape", data=form | {"kind.output.<b>": "number", "do": "add output.<b>"}
    ).text
    form = form_of(page) | {"output.<b>.0": "7", "name.output.<b>": "tax", "do": "rename output.<b>"}
    form = form_of(ada.post(f"{address}/shape", data=form).text)
    assert form["output.tax.0"] == "7"
    sent = form | {"verdict": "edit", "reason": "format"}
    assert ada.post(f"{address}/decision", data=sent).status_code == 303
    output = db.session.scalars(select(Decision.output).where(Decision.item_id == item.id)).one()
    assert output == {"total": 13.0, "tax": [7]}


def test_a_call_keeps_its_name_and_arguments(client: Any, make: Any) -> None:
    make.item(make.project(kind="tool_call"))
    ada = client(make.person("ada"))
    address = claimed(ada)
    page = ada.get(address).text
    assert 'value="new output.arguments"' in page
    assert 'value="new output"' not in page
    assert "remove output.arguments" not in page.replace("remove output.arguments.", "")
    form = form_of(page) | {"new.output": "extra", "do": "new output"}
    assert "There is no such place" in ada.post(f"{address}/shape", data=form).text
