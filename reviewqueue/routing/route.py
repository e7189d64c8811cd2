"""route(): the policy's answer for one item, with its reasons. Pure: no database, no clock, no chance.

Whoever calls it tosses the coin. Probabilities and thresholds are those of risk control: what stands in a
Route is pinned on the item for good. A message must never quote the item's content.
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, TypedDict

from reviewqueue.routing.rules import MAIN, CannotTell, PolicyBody, Rule, holds


class Reason(TypedDict):
    """Why an item goes where it goes: a word for programs and a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True)
class Route:
    """The answer for one item, and all that a threshold can later be proved with.

    `review_probability` is π, `floor_probability` p: the smallest π an eligible item could have had.
    """

    decision: Literal["release", "review", "block"]
    queue: str | None  # of the review, gate or control; None when nobody looks
    reasons: list[Reason]
    reviews: int  # wanted: 0 when nobody looks
    priority: str
    eligible: bool
    passed: bool
    confidence_below: float | None  # thresholds in force, None: none
    risk_above: float | None
    review_probability: float
    floor_probability: float
    sampled: bool


def coin(key: bytes, item_id: str) -> float:
    """The item's coin in [0, 1): 53 bits of HMAC-SHA256(key, "control-sample:" + id), risk control 2."""
    digest = hmac.digest(key, b"control-sample:" + item_id.encode(), "sha256")
    return float((int.from_bytes(digest[:8], "big") >> 11) / 2**53)


def route(item: Mapping[str, Any], policy: PolicyBody, coin: float, paused: bool = False) -> Route:
    """Where `item`, as submitted, goes under `policy`: rules in order, then thresholds, then the coin.

    `coin` is in [0, 1). While `paused` everything is reviewed. Never raises on an item.
    """
    rule, fault = _matching(item, policy)
    confidence, risk = _number(item.get("confidence")), _number(item.get("risk"))
    below, above = policy.confidence_below, policy.risk_above
    low_risk = above is None or (risk is not None and risk <= above)
    eligible = rule is None and confidence is not None and low_risk
    in_force = not paused and (below is not None or above is not None)
    passed = eligible and in_force and confidence is not None and (below is None or confidence >= below)

    if rule is None:
        stopped, let_through = _thresholds(policy, confidence, risk)
        decision: Literal["release", "review", "block"] = "review" if stopped else "release"
        reasons = stopped or let_through
    elif fault is not None:
        decision, reasons = "review", [fault]
    else:
        decision, reasons = rule.route, _rule_reasons(rule)
    asked = rule if rule is not None and rule.route == "review" else None
    if paused:
        reasons = [_reason("paused", "the project is paused: everything is reviewed")]
        reasons += _rule_reasons(asked) if asked is not None and fault is None else []
        decision = "review"

    probability = {"review": 1.0, "release": policy.control_rate, "block": 0.0}[decision]
    sampled = coin < probability
    if decision == "release" and sampled:
        reasons = [*reasons, _reason("control_sample", "chosen by lot to be reviewed after its release")]
    wanted = decision == "review" or (decision == "release" and sampled)
    return Route(
        decision=decision,
        queue=(asked.queue if asked else MAIN) if wanted else None,
        reasons=reasons,
        reviews=((asked.reviews if asked else None) or policy.reviews) if wanted else 0,
        priority=asked.priority if asked else "normal",
        eligible=eligible,
        passed=passed,
        confidence_below=below if in_force else None,
        risk_above=above if in_force else None,
        review_probability=probability,
        floor_probability=policy.control_rate if in_force else 1.0,
        sampled=sampled,
    )


def _matching(item: Mapping[str, Any], policy: PolicyBody) -> tuple[Rule | None, Reason | None]:
    """The first rule that holds, or the first that cannot be evaluated and why.

    A rule one of whose conditions fails does not hold, whatever the others are.
    """
    for rule in policy.rules:
        failed, fault = False, None
        for condition in rule.when:
            try:
                failed = failed or not holds(condition, item)
            except CannotTell as error:
                fault = fault or _reason("rule_error", f'rule "{rule.name}" cannot be evaluated: {error}')
        if not failed:
            return rule, fault
    return None, None


def _rule_reasons(rule: Rule) -> list[Reason]:
    reasons = [_reason(f"rule:{rule.name}", f'rule "{rule.name}" holds')]
    if rule.route == "block":
        reasons.append(_reason("blocked", f'rule "{rule.name}" refuses the output'))
    return reasons


def _thresholds(
    policy: PolicyBody, confidence: float | None, risk: float | None
) -> tuple[list[Reason], list[Reason]]:
    """What the thresholds hold against the item, and what it is released for when that is nothing."""
    below, above = policy.confidence_below, policy.risk_above
    against: list[Reason] = []
    said: list[str] = []
    if below is None and above is None:
        everything = "the policy has no threshold: everything is reviewed"
        return [_reason("confidence_below", everything)], []
    if below is not None and confidence is None:
        if policy.missing_confidence == "review":
            against.append(_reason("confidence_missing", "confidence is missing"))
        said.append("confidence is missing, which this policy lets pass")
    elif below is not None and confidence is not None:
        if confidence < below:
            text = f"confidence {shortest(confidence)} is below {shortest(below)}"
            against.append(_reason("confidence_below", text))
        said.append(f"confidence {shortest(confidence)} is not below {shortest(below)}")
    if above is not None and risk is not None:
        if risk > above:
            text = f"risk {shortest(risk)} is above {shortest(above)}"
            against.append(_reason("risk_above", text))
        said.append(f"risk {shortest(risk)} is not above {shortest(above)}")
    elif above is not None and below is None:
        # Nothing at all is known about this item.
        against.append(_reason("risk_above", "risk is missing, and the policy has no other threshold"))
    return against, [_reason("passed", " and ".join(said))]


def shortest(number: float) -> str:
    """The shortest decimal that is exactly `number`, with two decimals at least: 0.8 is 0.80."""
    text = repr(float(number))
    if "e" in text:
        text = format(Decimal(text), "f")
    whole, _, decimals = text.partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _reason(code: str, message: str) -> Reason:
    return {"code": code, "message": message}
