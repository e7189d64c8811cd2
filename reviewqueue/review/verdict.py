"""What a verdict must be before a review or an override may carry it. Pure: it must never read or write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from reviewqueue.content.diff import same
from reviewqueue.content.fits import check
from reviewqueue.errors import Fault, Invalid
from reviewqueue.models import Item, Project, Review
from reviewqueue.models.review import VERDICTS

MAX_REMARK = 10_000  # characters


@dataclass(frozen=True)
class Verdict:
    """What somebody says about an item; `output` is the correction and there only when they edit.

    No verdict at all is what time running out leaves.
    """

    verdict: str | None
    output: Any = None
    reason: str | None = None
    cause: str | None = None
    note: str | None = None

    def same_as(self, other: Verdict) -> bool:
        """Whether both say the same, types included."""
        words, others = ((v.verdict, v.reason, v.cause, v.note) for v in (self, other))
        return words == others and same(self.output, other.output)


def judge(
    project: Project,
    item: Item,
    verdict: str,
    output: Any,
    reason: str | None,
    cause: str | None,
    note: str | None,
    *,
    reason_always: bool = False,
) -> Verdict:
    """The verdict as it may stand, or Invalid naming every field that is wrong.

    An edit must change the output and fit the project's kind and schema; edit and reject need a reason.
    """
    if verdict not in VERDICTS:
        raise Invalid("Choose approve, edit or reject.", field="verdict")
    faults: list[Fault] = []
    if reason or reason_always or verdict != "approve":
        faults += _listed("reason", reason, project.reasons)
    if cause:
        faults += _listed("cause", cause, project.causes)
    if verdict == "edit":
        faults += _unfit(project, item, output)
    if faults:
        raise Invalid(faults[0]["message"], errors=faults)
    correction = output if verdict == "edit" else None
    return Verdict(verdict, correction, reason or None, cause or None, clean(note, "note"))


def clean(text: str | None, field: str) -> str | None:
    """A remark without the space around it, None when nothing is left; Invalid when it cannot be kept."""
    text = (text or "").strip()
    if len(text) > MAX_REMARK:
        raise Invalid(f"Write at most {MAX_REMARK:,} characters.", field=field)
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Invalid("This holds a character that cannot be stored.", field=field)
    return text or None


def said(review: Review) -> Verdict:
    """What a given review says."""
    return Verdict(review.verdict, review.output, review.reason, review.cause, review.note)


def agree(reviews: list[Review]) -> bool:
    """Whether all reviews come to the same verdict and, when they edit, the same correction."""
    first = reviews[0]
    return all(r.verdict == first.verdict and same(r.output, first.output) for r in reviews[1:])


def _listed(field: str, word: str | None, words: list[Any]) -> list[Fault]:
    if not word:
        return [{"pointer": field, "message": f"Choose a {field}."}]
    if word not in words:
        return [{"pointer": field, "message": f"Choose a {field} from the project's list."}]
    return []


def _unfit(project: Project, item: Item, output: Any) -> list[Fault]:
    if output is None:
        return [{"pointer": "output", "message": "The corrected output is missing."}]
    if same(output, item.output):
        return [{"pointer": "output", "message": "An edit must change the output; approve it as it is."}]
    return [
        {"pointer": f"output{fault['pointer'].replace('/', '.')}", "message": fault["message"]}
        for fault in check(project.kind, project.schema, output)
    ]
