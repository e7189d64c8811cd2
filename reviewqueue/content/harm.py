"""Which risk flags say that a text may hurt whoever reads it, by category.

Backends name their flags as they like, so a category is known by words in a flag's name. Must never hide a
text for a flag that speaks of anything else: what is folded without need is opened without reading.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

CATEGORIES: dict[str, tuple[str, ...]] = {
    "self-harm": ("self_harm", "selfharm", "suicid", "distress", "eating_disorder"),
    "violence": ("violen", "gore", "graphic", "torture", "terror"),
    "sexual content": ("sexual", "nsfw", "porn", "csam", "csae", "groom"),
    "hate": ("hate", "racis", "slur", "extremis"),
    "harassment": ("harass", "abus", "bully", "insult", "toxic", "profan"),
    "other harmful content": ("harmful", "disturb", "traum"),
}


def words_of(category: str) -> tuple[str, ...]:
    """The beginnings of words by which a flag belongs to the category; none for one we do not know."""
    return CATEGORIES.get(category, ())


def categories_of(flags: Iterable[object] | None) -> list[str]:
    """The categories of harm that an item's risk flags name."""
    names = ["_" + re.sub(r"[^a-z0-9]+", "_", str(flag).lower()) for flag in flags or ()]
    return [
        category
        for category, words in CATEGORIES.items()
        if any(f"_{word}" in name for name in names for word in words)
    ]
