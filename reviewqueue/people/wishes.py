"""How a person likes to work: keys of their own, and how much of what hurts they want to see.

Nobody but the person reads or changes these. Must never be counted, listed or shown to anybody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from reviewqueue.content.harm import CATEGORIES
from reviewqueue.db import transaction
from reviewqueue.errors import Fault, Invalid
from reviewqueue.models import Person
from reviewqueue.people.access import Actor

# What a key of one's own can be given to, with the key it has otherwise.
ACTIONS: dict[str, tuple[str, str]] = {
    "approve": ("1", "Approve"),
    "edit": ("2", "Edit"),
    "reject": ("3", "Reject"),
    "skip": ("s", "Skip"),
    "snooze": ("h", "Snooze"),
    "escalate": ("e", "Pass on"),
    "assign": ("a", "Assign"),
    "undo": ("u", "Undo"),
    "raw": ("r", "Raw text"),
    "open": ("o", "Open what is folded"),
    "next": ("n", "Review the next, on the desk"),
}
TAKEN = "?/jk"  # of every page
PROTECTION = ("flagged", "all")
MOST_A_DAY = 2_000


@dataclass(frozen=True)
class Wishes:
    """A person's wishes with the usual ones filled in; `daily` reviews in 24 hours, None for no budget."""

    keys: Mapping[str, str] = field(default_factory=lambda: {name: key for name, (key, _) in ACTIONS.items()})
    protection: str = "flagged"
    leave_out: tuple[str, ...] = ()
    daily: int | None = None


def wishes_of(stored: Mapping[str, Any] | None) -> Wishes:
    """The wishes as a person's row holds them; what is not said there is as usual."""
    stored = stored or {}
    usual = Wishes()
    return Wishes(
        keys={**usual.keys, **{name: key for name, key in stored.get("keys", {}).items() if name in ACTIONS}},
        protection=stored.get("protection", usual.protection),
        leave_out=tuple(one for one in stored.get("leave_out", ()) if one in CATEGORIES),
        daily=stored.get("daily"),
    )


def choose_keys(actor: Actor, keys: Mapping[str, str]) -> None:
    """Keep the actor's own keys, by action; an action left empty gets its usual key back.

    Each is one visible character, no two are alike, and none is one that every page uses.
    """
    chosen = {name: (keys.get(name, "").strip() or usual).lower() for name, (usual, _) in ACTIONS.items()}
    faults: list[Fault] = []
    for name, key in chosen.items():
        if len(key) != 1 or not key.isprintable() or key.isspace():
            faults.append({"pointer": name, "message": "Choose one character."})
        elif key in TAKEN:
            faults.append({"pointer": name, "message": f"{key.upper()} means something else on every page."})
        elif list(chosen.values()).count(key) > 1:
            faults.append({"pointer": name, "message": f"{key.upper()} is taken twice."})
    if faults:
        raise Invalid("These keys cannot be used.", errors=faults)
    _keep(actor, keys={name: key for name, key in chosen.items() if key != ACTIONS[name][0]})


def choose_care(actor: Actor, protection: str, leave_out: Iterable[str], daily: str) -> None:
    """Keep how the actor wants to be spared: what is folded, what is not offered, how much in 24 hours."""
    if protection not in PROTECTION:
        raise Invalid("Choose one of the ways offered.", field="protection")
    unknown = [one for one in leave_out if one not in CATEGORIES]
    if unknown:
        raise Invalid("Choose from the categories offered.", field="leave_out")
    daily = daily.strip()
    if daily and not (re.fullmatch(r"\d{1,4}", daily, re.ASCII) and 1 <= int(daily) <= MOST_A_DAY):
        raise Invalid(f"Choose a number from 1 to {MOST_A_DAY:,}, or none.", field="daily")
    _keep(actor, protection=protection, leave_out=sorted(set(leave_out)), daily=int(daily) if daily else None)


def _keep(actor: Actor, **wishes: Any) -> None:
    with transaction() as session:
        person = session.get_one(Person, actor.id)
        person.wishes = (person.wishes or {}) | wishes
