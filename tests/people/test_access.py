"""Who may do what, as one table, and who may see which object."""

from __future__ import annotations

import pytest

from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Forbidden, Missing
from reviewqueue.ids import new_id
from reviewqueue.models import Item, Project, Queue
from reviewqueue.people import access
from reviewqueue.people.access import RIGHTS, SCOPES, SYSTEM, Actor, backend_actor, may, require

# Who has a right: r(eviewer) l(ead) a(dmin) u(auditor) s(ystem) b(ackend with every scope).
TABLE = {
    "review": "rla", "adjudicate": "la", "override": "la", "promote": "la", "assign": "la",
    "replay": "las", "export": "las",
    "read_items": "rlaus", "read_examples": "rlaus", "read_policies": "rlaus",
    "read_audit": "laus", "read_deliveries": "laus", "read_backends": "laus", "insight": "laus",
    "read_people": "aus",
    "publish": "as", "manage_people": "as", "manage_backends": "as",
    "items:write": "b", "items:read": "b", "examples:read": "b", "export:read": "b",
}  # fmt: skip
LETTERS = {
    "r": Actor("usr_r", "reviewer"),
    "l": Actor("usr_l", "lead"),
    "a": Actor("usr_a", "admin"),
    "u": Actor("usr_u", "auditor"),
    "s": SYSTEM,
    "b": backend_actor("bck_b", "prj_p", SCOPES),
}


def test_may_is_exactly_the_table():
    assert set(TABLE) == set(RIGHTS)
    got = {right: {letter for letter, who in LETTERS.items() if may(who, right)} for right in RIGHTS}
    assert got == {right: set(letters) for right, letters in TABLE.items()}


def test_no_key_can_decide_promote_or_change_anything_people_decide():
    """Whatever scopes a key claims to have, even the names of rights."""
    everything = backend_actor("bck_b", "prj_p", set(RIGHTS) | set(SCOPES))
    assert {right for right in RIGHTS if may(everything, right)} == set(SCOPES)
    for right in set(RIGHTS) - set(SCOPES):
        with pytest.raises(Forbidden):
            require(everything, right)


@pytest.mark.parametrize("scope", SCOPES)
def test_may_needs_the_keys_scope(scope):
    lacking = backend_actor("bck_b", "prj_p", set(SCOPES) - {scope})
    assert not may(lacking, scope)
    assert may(backend_actor("bck_b", "prj_p", {scope}), scope)
    with pytest.raises(Forbidden, match=scope):
        require(lacking, scope)


def test_a_person_cannot_act_with_scopes():
    pretender = Actor("usr_x", "admin", scopes=frozenset(SCOPES))
    assert not any(may(pretender, scope) for scope in SCOPES)


def test_may_of_an_unknown_right_is_an_error():
    with pytest.raises(KeyError):
        may(SYSTEM, "fly")


def test_an_auditor_has_no_right_that_changes_anything():
    auditor = LETTERS["u"]
    assert all(right.startswith("read_") or right == "insight" for right in RIGHTS if may(auditor, right))


# --- objects ---------------------------------------------------------------------------------------


@pytest.fixture
def house(make):
    """Two projects with a rule's queue each, a backend and an item each, and the whole cast."""
    rule = {"name": "big", "when": [{"field": "risk", "op": "gt", "value": 0.9}], "route": "review"}
    for name in ("support-replies", "invoices"):
        make.project(name, rules=[rule | {"queue": "seniors"}])
    queues = {
        (row.project, row.name): row.queue
        for row in db.session.execute(
            db.select(Project.name.label("project"), Queue.name, Queue.id.label("queue"))
            .join(Queue, Queue.project_id == Project.id)
        )
    }  # fmt: skip
    seniors = db.session.get_one(Queue, queues["invoices", "seniors"])
    make.person("ben", queues=[seniors])
    for name in ("ada", "cleo", "dora", "aud", "mallory"):
        make.person(name)
    return make


def _item(make, project_name: str, backend_name: str | None = None) -> str:
    project = db.session.scalars(db.select(Project).filter_by(name=project_name)).one()
    backend = make.backend(project, backend_name).backend.id
    with transaction() as session:
        item = Item(
            id=new_id("itm"), project_id=project.id, backend_id=backend, content_sha256="0" * 64,
            created_at=now(), status="pending", output="secret text", policy_version=1, route="review",
            route_reasons=[], eligible=True, passed=False, review_probability=1.0, floor_probability=0.1,
            coin=0.5, sampled=False,
        )  # fmt: skip
        session.add(item)
        return item.id


def _names(queues: list[Queue]) -> set[tuple[str, str]]:
    projects = {p.id: p.name for p in db.session.scalars(db.select(Project))}
    return {(projects[queue.project_id], queue.name) for queue in queues}


ORDINARY = {(project, queue) for project in ("support-replies", "invoices") for queue in ("main", "seniors")}
ALL = ORDINARY | {("support-replies", "adjudication"), ("invoices", "adjudication")}


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("ada", ORDINARY),
        ("ben", {("invoices", "seniors")}),
        ("cleo", ALL),
        ("dora", ALL),
        ("aud", ALL),
        ("mallory", set()),
    ],
)
def test_visible_queues_are_those_of_the_person(house, who, expected):
    assert _names(access.visible_queues(house.person(who))) == expected


def test_visible_queues_of_a_backend_are_none(house):
    project = db.session.scalars(db.select(Project).filter_by(name="invoices")).one()
    assert access.visible_queues(house.backend_actor(project)) == []


def test_queue_for_gives_the_queue_or_says_it_is_not_there(house):
    assert access.queue_for(house.person("ada"), "invoices", "main").name == "main"
    assert access.queue_for(house.person("ben"), "invoices", "seniors").name == "seniors"
    assert access.queue_for(house.person("cleo"), "invoices", "adjudication").name == "adjudication"
    for who, project, queue in [
        ("ada", "invoices", "adjudication"),
        ("ada", "invoices", "nowhere"),
        ("ada", "nowhere", "main"),
        ("ben", "invoices", "main"),
        ("ben", "support-replies", "seniors"),
        ("mallory", "invoices", "main"),
    ]:
        with pytest.raises(Missing):
            access.queue_for(house.person(who), project, queue)


def test_queue_for_lets_an_auditor_look_and_not_work(house):
    auditor = house.person("aud")
    assert access.queue_for(auditor, "invoices", "main", "read_items").name == "main"
    with pytest.raises(Forbidden):
        access.queue_for(auditor, "invoices", "main")


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("ada", {"support-replies", "invoices"}),
        ("ben", {"invoices"}),
        ("cleo", {"support-replies", "invoices"}),
        ("aud", {"support-replies", "invoices"}),
        ("mallory", set()),
    ],
)
def test_projects_and_items_are_those_with_a_queue_of_the_person(house, who, expected):
    person = house.person(who)
    assert {project.name for project in access.projects_of(person)} == expected
    for name in ("support-replies", "invoices"):
        item = _item(house, name)
        if name in expected:
            assert access.project_for(person, name).name == name
            assert access.item_for(person, item).id == item
        else:
            with pytest.raises(Missing):
                access.project_for(person, name)
            with pytest.raises(Missing):
                access.item_for(person, item)


def test_item_for_a_backend_is_its_own_item_only(house):
    own, sibling, other = (
        _item(house, "invoices"),
        _item(house, "invoices", "second-backend"),
        _item(house, "support-replies"),
    )
    project = db.session.scalars(db.select(Project).filter_by(name="invoices")).one()
    actor = house.backend_actor(project)
    assert access.item_for(actor, own).id == own
    refusals = []
    for stranger in (sibling, other, new_id("itm"), "nonsense"):
        with pytest.raises(Missing) as refusal:
            access.item_for(actor, stranger)
        refusals.append((refusal.value.message, refusal.value.code))
    assert len(set(refusals)) == 1
    assert [p.name for p in access.projects_of(actor)] == ["invoices"]


def test_people_of_names_people_and_backends(house):
    ada = house.person("ada").id
    backend = house.backend(db.session.scalars(db.select(Project)).first()).backend
    found = access.people_of([ada, backend.id, None, "system", "usr_unknown"])
    assert found == {ada: "Ada", backend.id: backend.name}
    assert access.people_of([]) == {}
