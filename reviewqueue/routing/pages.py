"""The pages of policies: what is in force in words, every version, pausing, and a trial on past items.

Publishing stays with the command line: a policy is a file that its owners keep and review.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, redirect, request, url_for
from sqlalchemy import select
from werkzeug.wrappers import Response

from reviewqueue import lists, web
from reviewqueue.content.guidance import guided
from reviewqueue.content.show import plain, pretty_json
from reviewqueue.db import db
from reviewqueue.errors import Invalid
from reviewqueue.models import Policy, Queue
from reviewqueue.people import access
from reviewqueue.routing import projects, telling
from reviewqueue.routing.route import shortest
from reviewqueue.routing.rules import PolicyBody
from reviewqueue.routing.trial import LIMIT, Trial, trial

pages = Blueprint("routing", __name__)

MOST_ITEMS = 5000  # of a trial
TRIED = ("below", "above", "missing", "items")
MISSING = {"review": "is reviewed", "pass": "passes"}


@pages.get("/policies")
@web.right("read_policies")
def policies() -> Response:
    """The projects one may see, each with what its policy does."""
    rows = []
    for project in access.projects_of(web.actor()):
        policy = projects.body_of(projects.policy_of(project))
        rows.append((project, policy, telling.policy_in_words(policy)[0]))
    return web.show("routing/policies.html", rows=rows, percent=telling.percent)


@pages.get("/policies/<project>")
@web.right("read_policies")
def policy(project: str) -> Response:
    """A project, its policy in words, and every version with what it changed."""
    found = access.project_for(web.actor(), project)
    versions = db.session.scalars(
        select(Policy).where(Policy.project_id == found.id).order_by(Policy.version.desc())
    ).all()
    body = projects.body_of(versions[0])
    return web.show(
        "routing/policy.html",
        project=found,
        guidelines=guided(found.guidelines, tuple(found.reasons)),
        schema=plain(pretty_json(found.schema)) if found.schema else None,
        words=telling.policy_in_words(body),
        rules=[(rule, telling.rule_in_words(rule)) for rule in body.rules],
        versions=_with_changes(versions),
        names=access.people_of(version.published_by for version in versions),
        queues=db.session.scalars(
            select(Queue.name).where(Queue.project_id == found.id).order_by(Queue.created_at, Queue.name)
        ).all(),
        percent=telling.percent,
    )


def _with_changes(versions: Any) -> list[tuple[Policy, list[str] | None, Any]]:
    """Each version with what it changed against the one before (None: the first), and its body as text."""
    older = [*versions[1:], None]
    return [
        (
            version,
            None if before is None else projects.differences(before.body, version.body),
            plain(pretty_json(version.body)),
        )
        for version, before in zip(versions, older, strict=True)
    ]


@pages.post("/policies/<project>/pause")
@web.right("publish")
def pause(project: str) -> Response:
    """From now on everything is reviewed."""
    projects.pause(web.actor(), project)
    web.notice("Paused: everything that comes in is reviewed.")
    return redirect(url_for(".policy", project=project), 303)


@pages.post("/policies/<project>/resume")
@web.right("publish")
def resume(project: str) -> Response:
    """The policy counts again."""
    projects.resume(web.actor(), project)
    web.notice("Resumed: the policy counts again.")
    return redirect(url_for(".policy", project=project), 303)


@pages.get("/policies/<project>/trial")
@web.right("insight")
def trial_of(project: str) -> Response:
    """What other thresholds would have done with past items."""
    found = access.project_for(web.actor(), project)
    in_force = projects.body_of(projects.policy_of(found))
    # An emptied field means "no threshold", so what was sent counts, not only what was filled in.
    asked = {name: request.args.get(name, "")[: lists.LONGEST] for name in TRIED}
    result, changed, fault, status = None, in_force, None, 200
    if any(name in request.args for name in TRIED):
        try:
            changes, items = _on_trial(asked)
            result = trial(found, changes, items)
            changed = in_force.model_copy(update=changes)
        except Invalid as refused:
            fault, status = refused.errors[0], 422
    else:
        asked = _as_asked(in_force)
    return web.show(
        "routing/trial.html",
        status=status,
        project=found,
        asked=asked,
        fault=fault,
        result=result,
        said=None if result is None else _sentence(in_force, changed, result),
        missing=list(MISSING.items()),
        most=MOST_ITEMS,
    )


def _as_asked(policy: PolicyBody) -> dict[str, str]:
    return {
        "below": "" if policy.confidence_below is None else str(policy.confidence_below),
        "above": "" if policy.risk_above is None else str(policy.risk_above),
        "missing": policy.missing_confidence,
        "items": str(LIMIT),
    }


def _on_trial(asked: dict[str, str]) -> tuple[dict[str, Any], int]:
    """The changes asked for to the policy in force, and over how many items."""
    changes = {
        "confidence_below": _share("below", asked["below"]),
        "risk_above": _share("above", asked["above"]),
        "missing_confidence": lists.chosen(asked, "missing", list(MISSING)),
    }
    items = asked["items"]
    if not items.isascii() or not items.isdigit() or len(items) > 6 or not 1 <= int(items) <= MOST_ITEMS:
        raise Invalid(f"A whole number from 1 to {MOST_ITEMS:,}.", field="items")
    return changes, int(items)


def _share(name: str, text: str) -> float | None:
    text = text.strip()
    if not text:
        return None
    try:
        share = float(text) if text.isascii() else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise Invalid("A number from 0 to 1, or nothing for no threshold.", field=name)
    return share


def _sentence(in_force: PolicyBody, changed: PolicyBody, result: Trial) -> str:
    """What a lead wants to hear first."""
    tried = [
        f"{'none' if new is None else shortest(new)} instead of {'none' if old is None else shortest(old)}"
        for old, new in (
            (in_force.confidence_below, changed.confidence_below),
            (in_force.risk_above, changed.risk_above),
        )
        if old != new
    ]
    begins = f"With {' and '.join(tried)}" if tried else "With the thresholds in force"
    reviewed, wrong = result.then.reviewed, result.then.errors_released
    errors = f"{wrong:,} error" + ("" if wrong == 1 else "s")
    return (
        f"{begins}: {reviewed:,} of {result.items:,} would have been reviewed, {errors} would have been "
        f"released, of the ones we know."
    )
