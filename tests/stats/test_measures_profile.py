from dataclasses import astuple
from math import inf, isnan, nan, sqrt

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import t as student

from circuitcheck.stats.bootstrap import cluster_weights, weighted_means
from circuitcheck.stats.simultaneous import largest_magnitude, profile_changes, profile_distance

IMPORTANCES = arrays(np.float64, 5, elements=st.integers(-20, 20).map(float))


def test_distance_by_hand():
    # The second head moves by 2, the largest of the reference is 4.
    assert profile_distance(np.array([4.0, -2.0, 1.0]), np.array([3.0, -4.0, 1.0])) == 0.5


def test_largest_is_of_the_reference_and_counts_without_sign():
    assert profile_distance(np.array([-8.0, 1.0]), np.array([-8.0, 17.0])) == 2.0


def test_every_draw_has_its_own_largest():
    """The same change is a quarter of one draw's largest importance and a half of the other's."""
    changes, references = np.array([[0.0, 1.0]] * 2), np.array([[4.0, -2.0], [0.5, -2.0]])
    still, moved = profile_changes(np.array([0.0, 1.0]), np.array([3.0, -2.0]), changes, references, units=9)
    assert astuple(still) == (0, 0, 0)
    # A standard error of 1/8, and Student's t of 8 degrees of freedom at 1 - 0.05 (1 - 1.5 / 9), of a variance divided
    # by 8; a quantile of 4000 normal draws is known to 2 %.
    reach = student.isf(0.025 * (1 - 1.5 / 9), 8) * sqrt(9 / 8) / 8
    assert astuple(moved) == pytest.approx((1 / 3, 1 / 3 - reach, 1 / 3 + reach), abs=0.05 * reach)


def test_a_change_that_is_certain_is_as_uncertain_as_what_it_is_relative_to():
    """Every prompt loses exactly 1 logit of the first head, whose importance varies from prompt to prompt."""
    importance = np.array([[2.0, 3, 4, 5, 6, 3, 4, 5], [1.0] * 8])
    moved = np.array([[-1.0] * 8, [0.0] * 8])
    weights = cluster_weights([str(place) for place in range(8)])
    ours, change = weighted_means(weights, importance), weighted_means(weights, moved)
    both = moved.mean(1), importance.mean(1), change, ours
    found = largest_magnitude(profile_changes(*both, units=8), profile_changes(*both, units=8, alone=True))
    assert found.value == 0.25
    # Importance is 4 with a standard error of 1.22 / sqrt(7) = 0.46, Student's t at 0.98 reaches 2.5 of them: 4 +-
    # 1.15; what is divided by it is skewed, and reaches up to twice as far.
    assert 2 > (0.25 - found.low) / (0.25 * 1.15 / 4) > 1
    assert 2 > (found.high - 0.25) / (0.25 * 1.15 / 4) > 1


def test_importances_that_a_draw_does_not_have_count_as_the_worst():
    references = np.array([[4.0]] * 96 + [[0.0]] * 4)
    changes = np.linspace(0.9, 1.1, 100)[:, None]
    one, reference = np.array([1.0]), np.array([4.0])
    (found,) = profile_changes(one, reference, changes, references, units=9)
    assert 0.19 < found.low < 0.25 < found.high < 0.31
    # Of 100 draws 5 may be beyond the interval.
    (found,) = profile_changes(one, reference, changes, np.roll(references, 2) * (np.arange(100) > 3)[:, None], units=9)
    assert astuple(found) == (0.25, -inf, inf)


def test_changes_relative_to_nothing_are_undefined():
    for reference in (0.0, nan):
        changes = profile_changes(np.ones(2), np.full(2, reference), np.ones((3, 2)), np.ones((3, 2)), units=5)
        assert all(isnan(end) for change in changes for end in astuple(change))


@pytest.mark.parametrize(
    ("reference", "candidate"),
    [([0.0, 0.0], [0.0, 0.0]), ([0.0, 0.0], [1.0, 0.0]), ([np.nan, 1.0], [1.0, 1.0]), ([1.0, 1.0], [1.0, np.nan])],
)
def test_undefined_is_nan(reference, candidate):
    assert np.isnan(profile_distance(np.array(reference), np.array(candidate)))


@settings(deadline=None)
@given(reference=IMPORTANCES, candidate=IMPORTANCES, power=st.integers(-5, 5))
def test_distance_knows_no_unit_and_is_0_against_itself(reference, candidate, power):
    assume(reference.any())
    assert profile_distance(reference, reference) == 0
    # Powers of two scale exactly.
    scaled = profile_distance(2.0**power * reference, 2.0**power * candidate)
    assert scaled == profile_distance(reference, candidate)


def test_other_heads_are_refused():
    with pytest.raises(ValueError, match="not of the same heads"):
        profile_distance(np.ones(3), np.ones(2))
    with pytest.raises(ValueError, match="not of the same heads"):
        profile_distance(np.ones(0), np.ones(0))
