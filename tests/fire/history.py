"""Histories: what every process asked and was told, and the checker that knows which histories cannot be.

A line is one call as JSON: process, op, item, and what belongs to the op (review, token as the fence,
decision, rev), call_ns, return_ns, outcome. A call without a return was cut off: it happened or it did not,
at any moment after it began. The clock is monotonic and the same for all processes of a machine.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from sqlalchemy.exc import OperationalError

from reviewqueue.db import db
from reviewqueue.errors import Refusal

Call = dict[str, Any]
Told = dict[str, Any] | None


class Recorder:
    """Writes down a call before it is made and again when it returned, so that a kill loses neither."""

    def __init__(self, path: Path, process: str) -> None:
        self.file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.process = process
        self.number = 0

    def call(self, op: str, item: str, act: Callable[[], Told], **fields: Any) -> Told:
        """Make the call; what it tells, or None when it was refused."""
        self.number += 1
        key = {"process": self.process, "number": self.number}
        self._write(key | fields | {"op": op, "item": item, "call_ns": time.monotonic_ns()})
        told: Told = None
        try:
            told = act() or {}
            outcome = "ok"
        except Refusal as refused:
            outcome = refused.code
        except OperationalError:
            # No answer is no answer: it may have been stored, as with a call that was cut off.
            db.session.rollback()
            return None
        self._write(key | (told or {}) | {"return_ns": time.monotonic_ns(), "outcome": outcome})
        return told

    def _write(self, line: Call) -> None:
        os.write(self.file, (json.dumps(line) + "\n").encode())


def read_history(folder: Path) -> list[Call]:
    """Every call in the files of a folder."""
    calls: dict[tuple[str, int], Call] = defaultdict(dict)
    for path in sorted(folder.glob("*.jsonl")):
        for text in path.read_text().splitlines():
            line = json.loads(text)
            calls[line["process"], line["number"]] |= line
    return list(calls.values())


def impossible(history: list[Call], lease_ns: int) -> list[str]:
    """What no order of these calls can explain. Nothing, when all is well."""
    items: dict[str, list[Call]] = defaultdict(list)
    reviews: dict[str, list[Call]] = defaultdict(list)
    for call in history:
        items[call["item"]].append(call)
        if "review" in call:
            reviews[call["review"]].append(call)
    wrong = [f"{review}: {what}" for review in reviews for what in _grants(reviews[review], lease_ns)]
    return wrong + [f"{item}: {what}" for item in items for what in _decisions(items[item])]


def _ok(calls: list[Call], *ops: str) -> list[Call]:
    return [call for call in calls if call["op"] in ops and call.get("outcome") == "ok"]


def _maybe(calls: list[Call], *ops: str) -> list[Call]:
    """Those that happened, and those of which nobody knows."""
    return [call for call in calls if call["op"] in ops and call.get("outcome", "ok") == "ok"]


def _grants(calls: list[Call], lease_ns: int) -> list[str]:
    """What is wrong with the claims of one review: each has a token of its own, larger than those before."""
    wrong = []
    grants = sorted(_ok(calls, "claim"), key=lambda call: int(call["token"]))
    for one, two in pairwise(grants):
        if one["token"] == two["token"]:
            wrong.append(f"token {one['token']} was granted twice")
        elif two["return_ns"] < one["call_ns"]:
            wrong.append(f"token {two['token']} was granted before {one['token']}")
        kept = [one, *(call for call in _ok(calls, "renew") if call["token"] == one["token"])]
        gave = [call["call_ns"] for call in calls if call["op"] in ("release", "decide", "undo")]
        leased = max(call["call_ns"] for call in kept) + lease_ns
        if two["return_ns"] < min([leased, *(moment for moment in gave if moment > one["call_ns"])]):
            wrong.append(f"token {two['token']} was granted while {one['token']} was held")
    newest = max((int(call["token"]) for call in grants), default=0)
    accepted = [call["token"] for call in _ok(calls, "decide")]
    wrong += [f"a decision with token {token} was accepted, {newest} was granted" for token in accepted
              if token < newest]  # fmt: skip
    return wrong


def _decisions(calls: list[Call]) -> list[str]:
    """What is wrong with the decisions of one item: one in each round, seen by whoever looks afterwards."""
    made = {call["decision"]: call for call in _maybe(calls, "decide", "override")}
    undone = {call["decision"]: call for call in _maybe(calls, "undo")}
    wrong = []
    rounds: dict[int, str] = {}
    for call in _ok(calls, "decide", "override"):
        other = rounds.setdefault(call["rev"], call["decision"])
        if other != call["decision"]:
            wrong.append(f"two decisions in round {call['rev']}: {other}, {call['decision']}")
    for read in _ok(calls, "read"):
        seen = made.get(read["decision"])
        if read["decision"] is not None and (seen is None or seen["call_ns"] > read["return_ns"]):
            wrong.append(f"{read['decision']} was seen and nobody had made it")
        if (
            read["decision"] in undone
            and undone[read["decision"]].get("return_ns", read["call_ns"]) < read["call_ns"]
        ):
            wrong.append(f"{read['decision']} was seen after it was taken back")
        wrong += _unseen(calls, read, seen, undone)
    return wrong


def _unseen(calls: list[Call], read: Call, seen: Call | None, undone: dict[str, Call]) -> list[str]:
    """Decisions that were answered before this read began, and that it should have told of."""
    before = [call for call in _ok(calls, "decide", "override") if call["return_ns"] < read["call_ns"]]
    if not before:
        return []
    last = max(before, key=lambda call: int(call["rev"]))
    taken_back = undone.get(last["decision"])
    if taken_back is not None and taken_back["call_ns"] < read["return_ns"]:
        return []
    if seen is None or seen.get("rev", last["rev"]) < last["rev"]:
        return [f"{last['decision']} was answered, and a later reader saw {read['decision']}"]
    return []
