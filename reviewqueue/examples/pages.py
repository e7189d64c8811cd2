"""The pages of examples: browse, compare, promote or retire, sets, exports, and a search as backends do it.

Everything an example says is hostile content; a page shows it through review/show.py alone.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, redirect, request, url_for
from sqlalchemy import Select, func, select
from werkzeug.wrappers import Response

from reviewqueue import lists, web
from reviewqueue.content.show import plain
from reviewqueue.db import db
from reviewqueue.desk.readable import changes, line, readable
from reviewqueue.errors import Invalid, Missing
from reviewqueue.examples import collect, export, retrieve
from reviewqueue.examples.api import as_file
from reviewqueue.examples.shapes import MOST_EXAMPLES, MOST_TOKENS
from reviewqueue.models import Decision, Example, ExampleSet, Project
from reviewqueue.models.examples import EXAMPLE_STATES
from reviewqueue.people import access

pages = Blueprint("examples", __name__)

CLIPPED = 160  # characters of an input or output in a list
NEWEST_SETS = 20
LONGEST_INPUT = 100_000  # characters of a search by hand


@pages.get("/examples")
@web.right("read_examples")
def examples() -> Response:
    """The examples of the projects one may see, newest first."""
    given = lists.asked("project", "state", "reason")
    projects = {project.id: project for project in access.projects_of(web.actor())}
    listed = lists.listed(_narrowed(given, projects), Example.id, given, lists.id_cursor("exa"))
    rows = [row[0] for row in listed.rows]
    return web.show(
        "examples/examples.html",
        listed=listed,
        rows=[_line(example) for example in rows],
        against=retrieve.contradictions(rows),
        own=collect.own_work(web.actor(), rows),
        projects=projects,
        names=access.people_of(example.author_id for example in rows),
        given=given,
        states=EXAMPLE_STATES,
        reasons=sorted({reason for project in projects.values() for reason in project.reasons}),
    )


def _narrowed(given: dict[str, str], projects: dict[str, Project]) -> Select[*tuple[Any, ...]]:
    named = {project.name: id_ for id_, project in projects.items()}
    name = lists.chosen(given, "project", list(named))
    query: Select[*tuple[Any, ...]] = select(Example)
    query = query.where(Example.project_id.in_([named[name]] if name else list(projects)))
    if state := lists.chosen(given, "state", EXAMPLE_STATES):
        query = query.where(Example.state == state)
    if "reason" in given:
        query = query.where(Example.reason == given["reason"])
    return query


def _line(example: Example) -> dict[str, Any]:
    """An example as one row of a list."""
    return {
        "example": example,
        "input": line(example.input, CLIPPED),
        "rejected": line(example.rejected_output, CLIPPED),
        "output": None if example.output is None else line(example.output, CLIPPED),
    }


@pages.get("/examples/<example_id>")
@web.right("read_examples")
def example(example_id: str) -> Response:
    """One example: what was said, what should have been, and what stands against it."""
    found = _visible(example_id)
    decision = db.session.get_one(Decision, found.decision_id)
    project = db.session.get_one(Project, found.project_id)
    rejected, corrected = found.rejected_output, found.output
    against = retrieve.contradictions([found])[found.id]
    return web.show(
        "examples/example.html",
        example=found,
        project=project,
        decision=decision,
        note=plain(decision.note) if decision.note else None,
        asked=readable(found.input),
        rejected=readable(rejected, project.kind),
        corrected=None if corrected is None else readable(corrected, project.kind),
        changes=None if corrected is None else changes(project.kind, rejected, corrected),
        against=[_line(other) for other in against],
        copies=[_line(other) for other in retrieve.near_copies(found) if other not in against],
        names=access.people_of([found.author_id, found.promoted_by, found.retired_by]),
        own=collect.has_say(web.actor(), found),
    )


def _visible(example_id: str) -> Example:
    found = db.session.get(Example, example_id)
    if found is None or found.project_id not in {p.id for p in access.projects_of(web.actor())}:
        raise Missing("There is no such example.")
    return found


@pages.post("/examples/<example_id>/promotion")
@web.right("promote")
def promotion(example_id: str) -> Response:
    """Put a proposed example into use."""
    _visible(example_id)
    collect.promote(web.actor(), example_id)
    web.notice("Promoted: searches serve it from now on, in a new set.")
    return redirect(url_for(".example", example_id=example_id), 303)


@pages.post("/examples/<example_id>/retirement")
@web.right("promote")
def retirement(example_id: str) -> Response:
    """Take an example out of use."""
    _visible(example_id)
    collect.retire(web.actor(), example_id)
    web.notice("Retired: no search serves it any more.")
    return redirect(url_for(".example", example_id=example_id), 303)


@pages.get("/examples/projects/<project>")
@web.right("read_examples")
def of_project(project: str) -> Response:
    """A project's sets, its exports, and a search box."""
    return _of_project(access.project_for(web.actor(), project))


@pages.post("/examples/projects/<project>/search")
@web.right("read_examples")
def search(project: str) -> Response:
    """What a backend would get for an input. A form, not an address: what is asked may be confidential."""
    found = access.project_for(web.actor(), project)
    asked = request.form.get("input", "").replace("\r\n", "\n")
    try:
        if not asked.strip() or len(asked) > LONGEST_INPUT:
            raise Invalid(f"Type an input of at most {LONGEST_INPUT:,} characters.", field="input")
        k, most = _count("k", MOST_EXAMPLES), _count("max_tokens", MOST_TOKENS)
    except Invalid as refused:
        return _of_project(found, refused.errors[0], status=422)
    return _of_project(found, served=retrieve.search(found, asked, k, most))


def _count(name: str, most: int) -> int:
    text = request.form.get(name, "")
    if not text.isascii() or not text.isdigit() or len(text) > 9 or not 1 <= int(text) <= most:
        raise Invalid(f"A whole number from 1 to {most:,}.", field=name)
    return int(text)


def _of_project(
    project: Project, fault: Any = None, served: retrieve.Served | None = None, status: int = 200
) -> Response:
    counted = select(Example.state, func.count()).where(Example.project_id == project.id)
    counts = dict(db.session.execute(counted.group_by(Example.state)).all())
    sets = db.session.scalars(
        select(ExampleSet)
        .where(ExampleSet.project_id == project.id)
        .order_by(ExampleSet.number.desc())
        .limit(NEWEST_SETS)
    ).all()
    return web.show(
        "examples/project.html",
        status=status,
        project=project,
        counts={state: counts.get(state, 0) for state in EXAMPLE_STATES},
        sets=sets,
        names=access.people_of(one.created_by for one in sets),
        formats=list(export.FORMATS),
        form=request.form,
        fault=fault,
        served=served,
        messages=[] if served is None else [(m["role"], plain(m["content"])) for m in served.messages],
    )


@pages.post("/examples/projects/<project>/exports")
@web.right("export")
def exports(project: str) -> Response:
    """Download the examples. A form, because an export leaves an entry in the ledger."""
    return as_file(access.project_for(web.actor(), project), request.form.get("format", ""))
