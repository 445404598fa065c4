from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from circuitcheck.core.activations import Activations
from circuitcheck.core.errors import BaselineError, CandidateError
from circuitcheck.core.results import Integrated
from circuitcheck.diagnostics.bound_audit import audit
from circuitcheck.stats.first_order import FirstOrder, first_order, fragility

LENGTHS = (2, 1)
# Small integers: every product and sum of the signed estimates is exact in float64.
Z = arrays(np.float64, (2, sum(LENGTHS), 2, 3), elements=st.integers(-8, 8).map(float))
# Two norms, their product, and a sum of at most 12 of them, each rounded in float64.
ROUNDING = 1e-14


def cache(layers, lengths=LENGTHS):
    return Activations(tuple(range(len(lengths))), lengths, tuple(np.asarray(layer, np.float32) for layer in layers))


def by_hand():
    """One layer, two heads, d_head 2; prompts of two positions and of one."""
    g = np.array([[[1, 2], [0, 0]], [[3, 4], [1, 0]], [[0, 1], [2, 0]]], float)
    d = np.array([[[3, 4], [5, 5]], [[-4, 3], [-2, 0]], [[0, -2], [0, 7]]], float)
    reference = np.array([[[1, 1], [2, 2]], [[3, 3], [4, 4]], [[5, 5], [6, 6]]], float)
    return cache([g]), cache([reference]), cache([reference + d])


def test_first_order_by_hand():
    result = first_order(*by_hand())
    # Head 0: 3 + 8 at position 0, -12 + 12 at position 1; then -2. Head 1: 0 and -2; then 0.
    np.testing.assert_array_equal(result.per_unit, [[11, -2], [-2, 0]])
    # Head 0: sqrt(5) * 5 + 5 * 5; then 1 * 2. Head 1: 0 + 1 * 2; then 2 * 7.
    np.testing.assert_allclose(result.bound_per_unit, [[5 * np.sqrt(5) + 25, 2], [2, 14]], rtol=ROUNDING)


def test_fragility_by_hand():
    np.testing.assert_array_equal(fragility(first_order(*by_hand())), [6.5, 1.0])


def test_units_are_ordered_by_group_then_place():
    g, d = np.ones((2, 3, 2, 1)), np.array([[1.0, 2.0], [3.0, 4.0]])[:, None, :, None]
    result = first_order(cache(g), cache(0 * g), cache(0 * g + d))
    np.testing.assert_array_equal(result.per_unit, [[2, 1], [4, 2], [6, 3], [8, 4]])


@settings(deadline=None)
@given(g=Z, z=Z, moved=Z)
def test_estimate_is_within_its_bound_and_exact_for_a_linear_metric(g, z, moved):
    result = first_order(cache(g), cache(z), cache(moved))
    assert (np.abs(result.per_unit) <= result.bound_per_unit * (1 + ROUNDING)).all()  # Cauchy and Schwarz
    prompt_of = np.repeat(np.arange(len(LENGTHS)), LENGTHS)
    metric = [
        np.array([(g * values)[:, prompt_of == prompt].sum() for prompt in range(len(LENGTHS))])
        for values in (z, moved)
    ]
    np.testing.assert_array_equal(result.per_unit.sum(0), metric[1] - metric[0])
    checked = audit(result, *metric)
    assert checked.coverage == 1
    assert not checked.violated


@settings(deadline=None)
@given(g=Z, z=Z)
def test_nothing_moved_nothing_lost(g, z):
    result = first_order(cache(g), cache(z), cache(z))
    assert not result.per_unit.any()
    assert not result.bound_per_unit.any()
    assert not fragility(result).any()


def test_audit_by_hand():
    damage = FirstOrder(
        per_unit=np.array([[-1.0, 2.0, 0.0], [-1.0, -1.0, 0.5]]),
        bound_per_unit=np.array([[2.0, 2.0, 1.0], [2.0, 1.0, 1.0]]),
    )
    result = audit(damage, np.array([5.0, 5.0, 5.0]), np.array([3.0, 9.0, 5.0]))
    assert (result.degradation, result.estimate, result.bound) == (2.0, 3.5 / 3, 3.0)
    assert result.coverage == 2 / 3, "4 logits lost, 3 allowed, on the second prompt"
    assert result.violated
    assert result.looseness == (4 / 2 + 3 / 4) / 2, "the third prompt did not degrade, and has no ratio"


def test_looseness_is_a_median_that_one_prompt_cannot_move():
    damage = FirstOrder(np.zeros((1, 3)), np.array([[2.0, 3.0, 1.0]]))
    assert audit(damage, np.full(3, 5.0), np.array([4.0, 4.0, 4.75])).looseness == 3
    assert audit(damage, np.full(3, 5.0), np.array([4.0, 4.0, 4.9375])).looseness == 3, "ratios 2, 3 and 16"


def test_bound_has_the_slack_of_float32_and_no_more():
    damage = FirstOrder(np.zeros((1, 2)), np.zeros((1, 2)))
    metric = np.array([9.0, 9.0])  # the slack is 1e-6 * (1 + 9)
    within = audit(damage, metric, metric - 0.9e-5)
    assert (within.coverage, within.violated) == (1.0, False)
    assert isnan(within.looseness)
    beyond = audit(damage, metric, metric - np.array([0.9e-5, 1.1e-5]))
    assert (beyond.coverage, beyond.violated, beyond.looseness) == (0.5, True, 0.0)


def test_metric_that_is_nan_violates():
    result = audit(FirstOrder(np.ones((1, 2)), 9 * np.ones((1, 2))), np.array([5.0, 5.0]), np.array([5.0, nan]))
    assert result.violated
    assert result.coverage == 0.5
    assert isnan(result.degradation)


def test_metrics_of_other_prompts_are_refused():
    with pytest.raises(ValueError, match="do not fit 2 prompts"):
        audit(FirstOrder(np.ones((3, 2)), np.ones((3, 2))), np.ones(3), np.ones(3))


def test_caches_that_do_not_belong_together_are_refused():
    g, reference, candidate = by_hand()
    longer = Activations((0, 1), (1, 2), candidate.groups)
    with pytest.raises(CandidateError, match="prompt 0 has 2 positions"):
        first_order(g, reference, longer)
    for wrong in (Activations((0, 2), LENGTHS, g.groups), cache([*g.groups, *g.groups]), cache([g.groups[0] * nan])):
        with pytest.raises(BaselineError, match="gradient"):
            first_order(wrong, reference, candidate)


def test_audit_keeps_every_prompt_signed_as_a_loss():
    damage = FirstOrder(np.array([[-1.0, 0.5], [-1.0, 0.25]]), np.array([[2.0, 1.0], [2.0, 1.0]]))
    result = audit(damage, np.array([5.0, 5.0]), np.array([2.0, 6.0]))
    assert result.per_prompt.degradation == (3.0, -1.0)
    assert result.per_prompt.estimate == (2.0, -0.75)
    assert result.per_prompt.bound == (4.0, 2.0)
    # Off by 1 and 0.25 where 3 and 1 were lost.
    assert result.relative_error == 1.25 / 4
    assert result.integrated is None


def test_integrated_gradients_are_audited_alike():
    damage = FirstOrder(np.zeros((2, 2)), np.ones((2, 2)))
    result = audit(damage, np.array([5.0, 5.0]), np.array([2.0, 6.0]), np.array([[-1.0, 1.0], [-2.0, 1.0]]))
    assert result.relative_error == 1.0  # an estimate of nothing is off by all
    assert result.integrated == Integrated(estimate=2.5, relative_error=1 / 4)
    with pytest.raises(ValueError, match="do not fit"):
        audit(damage, np.array([5.0, 5.0]), np.array([2.0, 6.0]), np.ones((2, 3)))


def test_relative_error_of_no_degradation_is_undefined():
    damage = FirstOrder(np.ones((2, 2)), np.ones((2, 2)))
    same = np.array([5.0, 5.0])
    assert isnan(audit(damage, same, same + 1e-6, np.ones((2, 2))).relative_error)
