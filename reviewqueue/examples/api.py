"""The examples API: search, sets and exports for backends."""

from __future__ import annotations

from dataclasses import asdict

from flask import Blueprint, Response, jsonify, request
from werkzeug.exceptions import UnsupportedMediaType
from werkzeug.wrappers import Response as AnyResponse

from reviewqueue import web
from reviewqueue.examples import export as exports
from reviewqueue.examples import retrieve
from reviewqueue.examples.shapes import ExampleSearch
from reviewqueue.intake.shapes import read
from reviewqueue.models import Project
from reviewqueue.people import access
from reviewqueue.strict_json import loads

api = Blueprint("examples_api", __name__, url_prefix="/api/v1/projects/<project>")


@api.post("/examples/search")
@web.scope("examples:read")
def search(project: str) -> Response:
    """The active examples nearest to an input."""
    found = _own_project(project)
    if request.mimetype != "application/json":
        raise UnsupportedMediaType
    asked = read(ExampleSearch, loads(request.get_data(cache=False)))
    return jsonify(asdict(retrieve.search(found, asked.input, asked.k, asked.max_tokens, asked.item)))


@api.get("/example-sets/<int:number>")
@web.scope("examples:read")
def example_set(project: str, number: int) -> AnyResponse:
    """One set, the same for ever: a browser or proxy may keep it."""
    found = retrieve.snapshot(_own_project(project), number)
    response = jsonify(found)
    response.set_etag(found["set_id"])
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return response.make_conditional(request)


@api.get("/examples/export")
@web.scope("export:read")
def export(project: str) -> Response:
    """The project's examples as a file in `format`, row by row."""
    return as_file(_own_project(project), request.args.get("format") or "jsonl")


def as_file(project: Project, form: str) -> Response:
    """An export as a download; it streams, so that its size does not matter."""
    lines = exports.export(web.actor(), project, form)
    kind, ending = ("text/csv", "csv") if form == "csv" else ("application/x-ndjson", "jsonl")
    response = Response(lines, mimetype=kind)
    response.headers["Content-Disposition"] = f'attachment; filename="{project.name}-{form}.{ending}"'
    return response


def _own_project(name: str) -> Project:
    return access.project_for(web.actor(), name)
