"""Arithmetic on label logarithms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_stack.scoring import distributions

logprobs = st.lists(st.floats(-80, 0).map(lambda value: round(value, 6)), min_size=1, max_size=100)


@given(logprobs)
def test_probabilities_sum_to_one_and_keep_the_order(values: list[float]) -> None:
    probabilities = distributions.softmax(values)
    assert math.fsum(probabilities) == pytest.approx(1, abs=1e-12)
    assert all(p > 0 for p in probabilities)
    for a, b in zip(distributions.order(probabilities), distributions.order(probabilities)[1:], strict=False):
        assert values[a] >= values[b]


@given(logprobs, st.floats(-50, 50))
def test_only_differences_matter(values: list[float], shift: float) -> None:
    shifted = distributions.softmax([value + shift for value in values])
    assert shifted == pytest.approx(distributions.softmax(values), rel=1e-9)


def test_mass_is_the_sum_of_probabilities() -> None:
    assert distributions.mass([math.log(0.25), math.log(0.5)]) == pytest.approx(0.75)


@pytest.mark.parametrize(("mass", "flags"), [(None, ()), (0.9, ()), (0.1, ("label_mass.low",))])
def test_low_mass_is_flagged(mass: float | None, flags: tuple[str, ...]) -> None:
    assert distributions.mass_flags(mass) == flags


def test_ties_keep_the_order_of_the_input() -> None:
    assert distributions.order([0.2, 0.4, 0.4, 0.2]) == [1, 2, 0, 3]
