"""The pages of deliveries: who sees them, what the filters find, and one click to send again."""

from __future__ import annotations

import re
from typing import Any

import pytest
from sqlalchemy import select

from reviewqueue.db import db
from reviewqueue.delivery.deliver import deliver_due
from reviewqueue.delivery.turns import DELAYS
from reviewqueue.models import Delivery
from tests.delivery.conftest import Clock
from tests.make import Make
from tests.receiver import Receiver

pytestmark = pytest.mark.usefixtures("app")

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202egnp.exe"


def shown(page: str) -> list[str]:
    return re.findall(r'href="/deliveries/(evt_\w+)"', page)


def ids(**having: Any) -> list[str]:
    db.session.rollback()
    found = db.session.scalars(select(Delivery.id).filter_by(**having))
    return sorted(found, reverse=True)


def die(make: Make, project: Any, backend: Receiver, clock: Clock) -> str:
    """A delivery that was tried to the end."""
    item = make.item(project)
    make.decide(make.person("ada"), item)
    for delay in DELAYS:
        clock.move(seconds=1.3 * delay)
        deliver_due()
    (found,) = ids(item_id=item.id)
    assert db.session.get_one(Delivery, found).state == "dead"
    return found


def test_deliveries_are_for_those_who_oversee(client: Any, make: Make, project: Any) -> None:
    make.decide(make.person("ada"), make.item(project))
    (delivery,) = ids()
    for path in ("/deliveries", f"/deliveries/{delivery}"):
        for name in ("cleo", "dora", "aud"):
            assert client(make.person(name)).get(path).status_code == 200
        assert client(make.person("ada")).get(path).status_code == 403
        assert client(make.person("mallory")).get(path).status_code == 403
        assert client().get(path).status_code == 303


def test_deliveries_lists_all_newest_first_page_by_page(
    client: Any, make: Make, project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = make.person("ada")
    for _ in range(5):
        make.decide(ada, make.item(project))
    monkeypatch.setattr("reviewqueue.lists.PAGE", 2)
    visitor = client(make.person("aud"))
    seen: list[str] = []
    address: str | None = "/deliveries?state=due"
    while address:
        page = visitor.get(address).text
        seen += shown(page)
        found = re.search(r'href="([^"]+)" rel="next"', page)
        address = found[1].replace("&amp;", "&") if found else None
    assert seen == ids()
    assert len(seen) == 5


def test_deliveries_filters_by_state_backend_project_and_item(
    client: Any, make: Make, project: Any, backend: Receiver
) -> None:
    ada, other = make.person("ada"), make.project("other", undo_seconds=0)
    make.backend(other, "other-backend", callback=backend.url)
    first, second = make.item(project), make.item(other)
    make.decide(ada, first)
    deliver_due()
    make.decide(ada, second)
    visitor = client(make.person("cleo"))
    (sent,), (due,) = ids(item_id=first.id), ids(item_id=second.id)
    for query, expected in {
        "": [due, sent],
        "state=due": [due],
        "state=delivered": [sent],
        "backend=other-backend": [due],
        f"project={project.name}": [sent],
        "project=other&state=delivered": [],
        f"item={first.id}": [sent],
        "type=item.amended": [],
        "nonsense=1": [due, sent],
    }.items():
        assert shown(visitor.get(f"/deliveries?{query}").text) == expected, query
    for query in ("state=lost", "backend=nobody", "project=none", "type=x", "cursor=evt_1"):
        assert visitor.get(f"/deliveries?{query}").status_code == 422


def test_deliveries_shows_parked_and_dead_and_the_address_to_mend(
    client: Any, make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    backend.says(500)
    die(make, project, backend, clock)
    clock.move(minutes=15)
    backend.says(410)
    make.decide(make.person("ada"), make.item(project))
    deliver_due()
    page = client(make.person("cleo")).get("/deliveries").text
    assert "badge-dead" in page
    assert "badge-parked" in page
    assert "address is disabled" in page
    assert "gone for good" in page


def test_delivery_shows_each_attempt_and_what_was_answered_as_text(
    client: Any, make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    backend.says(500, HOSTILE.encode(), server="<b>evil</b>")
    make.decide(make.person("ada"), make.item(project, output="<script>alert(3)</script>"))
    deliver_due()
    backend.says(200, b"fine now")
    clock.move(seconds=10)
    deliver_due()
    (delivery,) = ids()
    page = client(make.person("aud")).get(f"/deliveries/{delivery}").text
    assert "The receiver failed." in page
    assert "The receiver accepted the callback." in page
    assert "fine now" in page
    assert "127.0.0.1" in page
    assert "&lt;script&gt;alert(1)" in page
    assert "&lt;b&gt;evil" in page
    assert "⟨U+202E⟩" in page
    assert "<script>alert" not in page
    assert "<img" not in page


def test_delivery_says_what_it_waits_for(client: Any, make: Make, project: Any, backend: Receiver) -> None:
    from reviewqueue.review.settle import override

    backend.says(500)
    item = make.item(project)
    make.decide(make.person("ada"), item)
    override(make.person("cleo"), item.id, "reject", None, "tone")
    deliver_due()
    second, first = ids()
    page = client(make.person("aud")).get(f"/deliveries/{second}").text
    assert f'href="/deliveries/{first}"' in page
    assert "Waits for" in page


def test_delivery_that_is_not_there_is_missing(client: Any, make: Make) -> None:
    visitor = client(make.person("cleo"))
    for wrong in ("evt_" + "0" * 26, "nonsense"):
        assert visitor.get(f"/deliveries/{wrong}").status_code == 404
        assert visitor.send(f"/deliveries/{wrong}/replay").status_code == 404


def test_replay_is_one_click_for_a_lead_and_nobody_else(
    client: Any, make: Make, project: Any, backend: Receiver, clock: Clock
) -> None:
    backend.says(500)
    dead = die(make, project, backend, clock)
    path = f"/deliveries/{dead}"
    assert "/replay" not in client(make.person("aud")).get(path).text
    assert client(make.person("aud")).send(f"{path}/replay").status_code == 403
    assert client(make.person("ada")).send(f"{path}/replay").status_code == 403
    assert ids(state="dead") == [dead]

    lead = client(make.person("cleo"))
    assert f'action="{path}/replay"' in lead.get(path).text
    answer = lead.send(f"{path}/replay")
    assert (answer.status_code, answer.location) == (303, path)
    assert "It will be sent again" in lead.get(path).text
    assert f'action="{path}/replay"' not in lead.get(path).text
    assert lead.send(f"{path}/replay").status_code == 409
    backend.says(200)
    deliver_due()
    assert ids(state="delivered") == [dead]


def test_replay_range_sends_again_what_the_filters_show(
    client: Any, make: Make, project: Any, backend: Receiver
) -> None:
    ada = make.person("ada")
    for _ in range(3):
        make.decide(ada, make.item(project))
    deliver_due()
    make.decide(ada, make.item(project))
    ended = ids(state="delivered")
    path = "/deliveries?state=delivered&since=2020-01-01"
    lead = client(make.person("cleo"))
    assert "Send all 3 again" in lead.get(path).text
    assert "again</span>" not in lead.get("/deliveries?until=2020-01-01").text
    for name in ("aud", "ada"):
        assert client(make.person(name)).send(path.replace("?", "/replay?")).status_code == 403
    assert ids(state="delivered") == ended
    assert lead.send("/deliveries/replay?state=delivered&until=2020-01-01").status_code == 303
    assert ids(state="delivered") == ended
    answer = lead.send(path.replace("?", "/replay?"))
    assert (answer.status_code, answer.location) == (303, path)
    assert "3 will be sent again" in lead.get(path).text
    assert ids(state="delivered") == []
    assert deliver_due() == 4
