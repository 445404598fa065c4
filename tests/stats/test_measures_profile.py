import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitcheck.stats.profile import profile_distance, profile_distance_draws

IMPORTANCES = arrays(np.float64, 5, elements=st.integers(-20, 20).map(float))


def test_distance_by_hand():
    # The second head moves by 2, the largest of the reference is 4.
    assert profile_distance(np.array([4.0, -2.0, 1.0]), np.array([3.0, -4.0, 1.0])) == 0.5


def test_largest_is_of_the_reference_and_counts_without_sign():
    assert profile_distance(np.array([-8.0, 1.0]), np.array([-8.0, 17.0])) == 2.0


def test_every_draw_has_its_own_largest():
    reference = np.array([[4.0, -2.0], [1.0, 0.5], [0.0, 0.0]])
    candidate = np.array([[3.0, -2.0], [0.0, 0.5], [1.0, 0.0]])
    np.testing.assert_array_equal(profile_distance_draws(reference, candidate), [0.25, 1.0, np.nan])


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
