import dataclasses
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import BaselineError, CandidateError
from circuitcheck.stats.drift import DriftSums, cosine, drift_draws, drift_sums, relative_drift

# Small integers, and factors that are small multiples of 1/16: float32 and the float64 sums hold them exactly.
WHOLE = st.integers(-8, 8).map(float)
LENGTHS = (2, 1, 3)
Z = arrays(np.float64, (2, sum(LENGTHS), 3, 2), elements=WHOLE)
# One division, one square root: each rounds once in float64.
ROUNDING = 1e-15


def cache(layers, lengths=LENGTHS, index=None):
    """`layers` is `[layers, positions, heads, d_head]`."""
    index = tuple(range(len(lengths))) if index is None else index
    return Activations(index, tuple(lengths), tuple(np.asarray(layer, np.float32) for layer in layers))


def by_hand():
    """One layer, two heads, prompts of two and of one position; head 1 keeps still."""
    still = [[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]]
    reference = [[3.0, 4.0], [0.0, 0.0], [0.0, 5.0]]
    candidate = [[3.0, 4.0], [0.0, 5.0], [0.0, 4.0]]
    return (
        cache([np.stack([reference, still], 1)], (2, 1)),
        cache([np.stack([candidate, still], 1)], (2, 1)),
    )


def test_sums_by_hand():
    sums = drift_sums(*by_hand())
    np.testing.assert_array_equal(sums.difference, [[25, 1], [0, 0]])
    np.testing.assert_array_equal(sums.reference, [[25, 25], [6, 9]])
    np.testing.assert_array_equal(sums.candidate, [[50, 16], [6, 9]])
    np.testing.assert_array_equal(sums.dot, [[25, 20], [6, 9]])
    assert all(getattr(sums, field.name).dtype == np.float64 for field in dataclasses.fields(sums))


def test_drift_and_cosine_by_hand():
    sums = drift_sums(*by_hand())
    np.testing.assert_allclose(relative_drift(sums), [np.sqrt(26 / 50), 0], rtol=ROUNDING)
    np.testing.assert_allclose(cosine(sums), [45 / np.sqrt(50 * 66), 1], rtol=ROUNDING)


def test_drift_draws_by_hand():
    draws = drift_draws(drift_sums(*by_hand()), np.array([[1, 1], [2, 0], [0, 2]]))
    np.testing.assert_allclose(draws, [[np.sqrt(26 / 50), 0], [1, 0], [np.sqrt(1 / 25), 0]], rtol=ROUNDING)


def test_heads_are_ordered_by_layer_then_head():
    reference = np.ones((2, 6, 3, 2))
    candidate = reference + np.array([[0, 1, 2], [3, 4, 5]])[:, None, :, None]
    drift = relative_drift(drift_sums(cache(reference), cache(candidate)))
    np.testing.assert_allclose(drift, [0, 1, 2, 3, 4, 5], rtol=ROUNDING)


def test_layers_may_have_other_numbers_of_heads():
    reference = cache([np.ones((3, 2, 2)), np.ones((3, 1, 4))], (2, 1))
    candidate = cache([np.ones((3, 2, 2)), 2 * np.ones((3, 1, 4))], (2, 1))
    np.testing.assert_array_equal(relative_drift(drift_sums(reference, candidate)), [0, 0, 1])


@settings(deadline=None)
@given(z=Z)
def test_drift_against_itself_is_0_and_cosine_1(z):
    sums = drift_sums(cache(z), cache(z))
    assert (relative_drift(sums) == 0).all()
    assert (cosine(sums) == 1).all()
    assert (drift_draws(sums, np.array([[1, 1, 1], [0, 3, 0]])) == 0).all()


@settings(deadline=None)
@given(z=Z, sixteenths=st.integers(-15, 32))
def test_scaling_by_1_plus_e_drifts_by_e(z, sixteenths):
    assume((np.abs(z).sum((1, 3)) > 0).all())
    e = sixteenths / 16
    sums = drift_sums(cache(z), cache((1 + e) * z))
    np.testing.assert_allclose(relative_drift(sums), abs(e), rtol=ROUNDING)
    np.testing.assert_allclose(cosine(sums), 1, rtol=ROUNDING)


@settings(deadline=None)
@given(z=Z, other=Z)
def test_drift_is_the_frobenius_norm_of_all_positions(z, other):
    assume((np.abs(z).sum((1, 3)) > 0).all())
    expected = [
        np.linalg.norm(z[layer, :, head] - other[layer, :, head]) / np.linalg.norm(z[layer, :, head])
        for layer in range(2)
        for head in range(3)
    ]
    # Two norms and a division in another order: a few roundings.
    np.testing.assert_allclose(relative_drift(drift_sums(cache(z), cache(other))), expected, rtol=4 * ROUNDING)


def test_all_prompts_once_draw_the_drift_itself():
    rng = np.random.default_rng(0)
    sums = drift_sums(cache(rng.normal(size=(2, 6, 3, 2))), cache(rng.normal(size=(2, 6, 3, 2))))
    np.testing.assert_allclose(drift_draws(sums, np.ones((1, 3)))[0], relative_drift(sums), rtol=4 * ROUNDING)


def test_reference_of_zeros():
    reference = np.zeros((1, 6, 2, 2))
    candidate = reference.copy()
    candidate[0, 3, 1] = 1
    sums = drift_sums(cache(reference), cache(candidate))
    np.testing.assert_array_equal(relative_drift(sums), [0, np.inf])
    np.testing.assert_array_equal(cosine(sums), [1, 0])
    draws = drift_draws(sums, np.array([[1, 1, 1], [3, 0, 0]]))
    np.testing.assert_array_equal(draws, [[0, np.inf], [0, 0]], "position 3 is in the third prompt")


def test_draw_without_prompts_has_no_drift_and_not_0():
    assert np.isnan(drift_draws(drift_sums(*by_hand()), np.array([[0, 0]]))).all()


def test_opposite_vectors_have_cosine_minus_1():
    z = np.ones((1, 6, 1, 2))
    assert cosine(drift_sums(cache(z), cache(-z))) == -1


def test_cosine_stays_within_1_when_its_sums_were_rounded():
    ones = np.ones((1, 1))
    assert cosine(DriftSums(0 * ones, ones, ones, (1 + 1e-12) * ones)) == 1


GOOD = np.ones((2, 6, 3, 2))


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (cache(GOOD, index=(0, 1, 3)), r"other prompts: reference [0, 1, 2] (3), candidate [0, 1, 3] (3)"),
        (cache(GOOD, lengths=(1, 2, 3)), "prompt 0 has 2 positions in the reference and 1 in the candidate"),
        (cache(GOOD[:1]), "shapes [(3, 2), (3, 2)] in the reference and [(3, 2)] in the candidate"),
        (cache(GOOD[:, :, :2]), "shapes [(3, 2), (3, 2)] in the reference and [(2, 2), (2, 2)] in the candidate"),
        (cache(GOOD[..., :1]), "shapes [(3, 2), (3, 2)] in the reference and [(3, 1), (3, 1)] in the candidate"),
    ],
)
def test_caches_that_cannot_be_compared_are_refused(candidate, message):
    with pytest.raises(CandidateError, match=re.escape(message)):
        drift_sums(cache(GOOD), candidate)


def test_no_prompts_are_refused_and_not_0():
    empty = cache(np.ones((2, 0, 3, 2)), lengths=())
    with pytest.raises(CandidateError, match="no prompt"):
        drift_sums(empty, empty)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("layer", "position", "head", "named"),
    [
        (0, 0, 0, "group 0, unit 0, prompt 4"),
        (1, 1, 2, "group 1, unit 2, prompt 4"),
        (1, 2, 0, "group 1, unit 0, prompt 7"),
        (0, 5, 1, "group 0, unit 1, prompt 9"),
    ],
)
def test_first_value_that_is_not_finite_is_named(bad, layer, position, head, named):
    broken = GOOD.copy()
    broken[layer, position, head, 1] = bad
    broken[1, 5, 2] = bad
    good, broken = (cache(z, index=(4, 7, 9)) for z in (GOOD, broken))
    with pytest.raises(CandidateError, match=f"first in {named} of the task"):
        drift_sums(good, broken)
    with pytest.raises(BaselineError, match=f"first in {named} of the task"):
        drift_sums(broken, good)
