"""One page of figures per project and period. It counts and divides; it promises nothing."""

from __future__ import annotations

from dataclasses import asdict
from datetime import date, timedelta
from typing import Any

from flask import Blueprint
from werkzeug.wrappers import Response

from reviewqueue import lists, web
from reviewqueue.content.show import plain
from reviewqueue.db import now
from reviewqueue.insight.figures import Figures, figures
from reviewqueue.insight.moment import moment_of
from reviewqueue.people import access

pages = Blueprint("insight", __name__)

PERIODS = {"7": "7 days", "30": "30 days", "90": "90 days", "365": "a year"}


@pages.get("/insight")
@web.right("insight")
def insight() -> Response:
    """The figures of one project, of the first one unless the address names another."""
    given = lists.asked("project", "days")
    projects = access.projects_of(web.actor())
    name = lists.chosen(given, "project", [project.name for project in projects])
    days = int(lists.chosen(given, "days", list(PERIODS)) or "30")
    project = next((one for one in projects if name in (None, one.name)), None)
    since = now() - timedelta(days=days)
    found = None if project is None else figures(project, since)
    return web.show(
        "insight/insight.html",
        projects=projects,
        project=project,
        days=str(days),
        periods=list(PERIODS.items()),
        since=since,
        found=found,
        calendar=[] if found is None else _calendar(found, since.date()),
        lasted=_lasted(found.seconds) if found and found.seconds is not None else None,
        percent=_percent,
        plain=plain,
    )


@pages.get("/insight/now")
@web.right("insight")
def at_present() -> Response:
    """What goes on in one project now; the page asks for its inner part again while it is open."""
    given = lists.asked("project")
    projects = access.projects_of(web.actor())
    name = lists.chosen(given, "project", [project.name for project in projects])
    project = next((one for one in projects if name in (None, one.name)), None)
    found = moment_of(web.actor(), project) if project else None
    return web.show(
        "insight/now.html", "insight/_now.html", projects=projects, project=project, found=found,
        hours=[{"day": f"{hour.begins:%H}–{(hour.begins + timedelta(hours=1)):%H} UTC", **asdict(hour)}
               for hour in found.hours] if found else [],
        lasted=_lasted,
    )  # fmt: skip


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share * 100:.1f} %"


def _lasted(seconds: float) -> str:
    for size, name in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} s"


def _calendar(found: Figures, first: date) -> list[dict[str, Any]]:
    """Every day of the period, or every week of a long one, with how many items came in."""
    counts = dict(found.days)
    last = now().date()
    step = 1 if (last - first).days <= 100 else 7
    bars = []
    while first <= last:
        run = [(first + timedelta(days=ahead)).isoformat() for ahead in range(step)]
        bars.append({"day": run[0], "count": sum(counts.get(day, 0) for day in run)})
        first += timedelta(days=step)
    return bars
