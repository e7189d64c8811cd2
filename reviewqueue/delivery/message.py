"""What a callback says: the bytes of an event, fixed in the transaction that caused it.

Every attempt and every replay sends these very bytes; nothing here may depend on when it is sent.
"""

from __future__ import annotations

import hashlib
from typing import Any

from reviewqueue.db import dumps, stamp
from reviewqueue.ledger.record import Recorded
from reviewqueue.models import Decision, Item


def event_body(kind: str, item: Item, decision: Decision, project: str, recorded: Recorded) -> bytes:
    """The body of event `kind` about `decision`, as UTF-8 JSON; `project` is the project's name."""
    data: dict[str, Any] = {
        "id": item.id,
        "external_id": item.external_id,
        "project": project,
        "sequence": decision.sequence,
        "verdict": decision.verdict,
        "output": decision.output,
        "output_sha256": output_sha256(decision.output),
        "edited": decision.edited,
        "reason": decision.reason,
        "cause": decision.cause,
        "note": decision.note,
        "decided_at": stamp(decision.decided_at),
        "decided_by": decision.decided_by,
        "policy_version": decision.policy_version,
        "metadata": item.details or {},
        "ledger": {"seq": recorded.seq, "leaf": recorded.leaf, "checkpoint": None},
    }
    if decision.source == "timeout":
        data["timeout"] = "release" if decision.released else "reject"
    return dumps({"type": kind, "timestamp": stamp(decision.decided_at), "data": data}).encode()


def challenge_body(challenge: str, moment: str) -> bytes:
    """The body of `endpoint.verify`, which the receiver answers with the challenge."""
    return dumps({"type": "endpoint.verify", "timestamp": moment, "data": {"challenge": challenge}}).encode()


def output_sha256(output: Any) -> str | None:
    """SHA-256, in hex, of a text's UTF-8 bytes, or of other JSON exactly as it stands in the body."""
    if output is None:
        return None
    text = output if isinstance(output, str) else dumps(output)
    return hashlib.sha256(text.encode()).hexdigest()
