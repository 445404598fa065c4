from math import inf, isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitcheck.stats.estimate import Estimate, estimate

FINITE = st.floats(-1e6, 1e6)


def test_ends_are_order_statistics_of_the_draws():
    shuffled = np.random.default_rng(0).permutation(np.arange(1001.0))
    assert estimate(500.0, shuffled) == Estimate(500.0, 25.0, 975.0)
    assert estimate(500.0, shuffled, level=0.5) == Estimate(500.0, 250.0, 750.0)


def test_ends_are_rounded_outwards_and_not_interpolated():
    # 2.5 % of the way from place 0 to place 4 is place 0.1, rounded down to 0; likewise 3.9 is rounded up to 4.
    assert estimate(3.0, np.array([1.0, 2.0, 3.0, 4.0, 5.0])) == Estimate(3.0, 1.0, 5.0)


@pytest.mark.parametrize(("value", "expected"), [(-1.0, (-1.0, 5.0)), (9.0, (1.0, 9.0))])
def test_interval_is_widened_to_the_value(value, expected):
    result = estimate(value, np.array([1.0, 5.0]))
    assert (result.low, result.high) == expected


@pytest.mark.parametrize("draws", [[nan, 1.0, 2.0], [1.0] * 999 + [nan]])
def test_one_nan_draw_makes_the_interval_nan(draws):
    result = estimate(1.0, np.array(draws))
    assert result.value == 1.0
    assert isnan(result.low)
    assert isnan(result.high)


def test_nan_value_makes_the_interval_nan():
    result = estimate(nan, np.array([1.0, 2.0]))
    assert isnan(result.value)
    assert isnan(result.low)
    assert isnan(result.high)


def test_infinite_draws_stay_infinite():
    assert estimate(1.0, np.array([0.0, inf, inf])) == Estimate(1.0, 0.0, inf)


@pytest.mark.parametrize("draws", [np.empty(0), np.ones((2, 2))])
def test_draws_of_another_shape_are_refused(draws):
    with pytest.raises(ValueError, match=r"shape \[draws\]"):
        estimate(1.0, draws)


@pytest.mark.parametrize("level", [0.0, 1.0, 95.0])
def test_level_outside_0_and_1_is_refused(level):
    with pytest.raises(ValueError, match="level"):
        estimate(1.0, np.ones(3), level)


@settings(deadline=None)
@given(value=FINITE, draws=arrays(np.float64, st.integers(1, 60), elements=FINITE), level=st.floats(0.01, 0.99))
def test_interval_holds_the_value_and_at_least_its_level_of_the_draws(value, draws, level):
    result = estimate(value, draws, level)
    assert result.low <= result.value <= result.high
    inside = np.mean((draws >= result.low) & (draws <= result.high))
    # Of n ordered draws the ends are at least `level * (n - 1)` places apart; 1e-9 for rounding in that product.
    assert inside * len(draws) >= level * (len(draws) - 1) - 1e-9
