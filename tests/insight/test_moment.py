"""What goes on now: arrivals and decisions by hour, time to decision, who works on what."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import select, update

from reviewqueue import background
from reviewqueue.db import db, now, transaction
from reviewqueue.errors import Forbidden
from reviewqueue.insight.moment import moment_of
from reviewqueue.models import Decision, Item, Review


def test_moment_counts_hours_times_and_people(make: Any) -> None:
    project, other = make.project(), make.project("elsewhere")
    ada, cleo = make.person("ada"), make.person("cleo")
    items = [make.item(project, output=f"Parcel {n}") for n in range(5)]
    make.item(other)
    for item in items[:3]:
        make.decide(ada, item, "approve")
    make.claim(cleo, items[3])
    full = now().replace(minute=0, second=0, microsecond=0)
    with transaction() as session:
        session.execute(
            update(Item).where(Item.id == items[0].id).values(created_at=full - timedelta(hours=3))
        )
        session.execute(
            update(Decision)
            .where(Decision.item_id == items[0].id)
            .values(decided_at=full - timedelta(hours=1))
        )
    found = moment_of(cleo, project)
    assert len(found.hours) == 24
    by_hour = {hour.begins: (hour.arrived, hour.decided) for hour in found.hours}
    assert (by_hour[full - timedelta(hours=3)], by_hour[full - timedelta(hours=1)]) == ((1, 0), (0, 1))
    assert sum(arrived for arrived, _ in by_hour.values()) == 5
    assert sum(decided for _, decided in by_hour.values()) == 3
    assert found.timed == 3
    assert found.median is not None
    assert found.median < 60
    assert found.slowest_tenth is not None
    assert found.slowest_tenth > 3600
    [line] = [line for line in found.lines if line.queue.name == "main"]
    assert (line.waiting, line.held) == (1, 1)
    assert [(one.person, one.item_id) for one in found.at_work] == [("Cleo", items[3].id)]
    with pytest.raises(Forbidden):
        moment_of(ada, project)


@pytest.mark.sqlite
def test_presence_goes_with_the_page_and_never_lasts(
    make: Any, client: Callable[..., Any], redis_server: Any
) -> None:
    """The open review page asks every few seconds; half a minute after the last time nobody is there."""
    project = make.project()
    ada, cleo = make.person("ada"), make.person("cleo")
    claim = make.claim(ada, make.item(project))
    [one] = moment_of(cleo, project).at_work
    assert one.here is False
    visitor = client(ada)
    assert visitor.get(f"/claims/{claim.token}/lease").status_code == 204
    [one] = moment_of(cleo, project).at_work
    assert one.here is True
    page = client(cleo).get("/insight/now?project=support-replies").text
    assert ">open</span>" in page
    review_id = db.session.scalars(select(Review.id)).one()
    assert background.who_is_here([ada.id, cleo.id]) == {ada.id: review_id}
    with redis_server.client() as redis:
        assert 0 < redis.ttl(f"{background.QUEUE}:here:{ada.id}") <= 30
    visitor.send(f"/claims/{claim.token}/release")
    assert moment_of(cleo, project).at_work == []


@pytest.mark.sqlite
def test_without_redis_the_lease_tells(make: Any, client: Callable[..., Any]) -> None:
    project = make.project()
    ada, cleo = make.person("ada"), make.person("cleo")
    claim = make.claim(ada, make.item(project))
    client(ada).get(f"/claims/{claim.token}/lease")
    [one] = moment_of(cleo, project).at_work
    assert one.here is None
    assert abs((one.seen_at - now()).total_seconds()) < 60
    visitor = client(cleo)
    fragment = visitor.get("/insight/now?project=support-replies", headers={"HX-Request": "true"}).text
    assert fragment.startswith('<div id="_now"')
    assert "seen <time" in fragment
    assert "style=" not in fragment
    assert "No project yet" not in visitor.get("/insight/now").text
