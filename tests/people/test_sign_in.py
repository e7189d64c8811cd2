"""Getting in and staying in: links, passwords, sessions; and who changes whom."""

from __future__ import annotations

import statistics
import threading
import time
from contextlib import suppress
from datetime import timedelta

import pytest
from sqlalchemy import func, select, update

from reviewqueue.db import db, transaction
from reviewqueue.errors import Busy, Conflict, Forbidden, Invalid, Missing
from reviewqueue.models import (
    LedgerEntry,
    Person,
    Queue,
    QueueAccess,
    SignInAttempt,
    SignInLink,
    WebSession,
)
from reviewqueue.people import sign_in as door
from reviewqueue.people.access import SYSTEM, actor_of, visible_queues

PASSWORD = "nine purple otters"
HOME, AWAY = "192.0.2.7", "198.51.100.9"


def enter(password=PASSWORD, email="ada@example.org", address=HOME):
    return door.sign_in(email, password, address, "a browser")


def person(id_: str) -> Person:
    db.session.rollback()
    return db.session.get_one(Person, id_)


@pytest.fixture
def ada(base):
    return door.add_person(SYSTEM, "ada@example.org", "reviewer", name="Ada", password=PASSWORD)[0].id


@pytest.fixture
def dora(base):
    return actor_of(door.add_person(SYSTEM, "dora@example.org", "admin")[0])


def pass_time(span: timedelta) -> None:
    """As if everything here had happened `span` earlier."""
    columns = (
        WebSession.created_at, WebSession.seen_at, SignInLink.expires_at, SignInAttempt.at,
    )  # fmt: skip
    with transaction() as session:
        for column in columns:
            for row in session.scalars(select(column.class_)).all():
                setattr(row, column.key, getattr(row, column.key) - span)


# --- signing in ------------------------------------------------------------------------------------


def test_a_new_database_has_no_account(base):
    assert db.session.scalar(select(func.count()).select_from(Person)) == 0
    for email, password in [("admin", "admin"), ("admin@localhost", "password"), ("", "")]:
        with pytest.raises(Forbidden):
            door.sign_in(email, password, HOME)


def test_sign_in_gives_a_session_of_that_person(ada):
    token = enter(email=" ADA@example.org ")
    assert door.person_of(token).id == ada
    stored = db.session.scalars(select(WebSession)).one()
    assert token not in (stored.token_hash, stored.browser)
    assert stored.browser == "a browser"
    assert person(ada).password_hash.startswith("$argon2id$v=19$m=19456,t=2,p=1$")


def test_sign_in_gives_a_new_token_every_time(ada):
    assert enter() != enter()


WRONG = [
    ("ada@example.org", "nine purple otter"),
    ("ada@example.org", ""),
    ("ada@example.org", PASSWORD + "\x00"),
    ("ada@example.org", PASSWORD + "x" * 5000),
    ("nobody@example.org", PASSWORD),
    ("", PASSWORD),
    ("\x00", PASSWORD),
    ("ada@example.org\x00", PASSWORD),
    ("\ud800@example.org", "\ud800"),
    ("invited@example.org", ""),
    ("gone@example.org", PASSWORD),
]


def test_sign_in_refuses_every_wrong_pair_in_the_same_words(ada, dora):
    door.add_person(SYSTEM, "invited@example.org", "reviewer")
    gone, _ = door.add_person(SYSTEM, "gone@example.org", "reviewer", password=PASSWORD)
    door.deactivate(dora, gone.id)
    for email, password in WRONG:
        with pytest.raises(Forbidden) as refusal:
            door.sign_in(email, password, HOME)
        assert (refusal.value.code, refusal.value.message) == (
            "sign_in_refused",
            "email or password is wrong",
        )
    assert db.session.scalars(select(WebSession)).all() == []


def test_sign_in_takes_as_long_for_an_unknown_account(ada, monkeypatch):
    """Medians of the processor time, so that a busy machine does not decide."""
    monkeypatch.setattr(door.throttle, "PER_ACCOUNT", 10**6)
    monkeypatch.setattr(door.throttle, "PER_ACCOUNT_DAY", 10**6)
    monkeypatch.setattr(door.throttle, "PER_ADDRESS", 10**6)
    spent: dict[str, list[float]] = {"ada@example.org": [], "nobody@example.org": []}
    for _ in range(25):
        for email, times in spent.items():
            start = time.thread_time()
            with pytest.raises(Forbidden):
                door.sign_in(email, "not the password", HOME)
            times.append(time.thread_time() - start)
    known, unknown = (statistics.median(times) for times in spent.values())
    assert unknown == pytest.approx(known, rel=0.1)


# --- throttling ------------------------------------------------------------------------------------


def fail(times: int, email: str = "ada@example.org", address: str = AWAY) -> None:
    for _ in range(times):
        with pytest.raises(Forbidden):
            enter("wrong password", email, address)


@pytest.mark.parametrize("email", ["ada@example.org", "nobody@example.org"])
def test_sign_in_is_throttled_by_account_known_or_not(ada, email):
    fail(10, email)
    for password in ("wrong password", PASSWORD):
        with pytest.raises(Busy) as refusal:
            enter(password, email, AWAY)
        assert refusal.value.code == "too_many_tries"
        assert 0 < refusal.value.retry_after <= 15 * 60 + 1
    with pytest.raises(Busy):
        enter(email=email.upper(), address=HOME)


def test_sign_in_is_free_again_after_a_quarter_of_an_hour(ada):
    fail(10)
    pass_time(timedelta(minutes=14))
    with pytest.raises(Busy):
        enter()
    pass_time(timedelta(minutes=2))
    assert door.person_of(enter()).id == ada


def test_sign_in_is_throttled_by_day(ada):
    for _ in range(10):
        fail(10)
        pass_time(timedelta(minutes=16))
    with pytest.raises(Busy):
        enter()
    pass_time(timedelta(hours=23))
    assert enter()


def test_sign_in_is_throttled_by_address(ada):
    for number in range(30):
        fail(1, f"guess{number}@example.org")
    with pytest.raises(Busy):
        enter(address=AWAY)
    assert enter(address=HOME)


def test_sign_ins_that_succeed_are_not_counted(ada):
    for _ in range(12):
        enter()
    fail(9, address=HOME)
    assert enter()


def test_strangers_cannot_lock_out_somebody_at_their_usual_address(ada):
    enter(address=HOME)
    fail(10, address=AWAY)
    assert enter(address=HOME)
    fail(10, address=HOME)
    with pytest.raises(Busy):
        enter(address=HOME)


def test_many_tries_at_once_are_no_more_than_ten(base, ada):
    """Forty threads guess together; none sneaks in between the counting and the check."""
    outcomes: list[str] = []
    start = threading.Barrier(40)

    def guess() -> None:
        with base.app_context():
            start.wait()
            try:
                enter("wrong password", address=AWAY)
            except (Busy, Forbidden) as refusal:
                outcomes.append(refusal.code)

    threads = [threading.Thread(target=guess) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["sign_in_refused"] * 10 + ["too_many_tries"] * 30


# --- links -----------------------------------------------------------------------------------------


def test_a_link_signs_in_once_and_sets_nothing(dora):
    invited, token = door.add_person(dora, "ben@example.org", "reviewer")
    session = door.sign_in_by_link(token, HOME)
    assert door.person_of(session).id == invited.id
    assert person(invited.id).password_hash is None
    with pytest.raises(Forbidden) as refusal:
        door.sign_in_by_link(token, HOME)
    assert refusal.value.code == "link_refused"
    assert token not in {link.token_hash for link in db.session.scalars(select(SignInLink))}


def test_a_link_lasts_72_hours(dora):
    _, token = door.add_person(dora, "ben@example.org", "reviewer")
    pass_time(timedelta(hours=71, minutes=59))
    _, other = door.add_person(dora, "eve@example.org", "reviewer")
    pass_time(timedelta(minutes=2))
    with pytest.raises(Forbidden):
        door.sign_in_by_link(token, HOME)
    assert door.sign_in_by_link(other, HOME)


def test_a_link_of_somebody_deactivated_is_refused(dora):
    invited, token = door.add_person(dora, "ben@example.org", "reviewer")
    door.deactivate(dora, invited.id)
    for text in (token, "", "nonsense", "\ud800"):
        with pytest.raises(Forbidden):
            door.sign_in_by_link(text, HOME)


def test_a_link_is_used_once_by_many_at_once(base, dora):
    _, token = door.add_person(dora, "ben@example.org", "reviewer")
    got: list[str] = []
    start = threading.Barrier(8)

    def use() -> None:
        with base.app_context():
            start.wait()
            with suppress(Forbidden):
                got.append(door.sign_in_by_link(token, HOME))

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1


def test_new_link_ends_password_sessions_and_older_links(dora, ada):
    session = enter()
    first = door.new_link(dora, ada)
    second = door.new_link(dora, ada)
    assert door.person_of(session) is None
    with pytest.raises(Forbidden):
        enter()
    with pytest.raises(Forbidden):
        door.sign_in_by_link(first, HOME)
    assert door.person_of(door.sign_in_by_link(second, HOME)).id == ada


# --- sessions --------------------------------------------------------------------------------------


def test_a_session_ends_when_idle_for_half_an_hour(ada):
    token = enter()
    pass_time(timedelta(minutes=29))
    assert door.person_of(token)
    pass_time(timedelta(minutes=29))
    assert door.person_of(token)
    pass_time(timedelta(minutes=31))
    assert door.person_of(token) is None


def test_a_session_ends_after_twelve_hours_however_busy(ada):
    token = enter()
    for _ in range(35):
        pass_time(timedelta(minutes=20))
        assert door.person_of(token)
    pass_time(timedelta(minutes=21))
    assert door.person_of(token) is None


def test_a_page_that_polls_does_not_keep_a_session_alive(ada):
    token = enter()
    for _ in range(2):
        pass_time(timedelta(minutes=14))
        assert door.person_of(token, seen=False)
    pass_time(timedelta(minutes=3))
    assert door.person_of(token, seen=False) is None


def test_person_of_refuses_anything_else(ada):
    enter()
    stored = db.session.scalars(select(WebSession.token_hash)).one()
    for token in ("", "nonsense", "\x00", "\ud800", stored):
        assert door.person_of(token) is None


def test_sign_out_ends_this_session_only(ada):
    here, there = enter(), enter()
    door.sign_out(here)
    assert door.person_of(here) is None
    assert door.person_of(there).id == ada


def test_revoke_sessions_works_for_oneself_and_for_who_manages_people(ada, dora, make):
    tokens = [enter(), enter()]
    with pytest.raises(Forbidden):
        door.revoke_sessions(make.person("ben"), ada)
    assert len(door.sessions_of(ada)) == 2
    door.revoke_sessions(actor_of(person(ada)), ada)
    assert [door.person_of(token) for token in tokens] == [None, None]
    token = enter()
    door.revoke_sessions(dora, ada)
    assert door.person_of(token) is None
    assert door.sessions_of(ada) == []


def test_deactivate_ends_sessions_at_once(ada, dora):
    token = enter()
    door.deactivate(dora, ada)
    assert door.person_of(token) is None
    with pytest.raises(Forbidden):
        enter()
    with pytest.raises(Forbidden):
        actor_of(person(ada))
    door.reactivate(dora, ada)
    assert door.person_of(token) is None
    assert door.person_of(enter()).id == ada


# --- passwords -------------------------------------------------------------------------------------


def test_add_person_refuses_a_password_that_is_easy_to_guess(base):
    with pytest.raises(Invalid) as refusal:
        door.add_person(SYSTEM, "ada@example.org", "reviewer", password="ada123456789")
    assert refusal.value.errors[0]["pointer"] == "password"
    assert db.session.scalars(select(Person)).all() == []


def test_a_password_is_the_same_however_its_letters_are_composed(base):
    door.add_person(SYSTEM, "ada@example.org", "reviewer", password="caf\u00e9 caf\u00e9 caf\u00e9")
    assert enter("cafe\u0301 cafe\u0301 cafe\u0301")


def test_set_password_wants_the_old_one_and_ends_other_sessions(ada):
    others = [enter(), enter()]
    for old in (None, "", "wrong password"):
        with pytest.raises(Invalid) as refusal:
            door.set_password(person(ada), old, "ten yellow badgers")
        assert refusal.value.errors[0]["pointer"] == "old"
    fresh = door.set_password(person(ada), PASSWORD, "ten yellow badgers")
    assert door.person_of(fresh).id == ada
    assert [door.person_of(token) for token in others] == [None, None]
    with pytest.raises(Forbidden):
        enter()
    assert enter("ten yellow badgers")


def test_set_password_is_throttled_as_signing_in_is(ada):
    for _ in range(10):
        with pytest.raises(Invalid):
            door.set_password(person(ada), "wrong password", "ten yellow badgers")
    with pytest.raises(Busy):
        door.set_password(person(ada), PASSWORD, "ten yellow badgers")


def test_set_password_is_free_for_who_came_by_a_link(dora):
    invited, token = door.add_person(dora, "ben@example.org", "reviewer")
    door.sign_in_by_link(token, HOME)
    with pytest.raises(Invalid):
        door.set_password(person(invited.id), None, "short")
    assert door.set_password(person(invited.id), None, PASSWORD)
    assert enter(email="ben@example.org")


# --- who changes whom ------------------------------------------------------------------------------


@pytest.mark.parametrize("who", ["ada", "cleo", "aud", "mallory"])
def test_only_an_admin_changes_people(make, who):
    actor, other = make.person(who), make.person("ben").id
    for attempt in (
        lambda: door.add_person(actor, "new@example.org", "admin"),
        lambda: door.new_link(actor, other),
        lambda: door.set_role(actor, actor.id, "admin"),
        lambda: door.set_queues(actor, actor.id, True),
        lambda: door.deactivate(actor, other),
        lambda: door.reactivate(actor, other),
        lambda: door.revoke_sessions(actor, other),
    ):
        with pytest.raises(Forbidden):
            attempt()
    db.session.rollback()
    assert person(actor.id).role == actor.role
    assert person(other).active


def test_add_person_refuses_what_is_no_address(base):
    for email in (
        "",
        "ada",
        "@",
        "a@",
        "@b",
        "a b@c",
        "a@b@c",
        "a\n@b",
        "\ud800@b",
        "x" * 250 + "@example.org",
    ):
        with pytest.raises(Invalid) as refusal:
            door.add_person(SYSTEM, email, "reviewer")
        assert refusal.value.errors[0]["pointer"] == "email"


def test_add_person_refuses_unknown_roles_and_known_addresses(ada):
    with pytest.raises(Invalid):
        door.add_person(SYSTEM, "new@example.org", "backend")
    with pytest.raises(Conflict):
        door.add_person(SYSTEM, "ADA@example.org", "reviewer")


def test_set_role_signs_the_person_out(ada, dora):
    token = enter()
    door.set_role(dora, ada, "lead")
    assert door.person_of(token) is None
    assert person(ada).role == "lead"
    token = enter()
    door.set_role(dora, ada, "lead")
    assert door.person_of(token) is not None
    with pytest.raises(Missing):
        door.set_role(dora, "usr_nobody", "lead")


def test_the_last_admin_stays(dora):
    for attempt in (
        lambda: door.set_role(dora, dora.id, "reviewer"),
        lambda: door.deactivate(dora, dora.id),
    ):
        with pytest.raises(Conflict):
            attempt()
    other = actor_of(door.add_person(dora, "eve@example.org", "admin")[0])
    door.set_role(dora, dora.id, "reviewer")
    with pytest.raises(Conflict):
        door.deactivate(other, other.id)


def test_two_admins_who_remove_each_other_at_once_leave_one(base, dora):
    other = actor_of(door.add_person(dora, "eve@example.org", "admin")[0])
    start, refused = threading.Barrier(2), []

    def remove(actor, target) -> None:
        with base.app_context():
            start.wait()
            try:
                door.deactivate(actor, target.id)
            except Conflict:
                refused.append(actor.id)

    pairs = [(dora, other), (other, dora)]
    threads = [threading.Thread(target=remove, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    db.session.rollback()
    assert len(refused) == 1
    assert db.session.scalar(select(func.count()).where(Person.role == "admin", Person.active)) == 1


def test_set_queues_replaces_what_a_person_may_work(make, dora):
    make.project()
    queues = {queue.name: queue for queue in db.session.scalars(select(Queue))}
    ben = make.person("ben", queues=[queues["main"]])
    assert [queue.name for queue in visible_queues(ben)] == ["main"]
    door.set_queues(dora, ben.id, False)
    assert visible_queues(actor_of(person(ben.id))) == []
    door.set_queues(dora, ben.id, False, [queues["main"], queues["main"]])
    assert len(db.session.scalars(select(QueueAccess)).all()) == 1
    door.set_queues(dora, ben.id, True)
    assert visible_queues(actor_of(person(ben.id))) != []


def test_changes_of_people_stand_in_the_ledger_without_names_or_secrets(ada, dora):
    token = enter()
    fresh = door.set_password(person(ada), PASSWORD, "ten yellow badgers")
    door.set_role(dora, ada, "lead")
    door.set_queues(dora, ada, False)
    link = door.new_link(dora, ada)
    door.revoke_sessions(dora, ada)
    door.deactivate(dora, ada)
    door.reactivate(dora, ada)
    db.session.rollback()
    told = b"\n".join(db.session.scalars(select(LedgerEntry.body))).decode()
    for change in (
        "person added", "password set", "role set", "queues set", "link made", "sessions ended",
        "person deactivated", "person reactivated",
    ):  # fmt: skip
        assert f'"change":"{change}"' in told, change
    for secret in (token, fresh, link, PASSWORD, "ten yellow badgers", "ada@example.org", "argon2"):
        assert secret not in told


def test_sign_in_with_a_hash_somebody_broke_is_refused(ada):
    with transaction() as session:
        session.execute(update(Person).values(password_hash="nonsense"))
    with pytest.raises(Forbidden):
        enter()
