"""Claims: choosing, holding, drafts, skipping."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Conflict, Forbidden, Invalid, LeaseLost, Missing
from reviewqueue.ids import new_id
from reviewqueue.models import Claim, Queue, Review
from reviewqueue.people.access import Actor
from reviewqueue.review import claim as claims
from reviewqueue.review.decide import decide


def queue_of(project: Any, name: str = "main") -> Queue:
    return db.session.scalars(select(Queue).where(Queue.project_id == project.id, Queue.name == name)).one()


def review_of(item: Any) -> Review:
    return db.session.scalars(select(Review).where(Review.item_id == item.id)).one()


def claimed(claim: Claim | None) -> str:
    """The id of the item that was claimed."""
    assert claim is not None
    return db.session.get_one(Review, claim.review_id).item_id


def lapse(claim: Claim) -> None:
    """Let the lease of this claim run out."""
    review_id = claim.review_id
    with transaction() as session:
        past = now() - timedelta(seconds=1)
        session.execute(update(Review).where(Review.id == review_id).values(lease_expires_at=past))


def test_claim_next_gives_priority_then_due_time_then_age(make: Any) -> None:
    when = [{"field": "risk", "op": "gt", "value": 0.9}]
    rule = {"name": "hot", "when": when, "route": "review", "queue": "main", "priority": "urgent"}
    project = make.project(confidence_below=0.8, rules=[rule])
    first, second, sooner = make.item(project), make.item(project), make.item(project)
    urgent = make.item(project, risk=0.95)
    with transaction() as session:
        due = now() + timedelta(minutes=1)
        session.execute(update(Review).where(Review.item_id == sooner.id).values(due_at=due))
        later = now() + timedelta(minutes=600)
        session.execute(update(Review).where(Review.item_id.in_((first.id, second.id))).values(due_at=later))
    ada = make.person("ada")
    got = [claimed(claims.claim_next(ada, queue_of(project))) for _ in range(4)]
    assert got == [urgent.id, sooner.id, first.id, second.id]
    assert claims.claim_next(make.person("cleo"), queue_of(project)) is None


@pytest.mark.postgresql
def test_claim_next_waits_for_a_review_that_somebody_is_writing_to(make: Any) -> None:
    project = make.project()
    item, ada = make.item(project), make.person("ada")
    held = db.engine.connect()
    held.execute(select(Review.id).where(Review.item_id == item.id).with_for_update())
    threading.Timer(0.3, held.close).start()
    assert claimed(claims.claim_next(ada, queue_of(project))) == item.id


def test_claim_next_writes_token_fence_lease_and_history(make: Any) -> None:
    project = make.project()
    item = make.item(project)
    claim = claims.claim_next(make.person("ada"), queue_of(project))
    review = review_of(item)
    assert claim is not None
    assert (review.claim_token, review.fence, review.claimed_by) == (claim.token, 1, make.person("ada").id)
    assert review.lease_expires_at == claim.claimed_at + claims.LEASE
    assert (claim.fence, claim.ended, claim.draft) == (1, None, None)
    assert len(claim.token) >= 40


def test_claim_next_takes_a_lapsed_lease_over(make: Any) -> None:
    project = make.project()
    item = make.item(project)
    ada, cleo = make.person("ada"), make.person("cleo")
    old = claims.claim_next(ada, queue_of(project))
    assert claims.claim_next(cleo, queue_of(project)) is None
    assert old is not None
    lapse(old)
    new = claims.claim_next(cleo, queue_of(project))
    assert new is not None
    assert claimed(new) == item.id
    assert new.fence == 2
    assert db.session.get_one(Claim, old.token).ended == "taken"


def test_claim_next_offered_is_kept_from_nobody_until_it_is_opened(make: Any) -> None:
    project = make.project()
    item = make.item(project)
    ada, cleo = make.person("ada"), make.person("cleo")
    mine = claims.claim_next(ada, queue_of(project), offered=True)
    theirs = claims.claim_next(cleo, queue_of(project), offered=True)
    assert mine is not None
    assert theirs is not None
    assert claimed(theirs) == item.id
    with pytest.raises(LeaseLost):
        claims.renew(ada, mine.token)
    claims.renew(cleo, theirs.token)
    assert claims.claim_next(ada, queue_of(project)) is None
    lapse(theirs)
    assert claims.claim_next(ada, queue_of(project)) is not None


@pytest.mark.parametrize("name", ["aud", "backend", "system"])
def test_claim_next_is_for_reviewers_only(make: Any, name: str) -> None:
    project = make.project()
    make.item(project)
    actor = make.person("aud") if name == "aud" else Actor("bck_x" if name == "backend" else "system", name)
    with pytest.raises(Forbidden):
        claims.claim_next(actor, queue_of(project))
    with pytest.raises(Forbidden):
        claims.claim_item(actor, new_id("itm"))


def test_claim_of_a_queue_that_is_not_mine_finds_nothing(make: Any) -> None:
    project = make.project()
    item = make.item(project)
    for name in ("ben", "mallory"):
        with pytest.raises(Missing):
            claims.claim_next(make.person(name), queue_of(project))
        with pytest.raises(Missing):
            claims.claim_item(make.person(name), item.id)
    with pytest.raises(Missing):
        claims.claim_next(make.person("ada"), queue_of(project, "adjudication"))
    assert review_of(item).fence == 0


def test_claim_item_says_who_has_it(make: Any) -> None:
    project = make.project()
    item = make.item(project)
    claims.claim_item(make.person("ada"), item.id)
    with pytest.raises(Conflict, match="Ada has this item until") as refused:
        claims.claim_item(make.person("cleo"), item.id)
    assert refused.value.code == "taken"


def test_claim_item_gives_the_claim_already_held(make: Any) -> None:
    item = make.item(make.project())
    ada = make.person("ada")
    assert claims.claim_item(ada, item.id).token == claims.claim_item(ada, item.id).token
    assert review_of(item).fence == 1


def test_claim_item_in_another_queue_is_refused(make: Any) -> None:
    rule = {
        "name": "all",
        "when": [{"field": "output", "op": "exists"}],
        "route": "review",
        "queue": "seniors",
    }
    project = make.project(rules=[rule])
    item = make.item(project)
    ben = make.person("ben", queues=[queue_of(project)])
    with pytest.raises(Conflict) as refused:
        claims.claim_item(ben, item.id)
    assert refused.value.code == "other_queue"


def test_nobody_holds_more_than_five(make: Any) -> None:
    project = make.project()
    items = [make.item(project) for _ in range(7)]
    ada = make.person("ada")
    held = [claims.claim_next(ada, queue_of(project)) for _ in range(5)]
    with pytest.raises(Conflict, match="You hold 5 items; finish or release one"):
        claims.claim_next(ada, queue_of(project))
    with pytest.raises(Conflict):
        claims.claim_item(ada, items[6].id)
    assert held[0] is not None
    claims.release(ada, held[0].token)
    assert claims.claim_next(ada, queue_of(project)) is not None


def test_two_reviews_mean_two_people(make: Any) -> None:
    project = make.project(reviews=2)
    item = make.item(project)
    ada, cleo = make.person("ada"), make.person("cleo")
    first = claims.claim_next(ada, queue_of(project))
    assert first is not None
    assert claims.claim_next(ada, queue_of(project)) is None
    decide(ada, first.token, new_id("dec"), "approve")
    assert claims.claim_next(ada, queue_of(project)) is None
    with pytest.raises(Conflict) as refused:
        claims.claim_item(ada, item.id)
    assert refused.value.code == "same_person"
    assert claimed(claims.claim_next(cleo, queue_of(project))) == item.id


def test_renew_extends_the_lease_and_keeps_the_draft(make: Any) -> None:
    item = make.item(make.project())
    ada = make.person("ada")
    claim = claims.claim_item(ada, item.id)
    lapse(claim)
    until = claims.renew(ada, claim.token, {"output": "half a sen", "note": "ü"})
    assert review_of(item).lease_expires_at == until > now() + timedelta(minutes=9)
    kept = db.session.get_one(Claim, claim.token)
    assert kept.draft == {"output": "half a sen", "note": "ü"}
    claims.renew(ada, claim.token)
    assert db.session.get_one(Claim, claim.token).draft == {"output": "half a sen", "note": "ü"}


def test_renew_never_holds_beyond_four_hours(make: Any) -> None:
    item = make.item(make.project())
    ada = make.person("ada")
    claim = claims.claim_item(ada, item.id)
    began = now() - claims.HOLD + timedelta(minutes=3)
    with transaction() as session:
        session.execute(update(Claim).values(claimed_at=began))
    assert claims.renew(ada, claim.token) == began + claims.HOLD


def test_renew_after_losing_the_lease_keeps_the_draft_and_says_who(make: Any) -> None:
    item = make.item(make.project())
    ada, cleo = make.person("ada"), make.person("cleo")
    claim = claims.claim_item(ada, item.id)
    lapse(claim)
    theirs = claims.claim_item(cleo, item.id)
    with pytest.raises(LeaseLost, match="Cleo has taken this review over"):
        claims.renew(ada, claim.token, {"output": "my words"})
    assert db.session.get_one(Claim, claim.token).draft == {"output": "my words"}
    decide(cleo, theirs.token, new_id("dec"), "approve")
    with pytest.raises(LeaseLost, match="Cleo has given this review"):
        claims.renew(ada, claim.token, {"output": "my last words"})
    assert db.session.get_one(Claim, claim.token).draft == {"output": "my last words"}
    assert review_of(item).verdict == "approve"


def test_a_draft_comes_back_when_the_same_person_claims_again(make: Any) -> None:
    item = make.item(make.project())
    ada, cleo = make.person("ada"), make.person("cleo")
    claim = claims.claim_item(ada, item.id)
    claims.renew(ada, claim.token, {"output": "as far as I got"})
    claims.release(ada, claim.token)
    other = claims.claim_item(cleo, item.id)
    assert other.draft is None
    claims.release(cleo, other.token)
    assert claims.claim_item(ada, item.id).draft == {"output": "as far as I got"}


def test_renew_refuses_a_draft_over_one_mebibyte(make: Any) -> None:
    ada = make.person("ada")
    claim = claims.claim_item(ada, make.item(make.project()).id)
    claims.renew(ada, claim.token, {"note": "x" * (claims.MAX_DRAFT - 4)})
    with pytest.raises(Invalid):
        claims.renew(ada, claim.token, {"note": "x" * (claims.MAX_DRAFT - 3)})


def test_a_token_is_its_owners_alone(make: Any) -> None:
    item = make.item(make.project())
    claim = claims.claim_item(make.person("ada"), item.id)
    cleo = make.person("cleo")
    for use in (
        lambda: claims.open_claim(cleo, claim.token),
        lambda: claims.renew(cleo, claim.token, {"output": "x"}),
        lambda: claims.release(cleo, claim.token),
        lambda: claims.skip(cleo, claim.token),
        lambda: decide(cleo, claim.token, new_id("dec"), "approve"),
    ):
        with pytest.raises(Missing):
            use()
    mine, review, found = claims.open_claim(make.person("ada"), claim.token)
    assert (mine.ended, mine.draft, review.state, found.id) == (None, None, "wanted", item.id)


def test_release_gives_it_back_and_the_token_is_dead(make: Any) -> None:
    item = make.item(make.project())
    ada = make.person("ada")
    claim = claims.claim_item(ada, item.id)
    claims.release(ada, claim.token)
    claims.release(ada, claim.token)
    review = review_of(item)
    assert (review.claimed_by, review.claim_token, review.lease_expires_at) == (None, None, None)
    assert db.session.get_one(Claim, claim.token).ended == "released"
    with pytest.raises(LeaseLost, match="You gave this review back"):
        decide(ada, claim.token, new_id("dec"), "approve")
    assert review_of(item).state == "wanted"


def test_a_skipped_item_is_not_offered_to_who_skipped_it(make: Any) -> None:
    project = make.project()
    item, other = make.item(project), make.item(project)
    ada, cleo = make.person("ada"), make.person("cleo")
    claim = claims.claim_next(ada, queue_of(project))
    assert claim is not None
    claims.skip(ada, claim.token, "not my language")
    ended = db.session.get_one(Claim, claim.token)
    assert (ended.ended, ended.remark) == ("skipped", "not my language")
    assert claimed(claims.claim_next(ada, queue_of(project))) == other.id
    assert claims.claim_next(ada, queue_of(project)) is None
    theirs = claims.claim_next(cleo, queue_of(project))
    assert claimed(theirs) == item.id
    assert theirs is not None
    claims.release(cleo, theirs.token)
    assert claimed(claims.claim_item(ada, item.id)) == item.id


def test_a_snoozed_item_comes_back_in_time(make: Any) -> None:
    project = make.project()
    item = make.item(project)
    ada = make.person("ada")
    claim = claims.claim_item(ada, item.id)
    for wrong in (now() - timedelta(seconds=1), now() + timedelta(days=91)):
        with pytest.raises(Invalid):
            claims.skip(ada, claim.token, until=wrong)
    claims.skip(ada, claim.token, until=now() + timedelta(hours=1))
    assert claims.claim_next(ada, queue_of(project)) is None
    with transaction() as session:
        session.execute(update(claims.Skip).values(until=now()))
    assert claimed(claims.claim_next(ada, queue_of(project))) == item.id


def test_skip_of_a_lost_claim_changes_nothing(make: Any) -> None:
    item = make.item(make.project())
    ada, cleo = make.person("ada"), make.person("cleo")
    claim = claims.claim_item(ada, item.id)
    lapse(claim)
    theirs = claims.claim_item(cleo, item.id)
    with pytest.raises(LeaseLost):
        claims.skip(ada, claim.token)
    assert review_of(item).claim_token == theirs.token
    assert db.session.scalars(select(claims.Skip)).all() == []


@pytest.mark.sqlite
def test_claim_next_reads_its_index_alone(make: Any) -> None:
    project = make.project()
    make.item(project)
    statement = (
        "EXPLAIN QUERY PLAN SELECT id FROM review WHERE queue_id = 'q' AND state = 'wanted' "
        "AND (lease_expires_at IS NULL OR lease_expires_at <= '2026') "
        "ORDER BY rank, due_at, item_number, id LIMIT 1"
    )
    plan = " ".join(row[-1] for row in db.session.connection().exec_driver_sql(statement))
    assert "ix_review_waiting" in plan
    assert "TEMP B-TREE" not in plan
