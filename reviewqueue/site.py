"""The routes that belong to no stage: is it well, what do browsers report, where does this link lead.

Answers here name the parts of the deployment and count; they must never hold item content.
"""

from __future__ import annotations

from flask import Blueprint, Response, jsonify

from reviewqueue.web import right

pages = Blueprint("site", __name__)
api = Blueprint("site_api", __name__)


@api.get("/healthz")
@right(None)
def healthz() -> Response:
    """The process answers."""
    return jsonify({"status": "ok"})
