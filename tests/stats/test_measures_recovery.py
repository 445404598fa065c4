from dataclasses import astuple
from math import inf, isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitcheck.core.errors import CandidateError
from circuitcheck.stats.bootstrap import cluster_weights
from circuitcheck.stats.estimate import Estimate
from circuitcheck.stats.recovery import (
    Area,
    areas_over_random,
    damage,
    diagnose,
    recovery,
    resolved,
)

WEIGHTS = cluster_weights([str(place) for place in range(8)], draws=200)
REFERENCE = np.array([6.0, 7.0, 8.0, 9.0, 6.0, 7.0, 8.0, 9.0])
CANDIDATE = REFERENCE - np.array([1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0])
# Weighted means of the same numbers by two matrix products, and a division.
ROUNDING = 1e-13

METRIC = arrays(np.float64, 8, elements=st.integers(0, 64).map(lambda eighths: eighths / 8))
LOSS = arrays(np.float64, 8, elements=st.integers(1, 64).map(lambda eighths: eighths / 8))


def test_recovery_by_hand():
    # Losses of 1 and 3, gains of 1 and 0: a quarter of the mean loss (a mean of ratios would be a half).
    weights = np.array([[1, 1], [2, 0], [0, 2]])
    (result,) = recovery(np.array([5.0, 5.0]), np.array([4.0, 2.0]), np.array([5.0, 2.0]), weights)
    # Gains less a quarter of the losses are 0, 0.75 and -0.75 in the draws: a standard error of sqrt(2 / 3) * 0.75 / 2
    # = 0.306, and no skewness.
    reach = 1.959964 * 0.306186
    assert astuple(result) == pytest.approx((0.25, 0.25 - reach, 0.25 + reach), abs=1e-6)


@settings(deadline=None)
@given(reference=METRIC, loss=LOSS, sign=st.sampled_from([1, -1]))
def test_full_repair_recovers_1_and_none_0(reference, loss, sign):
    candidate = reference - sign * loss
    full, none = recovery(reference, candidate, np.stack([reference, candidate]), WEIGHTS)
    np.testing.assert_allclose(astuple(full), 1, rtol=ROUNDING)
    assert astuple(none) == (0, 0, 0)


@settings(deadline=None)
@given(share=st.integers(-4, 12).map(lambda quarters: quarters / 4))
def test_giving_back_a_share_of_every_loss_recovers_that_share(share):
    (result,) = recovery(REFERENCE, CANDIDATE, CANDIDATE + share * (REFERENCE - CANDIDATE), WEIGHTS)
    np.testing.assert_allclose(astuple(result), share, rtol=ROUNDING)


def test_leading_axes_are_flattened():
    repaired = np.stack([CANDIDATE, REFERENCE, REFERENCE, CANDIDATE]).reshape(2, 2, 8)
    assert [result.value for result in recovery(REFERENCE, CANDIDATE, repaired, WEIGHTS)] == [0, 1, 1, 0]
    assert recovery(REFERENCE, CANDIDATE, np.empty((0, 8)), WEIGHTS) == []


def test_gain_of_a_candidate_that_is_better_is_recovered_likewise():
    (result,) = recovery(REFERENCE, REFERENCE + 2, REFERENCE + 1, WEIGHTS)
    np.testing.assert_allclose(astuple(result), 0.5, rtol=ROUNDING)


def test_interval_shows_prompts_that_disagree():
    repaired = np.where(np.arange(8) < 4, REFERENCE, CANDIDATE)
    (result,) = recovery(REFERENCE, CANDIDATE, repaired, WEIGHTS)
    assert result.value == 0.5
    # Half of 8 prompts: a share of one half with a standard error of sqrt(0.25 / 8) = 0.18.
    assert 0.05 < result.low < 0.35
    assert 0.65 < result.high < 0.95


def test_recovery_is_undefined_where_damage_is_not_resolved():
    unclear = REFERENCE + np.array([1.0, -1.0] * 4)
    for candidate in (REFERENCE, unclear):
        results = recovery(REFERENCE, candidate, np.stack([REFERENCE, REFERENCE + 1]), WEIGHTS)
        assert len(results) == 2
        assert all(isnan(number) for result in results for number in astuple(result))


def test_repair_that_is_nan_spoils_itself_alone():
    broken = REFERENCE.copy()
    broken[3] = nan
    bad, good = recovery(REFERENCE, CANDIDATE, np.stack([broken, REFERENCE]), WEIGHTS)
    assert all(isnan(number) for number in astuple(bad))
    assert good.value == 1


@pytest.mark.parametrize("sign", [1, -1])
def test_damage_is_resolved_in_either_direction(sign):
    assert resolved(REFERENCE, REFERENCE - sign * (REFERENCE - CANDIDATE), WEIGHTS)


@pytest.mark.parametrize(("shift", "expected"), [(1e-6, False), (-1e-6, False), (1e-4, True)])
def test_rounding_of_float32_alone_is_no_damage(shift, expected):
    # All prompts shift alike, so the interval has no width; the slack is 1e-6 * (1 + 7.5) logits.
    assert resolved(REFERENCE, REFERENCE + shift, WEIGHTS) is expected


@pytest.mark.parametrize("bad", [nan, inf])
def test_metric_that_is_not_finite_resolves_nothing(bad):
    broken = CANDIDATE.copy()
    broken[0] = bad
    assert not resolved(REFERENCE, broken, WEIGHTS)


COUNTS = (1, 2, 3, 10)  # of 10 heads: 1 and 2 are few


def areas(**over_random: float) -> dict[str, Area]:
    """Areas that exceed the random orders' by so much, certainly."""
    return {order: Area(0.5, Estimate(over, over, over)) for order, over in over_random.items()}


@pytest.mark.parametrize(
    ("curves", "expected"),
    [
        ([[0.9, 0.9, 0.9, 0.9]], "localized"),
        ([[0.1, 0.8, 0.8, 1.0]], "localized"),
        ([[0.1, 0.2, 0.9, 1.0], [0.1, 0.85, 0.9, 1.0]], "localized"),
        ([[0.1, 0.79, 0.9, 1.0]], "distributed"),
        ([[0.1, 0.2, 0.9, 0.5]], "distributed"),
        ([[0.1, 0.2, 0.9, 0.49]], "collapse"),
        ([[-0.1, -0.5, -0.9, -0.2]], "collapse"),
        ([[0.9, 0.1, 0.1, 0.1]], "localized"),
    ],
)
def test_diagnosis_by_its_rules(curves, expected):
    named = dict(zip("ab", curves, strict=False))
    assert diagnose(named, areas(a=0.1, b=0.1), COUNTS) == expected


def test_few_heads_that_are_no_better_than_any_few_heads_localize_nothing():
    curves = {"a": [0.9, 0.9, 0.9, 1.0], "b": [0.1, 0.1, 0.9, 1.0]}
    assert diagnose(curves, areas(a=0.1, b=0.0), COUNTS) == "localized"
    assert diagnose(curves, areas(a=0.0, b=0.1), COUNTS) == "distributed"
    unsure = {"a": Area(0.5, Estimate(0.1, -0.01, 0.2))}
    assert diagnose({"a": curves["a"]}, unsure, COUNTS) == "distributed"


def test_single_head_needs_no_control():
    assert diagnose({"a": [0.9]}, {}, (1,)) == "localized"


@pytest.mark.parametrize(
    ("heads", "count", "expected"),
    [(10, 2, "localized"), (10, 3, "distributed"), (11, 3, "localized"), (35, 7, "localized"), (35, 8, "distributed")],
)
def test_few_is_a_fifth_rounded_up(heads, count, expected):
    # 0.2 * 35 is above 7 in floating point, and would round up to 8.
    assert diagnose({"a": [0.0, 0.9, 1.0]}, areas(a=0.1), (1, count, heads)) == expected


@pytest.mark.parametrize(
    ("candidate", "expected"),
    [
        (REFERENCE, "no damage"),
        (REFERENCE + np.array([1.0, -1.0] * 4), "unresolved"),
        (REFERENCE * (1 - 0.04), "no damage"),  # resolved, and a loss of 4 %
        (REFERENCE * (1 + 0.04), "no damage"),
        (REFERENCE * (1 - 0.06), "damage"),
        (REFERENCE * (1 + 0.06), "damage"),
        # A loss of 4 % of the mean of 7.5, with an interval beyond 5 %: nearly all of it is on one prompt of eight.
        (REFERENCE - np.array([2.331] + [0.01] * 7), "damage"),
    ],
)
def test_no_damage_is_none_to_speak_of_or_below_5_percent(candidate, expected):
    assert damage(REFERENCE, candidate, WEIGHTS, scale=7.5) == expected
    # A metric that is a log probability is below 0 for everybody.
    assert damage(REFERENCE - 15, candidate - 15, WEIGHTS, scale=7.5) == expected


@pytest.mark.parametrize("bad", [nan, inf])
def test_what_is_not_finite_is_refused_and_not_called_undamaged(bad):
    broken = REFERENCE.copy()
    broken[0] = bad
    for metrics in ((REFERENCE, broken), (broken, REFERENCE)):
        with pytest.raises(CandidateError, match="metric"):
            damage(*metrics, WEIGHTS, scale=7.5)
    with pytest.raises(CandidateError, match="repair"):
        diagnose({"a": [0.0, bad, 0.0, 0.0]}, areas(a=0.1), COUNTS)


@pytest.mark.parametrize(("curves", "counts"), [({"a": [0.0] * 3}, COUNTS), ({"a": [0.0] * 2}, (3, 10)), ({}, COUNTS)])
def test_counts_that_decide_nothing_are_refused(curves, counts):
    with pytest.raises(ValueError, match="do not serve"):
        diagnose(curves, {}, counts)


LOST = REFERENCE - CANDIDATE


def areas_of(curves: dict[str, list[float]], random: list[list[float]], weights=WEIGHTS) -> dict[str, Area]:
    """Areas where every prompt gets back the given share of its loss."""
    repaired = {order: CANDIDATE + np.outer(shares, LOST) for order, shares in curves.items()}
    by_chance = np.array([CANDIDATE + np.outer(shares, LOST) for shares in random])
    return areas_over_random(REFERENCE, CANDIDATE, repaired, by_chance, (1, 2, 4), weights)


def test_areas_by_hand():
    # Trapezoids over 1, 2 and 4 heads: (0.75 + 2) / 3 against (0.25 + 1.5) / 3.
    found = areas_of({"a": [0.5, 1.0, 1.0], "b": [0.0, 0.5, 1.0]}, [[0.0, 0.5, 1.0]] * 3)
    assert found["a"].value == pytest.approx((0.75 + 2) / 3, rel=ROUNDING)
    assert found["b"].value == pytest.approx((0.25 + 1.5) / 3, rel=ROUNDING)
    assert astuple(found["a"].over_random) == pytest.approx((1 / 3, 1 / 3, 1 / 3), rel=1e-12)
    assert astuple(found["b"].over_random) == pytest.approx((0, 0, 0), abs=1e-12)


def test_area_over_random_is_as_uncertain_as_the_random_orders():
    random = [[0.0, 0.0, 1.0], [1.0, 1.0, 1.0]] * 10
    over = areas_of({"a": [0.5, 1.0, 1.0]}, random)["a"].over_random
    # Random areas of 1/3 and 1 in equal parts: a mean of 2/3 with a standard error of (1/3) / sqrt(20) = 0.075.
    assert over.value == pytest.approx(2.75 / 3 - 2 / 3, rel=1e-12)
    assert 0.05 < over.low < 0.15 < 0.35 < over.high < 0.45


def test_areas_agree_with_the_area_under_the_recoveries():
    rng = np.random.default_rng(0)
    repaired = CANDIDATE + rng.normal(size=(3, 8))
    values = [point.value for point in recovery(REFERENCE, CANDIDATE, repaired, WEIGHTS)]
    found = areas_over_random(REFERENCE, CANDIDATE, {"a": repaired}, repaired[None], (1, 2, 4), WEIGHTS)["a"]
    assert found.value == pytest.approx(np.trapezoid(values, (1, 2, 4)) / 3, rel=1e-12)
    assert found.over_random.value == pytest.approx(0, abs=1e-12)


def test_areas_are_undefined_where_damage_is_not_resolved():
    repaired = np.stack([REFERENCE] * 3)
    found = areas_over_random(REFERENCE, REFERENCE, {"a": repaired}, repaired[None], (1, 2, 4), WEIGHTS)["a"]
    assert isnan(found.value)
    assert all(isnan(number) for number in astuple(found.over_random))


@pytest.mark.parametrize(("height", "counts"), [(1, (1,)), (2, (2, 2)), (2, (2, 1)), (3, (1, 2))])
def test_no_curve_has_no_area(height, counts):
    with pytest.raises(ValueError, match="no curve"):
        areas_over_random(REFERENCE, CANDIDATE, {}, np.ones((2, height, 8)), counts, WEIGHTS)
