"""What deploy/ holds is what the programs it is for accept, and names nothing that is not there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from reviewqueue.config import Settings
from tests.conftest import need
from tests.fire.nginx import Nginx

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


def test_nginx_takes_the_site_file(tmp_path: Path) -> None:
    nginx = need(lambda: Nginx(tmp_path / "nginx", [1, 2]))
    checked = subprocess.run(nginx.command("-t"), capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    site = nginx.folder / "site.conf"
    site.write_text(site.read_text().replace("proxy_http_version", "proxy_http_versoin"))
    assert subprocess.run(nginx.command("-t"), capture_output=True).returncode != 0


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd here")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace("/opt/reviewqueue/.venv/bin/python", sys.executable)
        (tmp_path / unit.name).write_text(text)
    command = ["systemd-analyze", "verify", "--man=no", *map(str, sorted(tmp_path.iterdir()))]
    checked = subprocess.run(command, capture_output=True, text=True)
    # What the distribution's own units are told off for is not ours to mend.
    ours = [line for line in checked.stderr.splitlines() if "reviewqueue" in line]
    assert (checked.returncode, ours) == (0, [])


def test_units_run_commands_that_exist_with_the_settings_beside_them() -> None:
    assert len(UNITS) == 3
    for unit in UNITS:
        text = unit.read_text()
        arguments = re.search(r"^ExecStart=\S+/python -m reviewqueue (\w+)$", text, re.M)
        assert arguments
        helped = subprocess.run(
            [sys.executable, "-m", "reviewqueue", arguments[1], "--help"], capture_output=True
        )
        assert helped.returncode == 0
        assert "EnvironmentFile=/etc/reviewqueue/reviewqueue.env\n" in text


def test_settings_of_the_environment_file_are_taken_by_production() -> None:
    lines = [
        line for line in (DEPLOY / "reviewqueue.env").read_text().splitlines() if line and line[0] != "#"
    ]
    settings = Settings.load(dict(line.split("=", 1) for line in lines))
    assert (settings.env, settings.proxy_hops, settings.secure) == ("production", 1, True)


@pytest.fixture
def exposed(client: Callable[..., Any]) -> set[str]:
    """The names of all samples there can be."""
    families = re.findall(r"^# TYPE (\w+) (\w+)$", client().get("/metrics").text, re.M)
    parts = {"histogram": ("_bucket", "_count", "_sum")}
    return {name + part for name, kind in families for part in parts.get(kind, ("",))}


def expressions(found: Any) -> Iterator[str]:
    """Every query in a dashboard."""
    if isinstance(found, dict):
        if isinstance(found.get("expr"), str):
            yield found["expr"]
        for value in found.values():
            yield from expressions(value)
    elif isinstance(found, list):
        for value in found:
            yield from expressions(value)


def rules() -> dict[str, Any]:
    """The alerts by name."""
    (group,) = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


@pytest.mark.sqlite
def test_dashboard_and_alerts_ask_for_metrics_that_exist(exposed: set[str]) -> None:
    asked = [
        *expressions(json.loads((DEPLOY / "grafana.json").read_text())),
        *(rule["expr"] for rule in rules().values()),
    ]
    assert len(asked) > 15
    for query in asked:
        names = set(re.findall(r"reviewqueue_\w+", query))
        assert names, query
        assert names <= exposed, query


def test_alerts_cover_what_must_be_noticed_and_say_what_it_means() -> None:
    found = rules()
    wanted = "OldestDueDelivery OldestWaitingItem ReviewsOverdue DeadDeliveries LeaseConflicts DiskFills"
    assert set(wanted.split()) <= set(found)
    assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in found.values())
