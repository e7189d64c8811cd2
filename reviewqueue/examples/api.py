"""The examples API: search, sets and exports for backends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

from flask import Blueprint, Response, jsonify, request, stream_with_context
from pydantic import ValidationError

from reviewqueue import web
from reviewqueue.errors import Invalid, Missing
from reviewqueue.examples import export as exports
from reviewqueue.examples import retrieve
from reviewqueue.examples.shapes import ExampleSearch
from reviewqueue.models import Project
from reviewqueue.people import access

api = Blueprint("examples_api", __name__, url_prefix="/api/v1/projects/<project>")
TYPES = {"csv": "text/csv; charset=utf-8"}


@api.post("/examples/search")
@web.scope("examples:read")
def search(project: str) -> Response:
    """The active examples nearest to an input."""
    found = _own_project(project)
    asked = _asked()
    return jsonify(asdict(retrieve.search(found, asked.input, asked.k, asked.max_tokens, asked.item)))


@api.get("/example-sets/<int:number>")
@web.scope("examples:read")
def example_set(project: str, number: int) -> Response:
    """One set, the same for ever: a browser or proxy may keep it."""
    found = retrieve.snapshot(_own_project(project), number)
    response = jsonify(found)
    response.set_etag(found["set_id"])
    response.headers["Cache-Control"] = "private, max-age=31536000, immutable"
    return response.make_conditional(request)


@api.get("/examples/export")
@web.scope("export:read")
def export(project: str) -> Response:
    """Every example of the project as a file in `format`."""
    form = request.args.get("format", "jsonl")
    lines: Iterator[str] = exports.export(_own_project(project), form)
    return Response(stream_with_context(lines), mimetype=TYPES.get(form, "application/x-ndjson"))


def _own_project(name: str) -> Project:
    return access.project_for(web.actor(), name)
