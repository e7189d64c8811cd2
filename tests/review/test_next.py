"""What a reviewer gets next: left out without a word, claimed ahead for a moment; given by name; comments."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Conflict, Forbidden, Invalid, LeaseLost
from reviewqueue.models import Claim, Queue, Review
from reviewqueue.review.assign import assign, candidates
from reviewqueue.review.claim import renew
from reviewqueue.review.comment import comments_on, hand_in
from reviewqueue.review.next import AHEAD, begin, claim_ahead, next_claim
from tests.make import Make


def queue_of(project: Any, name: str = "main") -> Queue:
    return db.session.scalars(select(Queue).where(Queue.project_id == project.id, Queue.name == name)).one()


def review_of(item: Any) -> Review:
    db.session.rollback()
    return db.session.scalars(select(Review).where(Review.item_id == item.id)).one()


def test_what_is_left_out_goes_back_untold(base: Any, make: Make) -> None:
    project = make.project()
    hard = make.item(project, risk_flags=["self_harm"])
    easy = make.item(project, output="Another one.", risk_flags=["long"])
    ada, cleo = make.person("ada"), make.person("cleo")
    claim = next_claim(ada, queue_of(project), ["self-harm"])
    assert claim is not None
    assert claim.review_id == review_of(easy).id
    assert review_of(hard).claimed_by is None
    told = db.session.scalars(select(Claim).where(Claim.review_id == review_of(hard).id)).one()
    assert (told.ended, told.remark) == ("released", None)
    assert next_claim(ada, queue_of(project), ["self-harm"]) is None
    other = next_claim(cleo, queue_of(project))
    assert other is not None
    assert other.review_id == review_of(hard).id


def test_claimed_ahead_it_is_kept_from_others_for_a_moment_only(base: Any, make: Make) -> None:
    project = make.project()
    item = make.item(project)
    ada, cleo = make.person("ada"), make.person("cleo")
    claim = claim_ahead(ada, queue_of(project))
    assert claim is not None
    assert next_claim(cleo, queue_of(project)) is None
    until = review_of(item).lease_expires_at
    assert until is not None
    assert until <= now() + AHEAD
    with transaction() as session:
        session.execute(update(Review).values(lease_expires_at=now() - timedelta(seconds=1)))
    taken = next_claim(cleo, queue_of(project))
    assert taken is not None
    assert not begin(ada, claim.token)
    with pytest.raises(LeaseLost):
        renew(ada, claim.token)


def test_begin_starts_lease_and_clock_when_it_is_opened(base: Any, make: Make) -> None:
    project = make.project()
    item = make.item(project)
    ada = make.person("ada")
    claim = claim_ahead(ada, queue_of(project))
    assert claim is not None
    with transaction() as session:
        long_ago = now() - timedelta(minutes=5)
        session.execute(update(Review).values(claimed_at=long_ago, lease_expires_at=long_ago + AHEAD))
    assert not begin(make.person("cleo"), claim.token)
    assert begin(ada, claim.token)
    review = review_of(item)
    assert review.lease_expires_at is not None
    assert review.claimed_at is not None
    assert review.lease_expires_at > now() + timedelta(minutes=9)
    assert review.claimed_at > now() - timedelta(minutes=1)
    assert not begin(ada, claim.token), "it was opened once"


def test_assign_takes_it_from_whoever_has_it_and_keeps_their_draft(base: Any, make: Make) -> None:
    project = make.project()
    item = make.item(project)
    ada, cleo, ben = make.person("ada"), make.person("cleo"), make.person("ben")
    mine = make.claim(ada, item)
    renew(ada, mine.token, {"output": "Half a thought"})
    with pytest.raises(Forbidden):
        assign(ada, item.id, cleo.id)
    with pytest.raises(Conflict):
        assign(cleo, item.id, ben.id)  # he has no queue here
    with pytest.raises(Invalid):
        assign(cleo, item.id, make.person("aud").id)
    taken = assign(cleo, item.id, cleo.id)
    review = review_of(item)
    assert (review.claimed_by, review.claim_token) == (cleo.id, taken.token)
    with pytest.raises(LeaseLost):
        renew(ada, mine.token)
    given = assign(cleo, item.id, ada.id)
    assert given.draft == {"output": "Half a thought"}
    assert review_of(item).fence == 3
    names = [name for _, name in candidates(cleo, queue_of(project))]
    assert names == ["Ada", "Cleo"]
    assert candidates(ada, queue_of(project)) == []


def test_assign_gives_nobody_two_seats_of_an_item(base: Any, make: Make) -> None:
    item = make.item(make.project(reviews=2))
    ada, cleo = make.person("ada"), make.person("cleo")
    make.decide(ada, item)
    with pytest.raises(Conflict):
        assign(cleo, item.id, ada.id)
    assign(cleo, item.id, cleo.id)
    with pytest.raises(Conflict):
        assign(cleo, item.id, cleo.id)


def test_a_comment_is_kept_once_per_claim_and_is_no_verdict(base: Any, make: Make) -> None:
    item = make.item(make.project())
    ada = make.person("ada")
    claim = make.claim(ada, item)
    hand_in(ada, claim.token, "First.")
    hand_in(ada, claim.token, "Better.")
    with pytest.raises(Invalid):
        hand_in(ada, claim.token, "  ")
    assert [one.text for one in comments_on(item.id)] == ["Better."]
    assert review_of(item).state == "wanted"
