from dataclasses import astuple
from itertools import permutations
from math import inf, isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import ndtri
from scipy.stats import spearmanr

from circuitcheck.diagnostics.association import associate, between_share, permutation_p

# Sums of a few halves of integers are exact; one square root and one division round.
ROUNDING = 1e-14

LAYERS = np.array([0, 0, 0, 1, 1, 1])
IMPORTANCE = np.array([1.0, -2.0, 3.0, 10.0, 11.0, -12.0])
DRIFT = np.array([0.3, 0.2, 0.1, 0.6, 0.5, 0.4])
"""Important layers drift more, but inside both layers the important heads drift less."""


def associate_alone(importance, drift, layers, **options):
    """With every draw the data themselves."""
    return associate(importance, drift, layers, np.tile(importance, (3, 1)), np.tile(drift, (3, 1)), **options)


def test_raw_and_within_may_have_other_signs():
    result = associate_alone(IMPORTANCE, DRIFT, LAYERS)
    # Differences of ranks are 2, 0, 2 twice: 1 - 6 * 16 / (6 * 35).
    np.testing.assert_allclose(astuple(result.raw), 1 - 96 / 210, rtol=ROUNDING)
    np.testing.assert_allclose(astuple(result.within_layers), -1, rtol=ROUNDING)
    # Layer means 0.2 and 0.5: 6 * 0.15 ** 2 of 6 * 0.15 ** 2 + 4 * 0.1 ** 2; decimal inputs round.
    assert result.between_layers_share == pytest.approx(0.135 / 0.175, rel=10 * ROUNDING)


def test_within_by_hand():
    # Centred ranks: (-1, 0, 1) with (0, -1, 1), and (-1/2, 1/2) with (1/2, -1/2): (1 - 1/2) / (2 + 1/2).
    importance, drift = np.array([1.0, 2.0, 3.0, 5.0, 6.0]), np.array([0.2, 0.1, 0.3, 0.9, 0.8])
    result = associate_alone(importance, drift, np.array([0, 0, 0, 1, 1]))
    assert result.within_layers.value == pytest.approx(0.2, rel=ROUNDING)


def test_layers_need_not_lie_behind_one_another():
    order = np.array([3, 0, 4, 1, 5, 2])
    result = associate_alone(IMPORTANCE[order], DRIFT[order], LAYERS[order])
    assert result.within_layers.value == pytest.approx(-1, rel=ROUNDING)
    assert result.between_layers_share == pytest.approx(0.135 / 0.175, rel=10 * ROUNDING)


@settings(deadline=None)
@given(st.data())
def test_raw_is_spearmans_rho(data):
    # Enough different values that no row is constant; ties share their mean rank.
    rows = st.permutations([0.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0])
    importance, drift = (np.array([data.draw(rows) for _ in range(4)]) for _ in range(2))
    result = associate(importance[0], drift[0], np.zeros(7), importance[1:], drift[1:])
    rho = [float(spearmanr(*pair).statistic) for pair in zip(importance, drift, strict=True)]
    # In a single layer `within` is the same thing; scipy sums in another order.
    reach = ndtri(0.975) * np.std(rho[1:])
    expected = (rho[0], max(rho[0] - reach, -1), min(rho[0] + reach, 1))
    for found in (result.raw, result.within_layers):
        assert astuple(found) == pytest.approx(expected, abs=1e-7)  # a spread of 0 is a root of rounding


def test_exact_p_by_hand():
    # Of the 36 orders inside two layers of three, 2 correlate as much as these: p = 1 / 18.
    p = permutation_p(IMPORTANCE, DRIFT, LAYERS, permutations=4000)
    assert p == pytest.approx(1 / 18, abs=5 * np.sqrt(1 / 18 * 17 / 18 / 4000))  # five standard errors


def test_p_counts_all_orders_at_least_as_far():
    importance, drift = np.array([1.0, 2.0, 3.0, 4.0]), np.array([0.1, 0.2, 0.4, 0.3])
    sums = [abs(float(np.dot([-1.5, -0.5, 0.5, 1.5], order))) for order in permutations([-1.5, -0.5, 0.5, 1.5])]
    exact = np.mean([total >= 4.0 for total in sums])  # 2.25 + 0.25 + 0.75 + 0.75
    p = permutation_p(importance, drift, np.zeros(4), permutations=4000)
    assert p == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 4000))


def test_p_is_never_0_and_is_1_for_no_correlation():
    heads = np.arange(10.0)
    assert permutation_p(heads, heads, np.zeros(10), permutations=99) == 1 / 100  # 2 in 10! orders are as far
    assert permutation_p(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 1.0]), np.zeros(3)) == 1


def test_p_is_two_sided_and_decided_by_its_seed():
    importance, drift = np.array([1.0, 2.0, 3.0, 4.0, 5.0]), np.array([0.1, 0.3, 0.2, 0.5, 0.4])
    p = permutation_p(importance, drift, np.zeros(5), permutations=500, seed=1)
    assert p == permutation_p(importance, drift, np.zeros(5), permutations=500, seed=1)
    assert p != permutation_p(importance, drift, np.zeros(5), permutations=500, seed=2)
    # Reversed drifts have the same set of shuffles; other draws of it, so five standard errors of a difference.
    assert p == pytest.approx(permutation_p(importance, -drift, np.zeros(5), permutations=500, seed=3), abs=0.12)


def test_what_layers_share_is_not_taken_for_what_heads_share():
    # Importance and drift grow with depth and are independent inside layers: raw is high in every data set, and the
    # test within layers stays at its level: 5 % of 200, at most five standard errors more.
    rng = np.random.default_rng(0)
    layers = np.repeat(np.arange(4), 6)
    below, raws = 0, []
    for seed in range(200):
        importance, drift = layers + 0.3 * rng.random(24), layers + 0.3 * rng.random(24)
        result = associate_alone(importance, drift, layers, permutations=200, seed=seed)
        below += result.p_within_layers <= 0.05
        raws.append(result.raw.value)
    assert min(raws) > 0.8
    assert 0 < below / 200 < 0.05 + 5 * np.sqrt(0.05 * 0.95 / 200)


@settings(deadline=None)
@given(drift=arrays(np.float64, 6, elements=st.integers(0, 9).map(float), unique=True), data=st.data())
def test_shuffling_inside_layers_leaves_what_is_between(drift, data):
    inside = [data.draw(st.permutations(range(3))), data.draw(st.permutations(range(3, 6)))]
    shuffled = drift[np.concatenate(inside)]
    # Means of whole numbers, summed in another order.
    assert between_share(shuffled, LAYERS) == pytest.approx(between_share(drift, LAYERS), abs=10 * ROUNDING)


def test_between_share_of_its_extremes():
    assert between_share(np.array([1.0, 1.0, 2.0, 2.0]), np.array([0, 0, 1, 1])) == 1
    assert between_share(np.array([1.0, 2.0, 1.0, 2.0]), np.array([0, 0, 1, 1])) == 0


@pytest.mark.parametrize(("level", "errors"), [(0.95, 1.959964), (0.99, 2.575829)])
def test_bootstrap_draws_make_the_intervals(level, errors):
    importance, drift = np.arange(4.0), np.array([0.0, 1.0, 2.0, 3.0])
    draws = np.array([[0.0, 1.0, 2.0, 3.0], [0.0, 2.0, 1.0, 3.0]])
    result = associate(importance, drift, np.zeros(4), np.tile(importance, (2, 1)), draws, level=level)
    # Draws of 1 and 1 - 6 * 2 / (4 * 15) = 0.8, a standard error of 0.1; quantiles are given to 7 digits.
    assert astuple(result.raw) == pytest.approx((1.0, 1 - errors * 0.1, 1.0), rel=1e-6)


def test_interval_of_a_correlation_lies_around_it_though_noise_weakens_that_of_every_draw():
    rng = np.random.default_rng(0)
    importance = drift = np.arange(12.0)
    noisy = importance + 4 * rng.normal(size=(200, 12))
    result = associate(importance, drift, np.zeros(12), noisy, np.tile(drift, (200, 1)))
    assert result.raw.value == pytest.approx(1)
    assert 0.3 < result.raw.low < 0.9


def test_constant_drift_correlates_with_nothing():
    result = associate_alone(IMPORTANCE, np.full(6, 0.1), LAYERS)
    shares = (result.p_within_layers, result.between_layers_share)
    numbers = (*astuple(result.raw), *astuple(result.within_layers), *shares)
    assert all(isnan(number) for number in numbers)
    assert isnan(result.between_layers_share)


def test_constant_inside_every_layer_leaves_the_raw_correlation():
    result = associate_alone(IMPORTANCE, LAYERS.astype(float), LAYERS)
    assert isnan(result.within_layers.value)
    assert isnan(result.p_within_layers)
    assert result.raw.value > 0.5
    assert result.between_layers_share == 1


@pytest.mark.parametrize("place", [0, 5])
def test_nan_is_not_ranked(place):
    broken = DRIFT.copy()
    broken[place] = nan
    for result in (associate_alone(IMPORTANCE, broken, LAYERS), associate_alone(broken, DRIFT, LAYERS)):
        assert isnan(result.raw.value)
        assert isnan(result.within_layers.value)
        assert isnan(result.p_within_layers)
    assert isnan(between_share(broken, LAYERS))


def test_nan_in_one_draw_spoils_the_intervals():
    draws = np.tile(DRIFT, (3, 1))
    draws[1, 2] = nan
    result = associate(IMPORTANCE, DRIFT, LAYERS, np.tile(IMPORTANCE, (3, 1)), draws)
    assert result.raw.value == pytest.approx(1 - 96 / 210, rel=ROUNDING)
    assert isnan(result.raw.low)
    assert isnan(result.within_layers.high)


def test_infinite_drift_is_ranked_last_and_has_no_variance():
    drift = np.where(DRIFT == 0.6, inf, DRIFT)
    result = associate_alone(IMPORTANCE, drift, LAYERS)
    assert result.raw.value == pytest.approx(1 - 96 / 210, rel=ROUNDING)
    assert isnan(result.between_layers_share)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="does not fit"):
        associate_alone(IMPORTANCE, DRIFT, LAYERS[:5])
    with pytest.raises(ValueError, match="does not fit"):
        associate(IMPORTANCE, DRIFT, LAYERS, np.ones((3, 5)), np.tile(DRIFT, (3, 1)))
    with pytest.raises(ValueError, match="does not fit"):
        associate_alone(np.ones(0), np.ones(0), np.ones(0))
    with pytest.raises(ValueError, match="needs permutations"):
        associate_alone(IMPORTANCE, DRIFT, LAYERS, permutations=0)
