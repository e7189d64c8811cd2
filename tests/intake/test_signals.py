from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reviewqueue.intake.signals import agreement, confidence_of, mean_token_probability


def test_a_given_confidence_wins_over_everything() -> None:
    assert confidence_of("a", 0, [-1.0], ["a"]) == (0.0, "given")


def test_logprobs_give_the_geometric_mean_of_token_probabilities() -> None:
    found = confidence_of("a", None, [math.log(0.9), math.log(0.4)], ["a"])
    assert found == (pytest.approx(0.6), "logprobs")


def test_samples_give_the_share_that_agrees() -> None:
    assert confidence_of("Yes", None, None, ["yes", " YES\n", "no", "Ｙes"]) == (0.75, "samples")
    assert confidence_of("Yes", None, [], ["no"]) == (0.0, "samples")


def test_nothing_to_derive_from_is_no_confidence() -> None:
    assert confidence_of("a", None, None, None) == (None, None)
    assert confidence_of("a", None, [], []) == (None, None)


SAME = [
    ({"a": 1, "b": [True]}, {"b": [True], "a": 1.0}),
    ([{"role": "assistant", "content": "Hello  there"}], [{"role": "assistant", "content": "hello there"}]),
    ("Straße", "STRASSE"),
]
OTHER = [({"a": 1}, {"a": "1"}), ({"a": True}, {"a": 1}), (["a", "b"], ["b", "a"]), ({"a": None}, {})]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_agreement_ignores_spelling_that_means_nothing(one: Any, other: Any) -> None:
    assert agreement(one, [other]) == 1.0


@pytest.mark.parametrize(("one", "other"), OTHER)
def test_agreement_tells_values_apart(one: Any, other: Any) -> None:
    assert agreement(one, [other]) == 0.0


@given(st.lists(st.floats(-9999, 0), min_size=1))
def test_mean_token_probability_stays_within_0_and_1(logprobs: list[float]) -> None:
    assert 0 <= mean_token_probability(logprobs) <= 1
