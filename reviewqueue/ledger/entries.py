"""What an entry of each type may say, and what a decision's entry says of its row.

Writing and verifying both go through here, so that they cannot drift apart. Bodies are kept for ever:
content, names and free text must never stand in one, only in a part.
"""

from __future__ import annotations

from typing import Any

from reviewqueue.db import dumps, stamp
from reviewqueue.models import Decision

VERSION = 1
CREATED = "ledger.created"

# What record() itself writes into every body.
COMMON = frozenset({"v", "log", "seq", "prev", "time", "type"})

# Content an entry commits to and that can be erased: what was asked, shown, let out, and the reason given.
PARTS = ("in", "shown", "out", "why")

# These body fields are repeated in columns of the entry's row, for look-ups.
INDEXED = {"item": "item_id", "decision": "decision_id", "project": "project_id", "actor": "actor"}

_DECISION_ROW = "rev source action released edited decided_at final_at policy_version sequence supersedes"

FIELDS: dict[str, frozenset[str]] = {
    type_: frozenset(names.split()) | INDEXED.keys()
    for type_, names in {
        CREATED: "key",
        "submissions.sealed": "n first last root",
        "decision": f"{_DECISION_ROW} token backend queue role factor policy dwell_ms",
        "review": "rev source action token backend queue role policy policy_version dwell_ms",
        "undo": "rev undone_at role",
        "withdrawal": "rev backend",
        "expiry": "rev action policy policy_version due_at queue",
        "delivery": "event endpoint backend sequence outcome attempts action role",
        "example": "change example set role",
        "export": "what format rows set role sha256",
        "rollback.acknowledged": "known leaf",
        "config": "change target role backend queue queues scopes purpose key policy policy_version "
        "every_queue trusted active endpoint paused",
    }.items()
}


def decision_facts(decision: Decision) -> dict[str, Any]:
    """The body fields that follow from a decision's row; None where there is nothing to say."""
    return {
        "decision": decision.id,
        "item": decision.item_id,
        "project": decision.project_id,
        "rev": decision.round,
        "source": decision.source,
        "action": decision.verdict or ("release" if decision.released else "withhold"),
        "released": decision.released,
        "edited": decision.edited,
        "actor": decision.decided_by or "system",
        "decided_at": stamp(decision.decided_at),
        "final_at": stamp(decision.final_at),
        "policy_version": decision.policy_version,
        "sequence": decision.sequence,
        "supersedes": decision.supersedes,
    }


def decision_parts(decision: Decision) -> dict[str, str]:
    """The erasable content of a decision's row: `out`, absent when nothing may be used, and `why`."""
    why = {"reason": decision.reason, "cause": decision.cause, "note": decision.note}
    parts = {"why": dumps(why)} if any(value is not None for value in why.values()) else {}
    if decision.output is not None:
        parts["out"] = dumps(decision.output)
    return parts


def undo_facts(decision: Decision) -> dict[str, Any]:
    """The body fields of the entry that takes `decision` back; its `undone_at` must be set."""
    if decision.undone_at is None:
        raise ValueError("the decision has not been undone")
    return {
        "decision": decision.id,
        "item": decision.item_id,
        "project": decision.project_id,
        "rev": decision.round,
        "undone_at": stamp(decision.undone_at),
    }
