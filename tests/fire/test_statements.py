"""Every state change with each of its statements failing (R3): the database is as before, and nobody was told
otherwise.

FIRE_EVERY=1 also ends the process at every statement; here it ends at some of them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.delivery import endpoints
from reviewqueue.delivery.callback import Outcome
from reviewqueue.delivery.replay import replay
from reviewqueue.delivery.seals import Seals
from reviewqueue.delivery.taking import May, Secrets, Turn
from reviewqueue.delivery.turns import turn_over
from reviewqueue.examples.collect import promote, retire
from reviewqueue.ids import new_id
from reviewqueue.intake.submit import submit, submit_batch, withdraw
from reviewqueue.models import Delivery, Example, Item, Queue, Review
from reviewqueue.people import backends, sign_in
from reviewqueue.people.access import SYSTEM
from reviewqueue.review import claim, decide, expire, prepare, settle
from reviewqueue.review.assign import assign
from reviewqueue.review.comment import hand_in
from reviewqueue.routing import projects
from tests.fire.statements import Broken, Tables, before_or_after
from tests.make import OUTPUTS, Make

EVERY = int(os.environ.get("FIRE_EVERY", "10"))
RECEIVER = "http://127.0.0.1:9/"
Act = Callable[[], object]


def room(count: int) -> May:
    """What may be taken: so many attempts."""
    return May(count, True, count > 0, Secrets(), Seals())


class Scene:
    """A project with a called-back backend, Ada who reviews and Cleo who leads; nothing is cached yet."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.project = make.project(undo_seconds=600, on_timeout="reject")
        self.name: str = self.project.name
        self.bot = make.backend_actor(self.project)
        self.backend = make.backend(self.project).backend
        endpoints.register(SYSTEM, self.backend.id, RECEIVER, trusted=True)
        self.ada, self.cleo = make.person("ada"), make.person("cleo")

    def item(self) -> str:
        """The id of an item that waits for a review."""
        db.session.rollback()
        id: str = self.make.item(self.project, input="Where is it?").id
        return id

    def claimed(self) -> str:
        """The token of Ada's claim of a new item."""
        token: str = claim.claim_item(self.ada, self.item()).token
        return token

    def decided(self, verdict: str = "edit", output: Any = "It left on Tuesday.") -> Any:
        """A decision of Ada's."""
        given = decide.decide(self.ada, self.claimed(), new_id("dec"), verdict, output, "tone")
        assert given.decision is not None
        return given.decision

    def due(self) -> None:
        """A delivery that is due now."""
        self.decided()
        with transaction() as session:
            session.execute(update(Delivery).values(next_attempt_at=now()))

    def attempt(self) -> Turn:
        """A taken attempt."""
        self.due()
        (turn,) = turn_over([], room(1))
        return turn

    def example(self) -> str:
        """The id of a proposed example."""
        decision = self.decided()
        return db.session.scalars(select(Example.id).where(Example.decision_id == decision.id)).one()


def _submission(scene: Scene, number: int = 0) -> dict[str, Any]:
    return {
        "project": scene.name,
        "external_id": f"order-{number}",
        "output": "It left.",
        "confidence": 0.3,
    }


def _submit(scene: Scene) -> Act:
    return lambda: submit(_submission(scene), scene.bot, "key")


def _submit_batch(scene: Scene) -> Act:
    return lambda: submit_batch([_submission(scene, n) for n in range(3)], scene.bot, "key")


def _withdraw(scene: Scene) -> Act:
    item = scene.item()
    return lambda: withdraw(scene.bot, item)


def _seal(scene: Scene) -> Act:
    from reviewqueue.intake import seal as sealing

    scene.item()
    horizon = db.session.scalars(select(Item.number)).one()
    return lambda: sealing._seal_some(horizon)


def _claim_next(scene: Scene) -> Act:
    scene.item()
    queue = db.session.scalars(select(Queue).where(Queue.name == "main")).one()
    db.session.expunge(queue)
    return lambda: claim.claim_next(scene.ada, queue)


def _claim_item(scene: Scene) -> Act:
    item = scene.item()
    return lambda: claim.claim_item(scene.ada, item)


def _renew(scene: Scene) -> Act:
    token = scene.claimed()
    return lambda: claim.renew(scene.ada, token, {"note": "so far"})


def _release(scene: Scene) -> Act:
    token = scene.claimed()
    return lambda: claim.release(scene.ada, token)


def _skip(scene: Scene) -> Act:
    token = scene.claimed()
    return lambda: claim.skip(scene.ada, token, "not now")


def _escalate(scene: Scene) -> Act:
    token = scene.claimed()
    return lambda: decide.escalate(scene.ada, token, "adjudication", "hard")


def _decide(scene: Scene) -> Act:
    token, id = scene.claimed(), new_id("dec")
    return lambda: decide.decide(scene.ada, token, id, "edit", "It left on Tuesday.", "tone")


def _decide_otherwise(scene: Scene) -> Act:
    """Ada and Eve differ, so somebody must adjudicate."""
    scene.make.project(scene.name, undo_seconds=600, reviews=2)
    item, eve = scene.item(), scene.make.person("eve")
    decide.decide(eve, claim.claim_item(eve, item).token, new_id("dec"), "approve")
    token, id = claim.claim_item(scene.ada, item).token, new_id("dec")
    return lambda: decide.decide(scene.ada, token, id, "reject", None, "tone")


def _assign(scene: Scene) -> Act:
    item = scene.item()
    return lambda: assign(scene.cleo, item, scene.ada.id)


def _hand_in(scene: Scene) -> Act:
    token = scene.claimed()
    return lambda: hand_in(scene.ada, token, "It left on Tuesday.")


def _undo(scene: Scene) -> Act:
    decision = scene.decided().id
    return lambda: decide.undo(scene.ada, decision)


def _override(scene: Scene) -> Act:
    item = scene.decided().item_id
    return lambda: settle.override(scene.cleo, item, "reject", None, "tone")


def _expire(scene: Scene) -> Act:
    item = scene.item()
    with transaction() as session:
        session.execute(update(Review).values(due_at=now() - timedelta(hours=1)))
    return lambda: expire._expire(item)


def _prepare(scene: Scene) -> Act:
    scene.item()
    review = db.session.scalars(select(Review.id)).one()
    return lambda: prepare._attach({review: {"similar": [], "hidden": []}})


def _attempt(scene: Scene) -> Act:
    scene.due()
    return lambda: turn_over([], room(1))


def _delivered(scene: Scene) -> Act:
    turn = scene.attempt()
    return lambda: turn_over([(turn, Outcome("ok", status=200))], room(0))


def _gone(scene: Scene) -> Act:
    turn = scene.attempt()
    return lambda: turn_over([(turn, Outcome("gone", status=410))], room(0))


def _replay(scene: Scene) -> Act:
    turn, dora = scene.attempt(), scene.make.person("dora")
    turn_over([(turn, Outcome("ok", status=200))], room(0))
    return lambda: replay(dora, turn.delivery_id)


def _promote(scene: Scene) -> Act:
    example = scene.example()
    return lambda: promote(scene.cleo, example)


def _retire(scene: Scene) -> Act:
    example = scene.example()
    promote(scene.cleo, example)
    return lambda: retire(scene.cleo, example)


def _apply_new(scene: Scene) -> Act:
    text = 'name = "new"\nkind = "text"\n[policy]\nconfidence_below = 0.5\n'
    return lambda: projects.apply(text, SYSTEM)


def _apply_changed(scene: Scene) -> Act:
    rule = 'name = "long"\nroute = "review"\nqueue = "long"\n'
    when = 'when = [{field = "confidence", op = "lt", value = 0.1}]\n'
    own = f'name = "{scene.name}"\nkind = "text"\ntitle = "Other"\n'
    text = f"{own}[policy]\n[[policy.rules]]\n{rule}{when}"
    return lambda: projects.apply(text, SYSTEM)


def _pause(scene: Scene) -> Act:
    return lambda: projects.pause(SYSTEM, scene.name)


def _add_backend(scene: Scene) -> Act:
    return lambda: backends.add_backend(SYSTEM, "second", scene.name)


def _add_key(scene: Scene) -> Act:
    return lambda: backends.add_key(SYSTEM, _fresh(scene), ["items:read"])


def _rotate_secret(scene: Scene) -> Act:
    return lambda: backends.rotate_secret(SYSTEM, _fresh(scene), "callback")


def _revoke_key(scene: Scene) -> Act:
    key = backends.add_key(SYSTEM, _fresh(scene), ["items:read"]).key.id
    return lambda: backends.revoke_key(SYSTEM, key)


def _revoke_secrets(scene: Scene) -> Act:
    backends.rotate_secret(SYSTEM, _fresh(scene), "callback")
    return lambda: backends.revoke_secrets(SYSTEM, _fresh(scene), "callback")


def _deactivate_backend(scene: Scene) -> Act:
    return lambda: backends.deactivate_backend(SYSTEM, _fresh(scene))


def _fresh(scene: Scene) -> Any:
    return backends.backend_named(f"{scene.name}-backend")


def _register(scene: Scene) -> Act:
    scene.decided()
    return lambda: endpoints.register(SYSTEM, scene.bot.backend_id or "", RECEIVER + "2", trusted=True)


def _add_person(scene: Scene) -> Act:
    return lambda: sign_in.add_person(SYSTEM, "eve@example.org", "reviewer")


def _sign_in_by_link(scene: Scene) -> Act:
    link = sign_in.new_link(SYSTEM, scene.ada.id)
    return lambda: sign_in.sign_in_by_link(link, "127.0.0.1")


def _set_role(scene: Scene) -> Act:
    dora, ada = scene.make.person("dora"), scene.ada.id
    return lambda: sign_in.set_role(dora, ada, "lead")


CHANGES = [
    _submit, _submit_batch, _withdraw, _seal, _claim_next, _claim_item, _renew, _release, _skip, _escalate,
    _decide, _decide_otherwise, _assign, _hand_in, _undo, _override, _expire, _prepare, _attempt, _delivered,
    _gone, _replay, _promote, _retire, _apply_new, _apply_changed, _pause, _add_backend, _add_key,
    _revoke_key, _rotate_secret, _revoke_secrets, _deactivate_backend, _register, _add_person,
    _sign_in_by_link, _set_role,
]  # fmt: skip


@pytest.fixture
def scene(base: Any, make: Make) -> Scene:
    made = Scene(make)
    db.session.rollback()
    return made


@pytest.fixture
def tables(database: str) -> Iterator[Tables]:
    reading = Tables(database, without=["web_session"])
    yield reading
    reading.close()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_whatever_statement_fails_nothing_is_half_done(
    change: Callable[[Scene], Act], scene: Scene, tables: Tables
) -> None:
    act = change(scene)
    db.session.remove()
    assert before_or_after(act, tables, every=EVERY) >= 2


@pytest.mark.parametrize("path", ["items", "items/batch", "withdrawal", "decision"])
def test_nothing_is_answered_as_done_that_was_not(
    path: str, app: Any, make: Make, client: Any, tables: Tables
) -> None:
    scene = Scene(make)
    headers = {"Authorization": f"Bearer {make.backend(scene.project).api_key}", "Idempotency-Key": "key"}
    if path == "decision":
        visitor, token = client(scene.ada), scene.claimed()
        form = {"csrf_token": visitor.csrf(), "verdict": "approve", "decision_id": new_id("dec")}
        send = {"path": f"/claims/{token}/decision", "data": form | {"output": OUTPUTS["text"]}}
    else:
        visitor, one = client(), _submission(scene)
        bodies = {"items": one, "items/batch": {"items": [one]}, "withdrawal": {}}
        where = f"items/{scene.item()}/withdrawal" if path == "withdrawal" else path
        send = {"path": f"/api/v1/{where}", "headers": headers, "data": json.dumps(bodies[path])}
        send["content_type"] = "application/json"
    db.session.remove()
    answers: list[int] = []

    def act() -> int:
        answers.append(visitor.post(**send).status_code)
        return answers[-1]

    # Whoever has decided is offered the next review, which is another change.
    commits = 2 if path == "decision" else 1
    before_or_after(act, tables, acknowledged=lambda status: status < 400, every=10**6, commits=commits)
    assert set(answers[:-1]) == {503}


# --- can it fail? ---------------------------------------------------------------------------------


@pytest.mark.sqlite
def test_the_tool_notices_a_commit_too_many(
    scene: Scene, tables: Tables, monkeypatch: pytest.MonkeyPatch
) -> None:
    propose = settle.collect.propose

    def hasty(*given: Any) -> Any:
        db.session().connection().exec_driver_sql("COMMIT")
        db.session().connection().exec_driver_sql("BEGIN IMMEDIATE")
        return propose(*given)

    monkeypatch.setattr(settle.collect, "propose", hasty)
    with pytest.raises(Broken, match=r"not as before: .*decision"):
        before_or_after(_decide(scene), tables)


@pytest.mark.sqlite
def test_the_tool_notices_an_answer_before_the_commit(scene: Scene, tables: Tables) -> None:
    store = _submit(scene)

    def careless() -> str:
        with contextlib.suppress(Exception):
            store()
        return "201"

    with pytest.raises(Broken, match="answered as done"):
        before_or_after(careless, tables)
