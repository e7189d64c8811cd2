"""What a submission tells besides its text: a confidence, given or derived from what came with the output.

Pure. A confidence it cannot derive is None, never a guess.
"""

from __future__ import annotations

import json
import math
import unicodedata
from collections.abc import Sequence
from typing import Any, Literal

Source = Literal["given", "logprobs", "samples"]


def confidence_of(
    output: Any, given: float | None, logprobs: Sequence[float] | None, samples: Sequence[Any] | None
) -> tuple[float | None, Source | None]:
    """The confidence in 0..1 and where it comes from: as given, else from logprobs, else from samples."""
    if given is not None:
        return float(given), "given"
    if logprobs:
        return mean_token_probability(logprobs), "logprobs"
    if samples:
        return agreement(output, samples), "samples"
    return None, None


def mean_token_probability(logprobs: Sequence[float]) -> float:
    """exp of the mean token log-probability (natural logarithm): the geometric mean of the probabilities."""
    return min(1.0, math.exp(math.fsum(logprobs) / len(logprobs)))


def agreement(output: Any, samples: Sequence[Any]) -> float:
    """The share of `samples` that say the same as `output`, up to case, spacing and Unicode spelling."""
    own = _normal(output)
    return sum(_normal(sample) == own for sample in samples) / len(samples)


def _normal(value: Any) -> str:
    if isinstance(value, str):
        return " ".join(unicodedata.normalize("NFKC", value).casefold().split())
    if isinstance(value, dict):
        return json.dumps({key: _normal(inner) for key, inner in value.items()}, sort_keys=True)
    if isinstance(value, list):
        return json.dumps([_normal(inner) for inner in value])
    # 1 and 1.0 are one number; true is none.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"#{float(value)!r}" if number else f"#{value}"
