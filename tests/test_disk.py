"""The disk guard: what it looks at, how often, and what it never stands in the way of."""

from __future__ import annotations

import json
from collections import namedtuple

import pytest

from reviewqueue import disk
from reviewqueue.errors import Busy

Usage = namedtuple("Usage", "total used free")
MIB, TIB = 1 << 20, 1 << 40


@pytest.fixture
def usage(monkeypatch):
    """`usage(free, total)` is what the disk looks like from now on; gives the list of places looked at."""
    looked = []

    def pretend(free, total=TIB):
        def look(place):
            looked.append(place)
            return Usage(total, total - free, free)

        monkeypatch.setattr(disk.shutil, "disk_usage", look)
        monkeypatch.setattr(disk, "_seen", {})
        return looked

    return pretend


def test_full_below_512_mib_and_of_a_small_disk_below_5_percent(base, usage):
    for free, total, answer in (
        (513 * MIB, TIB, False),
        (511 * MIB, TIB, True),
        (7 * MIB, 128 * MIB, False),
        (6 * MIB, 128 * MIB, True),
    ):
        usage(free, total)
        assert disk.full() is answer


def test_require_space_looks_once_a_second(base, usage, monkeypatch):
    moment = 1000.0
    monkeypatch.setattr(disk.time, "monotonic", lambda: moment)
    looked = usage(600 * MIB)
    disk.require_space()
    disk.require_space()
    assert len(looked) == 1
    moment += 1.5
    disk.require_space()
    assert len(looked) == 2


@pytest.mark.sqlite
def test_full_looks_where_the_database_lies(base, settings, usage):
    looked = usage(600 * MIB)
    disk.full()
    assert f"sqlite:///{looked[0]}/" in settings.database_url


def test_a_full_disk_refuses_submissions_and_nothing_else(make, client, usage):
    project = make.project()
    item = make.item(project)
    send = {"headers": {"Authorization": f"Bearer {make.backend(project).api_key}"}}
    json_body = {"content_type": "application/json"} | send
    one = {"project": project.name, "output": "It left.", "confidence": 0.3}
    usage(100 * MIB)
    with pytest.raises(Busy):
        disk.require_space()
    visitor = client(make.person("ada"))
    for path, body in (("items", one), ("items/batch", {"items": [one]})):
        answer = visitor.post(
            f"/api/v1/{path}", data=json.dumps(body), content_type="application/json", **send
        )
        assert (answer.status_code, answer.json["code"]) == (503, "storage_full")
        assert int(answer.headers["Retry-After"]) <= 10
    assert visitor.get(f"/api/v1/items/{item.id}", **send).status_code == 200
    assert make.decide(make.person("ada"), item).decision is not None
    assert visitor.get("/readyz").json["checks"]["disk"] == "full"
    usage(600 * MIB)
    answer = visitor.post("/api/v1/items", data=json.dumps(one), **json_body)
    assert answer.status_code == 201
