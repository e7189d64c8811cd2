"""Saved views: one's own and shared ones, with counts; nobody asks more through one than they may."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.errors import Conflict, Forbidden, Invalid, Missing
from reviewqueue.finding import catalogue, views
from reviewqueue.models import Queue

pytestmark = pytest.mark.sqlite  # nothing here depends on the database


def names(actor: Any, *args: Any, **more: Any) -> list[tuple[str, int | None]]:
    return [(one.view.name, one.count) for one in views.views_of(actor, *args, **more)]


def test_views_are_ones_own_or_shared_and_counted(make: Any) -> None:
    project, other = make.project(), make.project("elsewhere")
    for text in ("tulips one", "tulips two", "parcel"):
        make.item(project, output=text, risk=0.9)
    catalogue.index_due()
    queue, elsewhere = (
        db.session.scalars(select(Queue).where(Queue.project_id == one.id, Queue.name == "main")).one()
        for one in (project, other)
    )
    ada, cleo = make.person("ada"), make.person("cleo")
    ben = make.person("ben", queues=[elsewhere])
    views.save(ada, "Flowers", {"text": "tulips"}, queue, shared=False)
    views.save(cleo, "Risky", {"risk_from": "0.8", "sort": "newest"}, queue, shared=True)
    views.save(cleo, "All of it", {"text": "parcel"}, queue, shared=True)
    views.save(cleo, "Pending", {"status": "pending"}, None, shared=True)
    assert names(ada, queue) == [("All of it", 1), ("Flowers", 2)], "a reviewer may not ask by risk"
    assert names(cleo, queue) == [("All of it", 1), ("Risky", 3)]
    assert names(ada) == []
    assert names(cleo) == [("Pending", 3)]
    assert names(ada, everywhere=True) == [("All of it", 1), ("Flowers", 2)]
    assert names(ben, everywhere=True) == [], "nor is a view of another's queue theirs"


def test_save_replaces_ones_own_of_that_name_and_refuses_the_rest(make: Any) -> None:
    project = make.project()
    queue = db.session.scalars(
        select(Queue).where(Queue.project_id == project.id, Queue.name == "main")
    ).one()
    ada, cleo = make.person("ada"), make.person("cleo")
    for text in ("one", "two"):
        view = views.save(ada, " Mine ", {"text": text}, queue, shared=False)
    assert [one.view.filters for one in views.views_of(ada, queue)] == [{"text": "two"}]
    for given, name in (
        ({}, "x"),
        ({"text": "a"}, " "),
        ({"text": "a"}, "x" * 61),
        ({"risk_from": "0.1"}, "x"),
    ):
        with pytest.raises(Invalid):
            views.save(ada, name, given, queue, shared=False)
    with pytest.raises(Forbidden):
        views.save(ada, "x", {"text": "a"}, queue, shared=True)
    with pytest.raises(Forbidden):
        views.save(ada, "x", {"text": "a"}, None, shared=False)
    with pytest.raises(Missing):
        views.remove(cleo, view.id)
    views.remove(ada, view.id)
    assert names(ada, queue) == []
    for number in range(views.MOST):
        views.save(ada, f"{number}", {"text": "a"}, queue, shared=False)
    with pytest.raises(Conflict):
        views.save(ada, "one more", {"text": "a"}, queue, shared=False)


def test_a_view_is_saved_and_removed_from_its_list(make: Any, client: Callable[..., Any]) -> None:
    make.item(make.project(), output="tulips <b>")
    catalogue.index_due()
    visitor = client(make.person("cleo"))
    here = "/queues/support-replies/main"
    assert "Save this view" in visitor.get(f"{here}?text=tulips").text
    sent = {"list": "support-replies/main", "filters": "text=tulips&sort=newest&cursor=x", "name": "<i>Mine"}
    answer = visitor.send("/views", sent | {"shared": "yes"})
    assert answer.location == f"{here}?text=tulips&sort=newest"
    page = visitor.get(answer.location).text
    assert "&lt;i&gt;Mine <strong>1</strong>" in page
    removal = page.partition('action="/views/')[2].partition('"')[0]
    assert "&lt;i&gt;Mine <strong>1</strong>" in client(make.person("ada")).get("/").text
    assert visitor.send(f"/views/{removal}").location == here
    assert "&lt;i&gt;Mine" not in visitor.get("/").text
