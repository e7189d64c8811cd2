"""What a search serves: near active examples, never a contradiction, a near-copy or the item's own."""

from __future__ import annotations

from typing import Any

import pytest

from reviewqueue.examples.collect import retire
from reviewqueue.examples.retrieve import contradictions, learn_decided, near_copies, nearest_decided, search
from reviewqueue.review.settle import override
from tests.examples.conftest import Teach
from tests.make import Make

pytestmark = pytest.mark.usefixtures("base")

PARCEL = "Where is the parcel that I ordered last Monday morning?"
RETURNS = "How can somebody return a bicycle too small for them?"
INVOICE = "Please send our invoice to Lyon instead."


def ids(project: Any, asked: Any, *rest: Any, **options: Any) -> list[str]:
    return [example["id"] for example in search(project, asked, *rest, **options).examples]


def test_search_serves_the_nearest_first_with_messages(project: Any, active: Teach) -> None:
    parcel, returns = active(PARCEL, "At the depot."), active(RETURNS, "Use the label.")
    served = search(project, "Where is my parcel? I ordered it last Monday.")
    assert [example["id"] for example in served.examples] == [parcel.id]
    assert (served.set, served.arm) == (2, "examples")
    assert served.set_id is not None
    first = served.examples[0]
    assert (first["output"], first["rejected_output"], first["reason"]) == (
        "At the depot.",
        "I do not know.",
        "tone",
    )
    assert 0 < first["score"] <= 1
    assert served.messages == [
        {"role": "user", "content": PARCEL},
        {"role": "assistant", "content": "At the depot."},
    ]
    both = ids(project, f"{PARCEL} {RETURNS}")
    assert sorted(both) == sorted([parcel.id, returns.id])


def test_search_serves_only_what_was_promoted(project: Any, proposed: Teach) -> None:
    proposed(PARCEL, "At the depot.")
    served = search(project, PARCEL)
    assert (served.examples, served.messages, served.set, served.set_id) == ([], [], 0, None)


def test_search_stops_serving_what_is_retired(make: Make, project: Any, active: Teach) -> None:
    example = active(PARCEL, "At the depot.")
    assert ids(project, PARCEL) == [example.id]
    retire(make.person("cleo"), example.id)
    assert ids(project, PARCEL) == []


def test_search_stays_within_its_project(make: Make, project: Any, active: Teach) -> None:
    other = make.project("other", undo_seconds=0)
    active(PARCEL, "At the depot.", project=other)
    assert ids(project, PARCEL) == []
    assert len(ids(other, PARCEL)) == 1


def test_search_serves_neither_of_two_that_contradict(make: Make, project: Any, active: Teach) -> None:
    one = active(PARCEL, "At the depot.")
    two = active(PARCEL.upper() + "  ", "In the van.")
    unrelated = active(RETURNS, "Use the label.")
    assert ids(project, PARCEL) == []
    assert ids(project, RETURNS) == [unrelated.id]
    retire(make.person("cleo"), two.id)
    assert ids(project, PARCEL) == [one.id]


def test_search_serves_neither_an_answer_nor_its_rejection(make: Make, project: Any, active: Teach) -> None:
    active(PARCEL, "At the depot.")
    reject = active(PARCEL, None, "At the depot.")
    assert ids(project, PARCEL) == []
    retire(make.person("cleo"), reject.id)
    assert len(ids(project, PARCEL)) == 1


def test_search_serves_an_answer_before_the_rejection_of_another(project: Any, active: Teach) -> None:
    active(PARCEL, None, "Go away.")
    answer = active(PARCEL, "At the depot.")
    assert ids(project, PARCEL) == [answer.id]


def test_search_serves_one_of_several_near_copies(project: Any, active: Teach) -> None:
    first = active(PARCEL, "At the depot.")
    active(PARCEL + " ", "At the depot.", "Who knows.")
    active(PARCEL + " Monday!", "At the depot.")
    assert len(ids(project, PARCEL)) == 1
    assert ids(project, PARCEL)[0] == first.id


def test_search_gives_a_reject_as_example_but_no_message(project: Any, active: Teach) -> None:
    example = active(PARCEL, None, "Go away.")
    served = search(project, PARCEL)
    assert [(e["id"], e["output"], e["rejected_output"]) for e in served.examples] == [
        (example.id, None, "Go away.")
    ]
    assert served.messages == []


def test_search_leaves_out_the_example_of_the_item_being_asked_about(project: Any, active: Teach) -> None:
    example = active(PARCEL, "At the depot.")
    assert ids(project, PARCEL, item_id=example.item_id) == []
    assert ids(project, PARCEL, item_id="itm_other") == [example.id]


def test_search_keeps_to_k_and_to_the_tokens(project: Any, active: Teach) -> None:
    for place in ("depot", "van", "warehouse", "harbour", "airport"):
        active(
            f"Is parcel number {place}-77 still waiting at the {place} gate?", f"Yes, at the {place}. " * 10
        )
    asked = "Is my parcel still waiting at the gate?"
    assert len(ids(project, asked, 50)) == 5
    assert len(ids(project, asked, 2)) == 2
    served = search(project, asked, 5, 150)
    assert 1 <= len(served.examples) < 5
    assert sum(len(message["content"]) for message in served.messages) / 4 <= 150
    assert search(project, asked, 5, 1).examples == []


def test_search_takes_any_json_as_input(make: Make, active: Teach) -> None:
    project = make.project("json", "json", undo_seconds=0)
    example = active({"order": "A-17", "city": "Lyon"}, {"total": 3}, {"total": 2}, project=project)
    served = search(project, {"city": "Lyon", "order": "A-18"})
    assert [found["id"] for found in served.examples] == [example.id]
    assert served.examples[0]["output"] == {"total": 3}
    assert '"total": 3' in served.messages[1]["content"]


def test_search_gives_a_fixed_share_of_inputs_no_examples(make: Make, active: Teach) -> None:
    project = make.project("arms", undo_seconds=0, control_arm=0.3)
    active(PARCEL, "At the depot.", project=project)
    asked = [f"{PARCEL} number {number}" for number in range(200)]
    served = [search(project, text) for text in asked]
    control = [one for one in served if one.arm == "control"]
    assert 34 <= len(control) <= 86  # 60 expected, four standard deviations either way
    assert all(one.examples == [] and one.messages == [] for one in control)
    assert all(one.examples for one in served if one.arm == "examples")
    assert {one.set for one in served} == {1}
    assert [search(project, text).arm for text in asked[:50]] == [one.arm for one in served[:50]]


def test_contradictions_and_near_copies_are_named(project: Any, proposed: Teach, active: Teach) -> None:
    one, two = active(PARCEL, "At the depot."), proposed(PARCEL, "In the van.")
    copy = proposed(PARCEL + " Monday!", "At the depot.")
    found = contradictions([one, two, copy])
    assert {id_: [other.id for other in others] for id_, others in found.items()} == {
        one.id: [two.id],
        two.id: [one.id],
        copy.id: [],
    }
    assert contradictions([two], ("active",))[two.id][0].id == one.id
    assert [other.id for other in near_copies(copy)] == [one.id]
    assert near_copies(one) == []


# --- decisions near to an item ------------------------------------------------------------------------


def test_nearest_decided_finds_what_was_decided_of_like_inputs(make: Make, project: Any) -> None:
    ada = make.person("ada")
    approved, edited = make.item(project, input=PARCEL), make.item(project, input=RETURNS)
    make.item(project, input=INVOICE)
    make.decide(ada, approved)
    make.decide(ada, edited, "edit", "Use the label.", "tone")
    assert nearest_decided(project.id, PARCEL) == []
    assert learn_decided() == 2
    assert learn_decided() == 0
    ((item, decision, score),) = nearest_decided(project.id, PARCEL)
    assert (item.id, decision.verdict, score) == (approved.id, "approve", pytest.approx(1.0))
    assert nearest_decided(project.id, PARCEL, exclude_item_id=approved.id) == []


def test_nearest_decided_gives_the_decision_in_force(make: Make, project: Any) -> None:
    item = make.item(project, input=PARCEL)
    make.decide(make.person("ada"), item)
    learn_decided()
    override(make.person("cleo"), item.id, "reject", None, "tone")
    learn_decided()
    ((_, decision, _),) = nearest_decided(project.id, PARCEL)
    assert (decision.verdict, decision.source) == ("reject", "override")
