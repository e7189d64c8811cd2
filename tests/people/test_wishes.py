"""One's own wishes: keys that are one character and escaped, what one is spared; nobody else's business."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from reviewqueue.content.harm import categories_of
from reviewqueue.db import db
from reviewqueue.errors import Invalid
from reviewqueue.models import Person
from reviewqueue.people.wishes import choose_care, choose_keys, wishes_of
from tests.make import Make

pytestmark = pytest.mark.sqlite


def of(actor: Any) -> Any:
    db.session.rollback()
    return wishes_of(db.session.get_one(Person, actor.id).wishes)


def test_keys_are_kept_and_an_empty_one_is_as_usual(app: Any, make: Make) -> None:
    ada = make.person("ada")
    choose_keys(ada, {"approve": "y", "reject": "", "skip": "S"})
    assert (of(ada).keys["approve"], of(ada).keys["reject"], of(ada).keys["skip"]) == ("y", "3", "s")
    choose_care(ada, "all", [], "")
    assert of(ada).keys["approve"] == "y", "one wish leaves the others alone"


@pytest.mark.parametrize(
    ("keys", "wrong"),
    [({"approve": "ab"}, "approve"), ({"approve": "2"}, "edit"), ({"skip": "?"}, "skip"),
     ({"skip": "\u202e"}, "skip"), ({"skip": "j"}, "skip"), ({"undo": "\x00"}, "undo")],
)  # fmt: skip
def test_keys_that_cannot_be_used_are_refused(keys: dict[str, str], wrong: str, app: Any, make: Make) -> None:
    ada = make.person("ada")
    with pytest.raises(Invalid) as refused:
        choose_keys(ada, keys)
    assert wrong in {fault["pointer"] for fault in refused.value.errors}
    assert of(ada).keys["approve"] == "1"


def test_a_key_is_escaped_wherever_it_is_shown(client: Callable[..., Any], make: Make) -> None:
    ada = make.person("ada")
    make.item(make.project())
    visitor = client(ada)
    answer = visitor.send("/account/keys", {"approve": '"', "reject": "<"})
    assert answer.status_code == 303
    claim = visitor.send("/queues/support-replies/main/claims").location
    for page in (visitor.get(claim).text, visitor.get("/account/work").text):
        assert 'data-key="""' not in page
        assert 'value="""' not in page
        assert "<kbd><</kbd>" not in page
    assert 'data-key="&#34;"' in visitor.get(claim).text


def test_refused_wishes_come_back_with_the_message_by_the_field(
    client: Callable[..., Any], make: Make
) -> None:
    visitor = client(make.person("ada"))
    answer = visitor.send("/account/keys", {"approve": "xy"})
    assert answer.status_code == 422
    assert "Choose one character" in answer.text
    answer = visitor.send("/account/care", {"protection": "flagged", "daily": "lots"})
    assert (answer.status_code, "Choose a number" in answer.text) == (422, True)
    answer = visitor.send(
        "/account/care", {"protection": "all", "leave_out": ["violence", "hate"], "daily": "60"}
    )
    assert answer.status_code == 303
    wishes = of(make.person("ada"))
    assert (wishes.protection, wishes.leave_out, wishes.daily) == ("all", ("hate", "violence"), 60)


@pytest.mark.parametrize(
    ("flags", "categories"),
    [(["self_harm"], ["self-harm"]), (["Graphic-Violence"], ["violence"]), (["hate/threatening"], ["hate"]),
     (["legal_threat", "long", "heat", "account_takeover"], []),
     (["user.harassment", 3, None], ["harassment"]), (None, [])],
)  # fmt: skip
def test_flags_that_may_hurt_are_known_by_words_in_them(flags: Any, categories: list[str]) -> None:
    assert categories_of(flags) == categories
