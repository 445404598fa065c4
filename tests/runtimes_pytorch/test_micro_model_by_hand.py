"""Every number that the sweeps and measures give, against pencil and paper.

All inputs are small binary fractions, so float32 is exact and `==` is the right comparison; a tolerance stands only
where a square root is taken, and there it is a few units in the last place of float64.

The one-layer model (see `micro_model`), prompt 0 = tokens (2, 0), answer 0, foil 1, so u = U0 - U1 = (1, -1) and
c0 - c1 = -1/2; prompt 1 = tokens (1, 2, 3), answer 2, foil 3, so u = U2 - U3 = (1, 2) and c2 - c3 = 0:

             residual    z0 (last)  z1 (last)    u.r   u.W0z0   u.W1z1   u.bias   u.c     m
    prompt 0  (1, 0)      (2, 1)     (3, 1)       1      3       -1/2     3/4     -1/2   15/4
    prompt 1  (-1, 2)     (2, 1)     (1, 4)       3      6        5      -3/4      0     53/4

and at the last position of the counterfactuals (1, 0) and (1, 0, 3):

             z0      z1      u.W0z0   u.W1z1
    prompt 0  (0, 1)  (1, 1)   -1       1/2
    prompt 1  (1, 0)  (0, 3)    2       3
"""

from __future__ import annotations

from math import sqrt

import micro_model
import numpy as np
import pytest
import torch
from patches import ablated_metric, repaired_metric

from circuitcheck.core.activations import Activations
from circuitcheck.diagnostics.bound_audit import audit
from circuitcheck.runtimes.pytorch.forward import last_logits
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.ports import reading
from circuitcheck.runtimes.pytorch.ports.proofs import prove
from circuitcheck.stats.drift import cosine, drift_sums, relative_drift
from circuitcheck.stats.first_order import first_order, fragility

TASK = micro_model.micro_task()
BOTH = (0, 1)
H0, H1 = (0, 0), (0, 1)
"""(layer, head): every layer has one group of heads."""

# Eight units in the last place of float64, after sums of a dozen terms and one square root.
ROUNDING = 8 * np.finfo(np.float64).eps


def z_of(model: HookedModel, index: tuple[int, ...] = BOTH) -> Activations:
    return model.activations(TASK.prompts(index), "head")


def gradient_of(model: HookedModel, index: tuple[int, ...] = BOTH) -> Activations:
    return model.gradient(TASK.prompts(index), "head")[1]


def metric_of(model: HookedModel) -> np.ndarray:
    return model.metric(TASK.prompts())


def test_micro_model_passes_every_proof():
    for model in (micro_model.one_layer(), micro_model.two_layers(), micro_model.perturbed_by_hand()):
        prove(model, torch.tensor([[2, 0], [1, 0]]))


def test_logits_at_the_last_position():
    # r = (1, 0) + W0 (2, 1) + W1 (3, 1) + bias = (1, 0) + (4, 1) + (1, 3/2) + (1/4, -1/2) = (25/4, 2)
    logits = last_logits(micro_model.one_layer(), torch.tensor([[2, 0]]))
    assert logits.tolist() == [[6.25, 2.5, 8.25, -2.0]]


def test_metric_of_clean_and_counterfactual_prompts():
    model = micro_model.one_layer()
    assert metric_of(model).tolist() == [3.75, 13.25]
    # prompt 0: 1 - 1 + 1/2 + 3/4 - 1/2; prompt 1: 3 + 2 + 3 - 3/4
    assert model.metric(TASK.prompts(), counterfactual=True).tolist() == [0.75, 7.25]


def test_recorded_z_of_every_position():
    model = micro_model.one_layer()
    with reading(model.module, model.ports("head")) as z:
        last_logits(micro_model.one_layer(), torch.tensor([[2, 0]]))
        assert z == {}, "another model's pass is not recorded"
    with reading(model.module, model.ports("head")) as z:
        last_logits(model, torch.tensor([[1, 2, 3]]))
    assert list(z) == [0]
    # [batch, seq, n_heads, d_head]: for each position z0 (the residual before) and z1 (the sum up to here)
    assert z[0].tolist() == [[[[0, 0], [0, 1]], [[0, 1], [2, 2]], [[2, 1], [1, 4]]]]


def test_cache_holds_prompts_behind_one_another():
    cache = z_of(micro_model.one_layer())
    assert (cache.index, cache.lengths) == ((0, 1), (2, 3))
    prompt_0 = [[[0, 0], [2, 1]], [[2, 1], [3, 1]]]
    prompt_1 = [[[0, 0], [0, 1]], [[0, 1], [2, 2]], [[2, 1], [1, 4]]]
    assert [layer.tolist() for layer in cache.groups] == [prompt_0 + prompt_1]
    assert cache.rows([1])[0].tolist() == [prompt_1]
    answers = cache.answer_position()
    assert (answers.index, answers.lengths) == ((0, 1), (1, 1))
    assert answers.groups[0].tolist() == [prompt_0[-1], prompt_1[-1]]


def test_zero_ablation():
    # takes u.W0z0 (3 and 6), or u.W1z1 (-1/2 and 5), out of the metric
    assert ablated_metric(micro_model.one_layer(), TASK, BOTH, "zero").tolist() == [[0.75, 7.25], [4.25, 8.25]]


def test_resample_ablation():
    # puts the counterfactual's u.W0z0 (-1 and 2) for the clean one's, or its u.W1z1 (1/2 and 3)
    assert ablated_metric(micro_model.one_layer(), TASK, BOTH, "resample").tolist() == [[-0.25, 9.25], [4.75, 11.25]]


MEAN_ABLATED = [[2.5, 11.25], [5.875, 11.75]]
"""At the answer position, over both clean AND both counterfactual prompts,

    z0 = ((2, 1) + (2, 1) + (0, 1) + (1, 0)) / 4 = (5/4, 3/4), so W0 z0 = (5/2, 3/4) and u.W0z0 = 7/4 and 4;
    z1 = ((3, 1) + (1, 4) + (1, 1) + (0, 3)) / 4 = (5/4, 9/4), so W1 z1 = (9/4, 5/8) and u.W1z1 = 13/8 and 7/2.

Over the clean prompts alone z0 would be (2, 1), what it was, and head 0 would look as if it did nothing.
"""


def test_mean_ablation():
    assert ablated_metric(micro_model.one_layer(), TASK, BOTH, "mean").tolist() == MEAN_ABLATED


@pytest.mark.parametrize("prompt", BOTH)
def test_mean_is_the_whole_tasks_whichever_prompts_are_measured(prompt):
    ablated = ablated_metric(micro_model.one_layer(), TASK, [prompt], "mean")
    assert ablated.tolist() == [[head[prompt]] for head in MEAN_ABLATED]


@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
def test_batches_of_one_prompt_give_the_same_numbers(kind):
    model = micro_model.one_layer()
    whole = ablated_metric(model, TASK, BOTH, kind)
    assert ablated_metric(model, TASK, BOTH, kind, most=1).tolist() == whole.tolist()


def test_metric_columns_follow_the_index_asked_for():
    assert ablated_metric(micro_model.one_layer(), TASK, (1, 0), "zero").tolist() == [[7.25, 0.75], [8.25, 4.25]]


"""The two-layer model on prompt 0. The first layer leaves r[0] = (13/4, 3/2) and r[1] = (25/4, 2). In the second,
z0 = r[0] and z1 = r[0] + r[1] = (19/2, 7/2), so r = (25/4, 2) + (13/4, -3/2) + (0, 19/2) = (19/2, 10): m = -1.

Without head 0 of the first layer, r[1] = (9/4, 1), and then z1 = (11/2, 5/2) and r = (11/2, 5): m = 0.
Without its head 1, r[0] = (9/4, 1/2) and r[1] = (21/4, 1/2), z1 = (15/2, 1) and r = (15/2, 15/2): m = -1/2.
Without head 0 of the second, r = (25/4, 23/2): m = -23/4. Without its head 1, r = (19/2, 1/2): m = 17/2.
"""


def test_zero_ablation_goes_on_through_the_next_layer():
    model = micro_model.two_layers()
    assert metric_of(model)[0] == -1.0
    assert ablated_metric(model, TASK, [0], "zero").tolist() == [[0.0], [-0.5], [-5.75], [8.5]]


def test_mean_is_aligned_at_the_answer_position():
    """One position back from it, z0 of the four prompts is (0, 0), (0, 0), (0, 1), (0, 1), and z1 (2, 1), (0, 1),
    (2, 2), (1, 1): means (0, 1/2) and (5/4, 5/4). Counted from the front instead, z0 would be (0, 0) there.

    Head 0 of the first layer: r[0] = (13/4, 3/2) + (0, 1/2), r[1] = (25/4, 2) - (4, 1) + (5/2, 3/4) = (19/4, 7/4),
    z1 = (8, 15/4), r = (19/4, 7/4) + (13/4, -2) + (0, 8) = (8, 31/4): m = -1/4.
    Head 1: r[0] = (13/4, 3/2) - (1, 1) + (5/4, 5/8) = (7/2, 9/8), r[1] = (25/4, 2) - (1, 3/2) + (9/4, 5/8)
    = (15/2, 9/8), z1 = (11, 9/4), r = (15/2, 9/8) + (7/2, -9/8) + (0, 11) = (11, 11): m = -1/2.
    """
    assert ablated_metric(micro_model.two_layers(), TASK, [0], "mean")[:2].tolist() == [[-0.25], [-0.5]]


def test_gradient_of_one_layer():
    # at the last position W0' u and W1' u: (2, -1) and (-1/2, 1) on prompt 0, (2, 2) and (1, 1) on prompt 1
    gradient = gradient_of(micro_model.one_layer())
    none = [[0, 0], [0, 0]]
    assert gradient.groups[0].tolist() == [none, [[2, -1], [-0.5, 1]], none, none, [[2, 2], [1, 1]]]


def test_gradient_is_total():
    """In the second layer W0' u = (1, 1) and W1' u = (-1, 0). The residual before it has the gradient u + (-1, 0) =
    (0, -1) at the last position and (1, 1) + (-1, 0) = (0, 1) at the one before, so that the first layer has
    W0' (0, 1) = (0, 1) and W1' (0, 1) = (1/2, 0), then the same with the other sign.
    """
    first, second = gradient_of(micro_model.two_layers(), (0,)).groups
    assert first.tolist() == [[[0, 1], [0.5, 0]], [[0, -1], [-0.5, 0]]]
    assert second.tolist() == [[[0, 0], [0, 0]], [[1, 1], [-1, 0]]]


"""The candidate: head 0 is off by (0, 1) at each of the 2 + 3 positions, head 1 has half its size. So u.W0z0 changes by
-1 and +2, u.W1z1 by +1/4 and -5/2, and m becomes 3 and 51/4.
"""
CANDIDATE = [3.0, 12.75]


def test_drift_of_the_perturbed_candidate():
    reference = z_of(micro_model.one_layer())
    candidate = z_of(micro_model.perturbed_by_hand())
    everywhere = drift_sums(reference, candidate)
    # head 0, all positions: |d|^2 = 5; |z0|^2 = |(2, 1)|^2 + |(0, 1)|^2 + |(2, 1)|^2 = 11
    assert relative_drift(everywhere) == pytest.approx([sqrt(5 / 11), 0.5], rel=ROUNDING)
    # z0.z0' = 11 + (1 + 1 + 1) = 14; |z0'|^2 = |(0, 1)|^2 + |(2, 2)|^2 + |(0, 1)|^2 + |(0, 2)|^2 + |(2, 2)|^2 = 22
    assert cosine(everywhere) == pytest.approx([14 / sqrt(11 * 22), 1.0], rel=ROUNDING)
    at_answer = drift_sums(reference.answer_position(), candidate.answer_position())
    # head 0, answer position: |d|^2 = 2, |z0|^2 = 10, z0.z0' = 12, |z0'|^2 = 16
    assert relative_drift(at_answer) == pytest.approx([sqrt(1 / 5), 0.5], rel=ROUNDING)
    assert cosine(at_answer) == pytest.approx([12 / sqrt(160), 1.0], rel=ROUNDING)


def test_drift_of_the_reference_against_itself_is_zero():
    cache = z_of(micro_model.one_layer())
    sums = drift_sums(cache, z_of(micro_model.one_layer()))
    assert relative_drift(sums).tolist() == [0, 0]
    assert cosine(sums).tolist() == [1, 1]


def test_cumulative_repair():
    reference = z_of(micro_model.one_layer())
    candidate = micro_model.perturbed_by_hand()
    assert metric_of(candidate).tolist() == CANDIDATE
    by_head_0_first = repaired_metric(candidate, TASK, reference, [set(), {H0}, {H0, H1}])
    assert by_head_0_first.tolist() == [CANDIDATE, [4.0, 10.75], [3.75, 13.25]]
    by_head_1_first = repaired_metric(candidate, TASK, reference, [{H1}, {H1, H0}])
    assert by_head_1_first.tolist() == [[2.75, 15.25], [3.75, 13.25]]


def test_repair_of_the_answer_position_alone():
    """In two layers, halve head 1 of the first: r[0] = (11/4, 1), r[1] = (23/4, 5/4), z1 = (17/2, 9/4), and
    r = (23/4, 5/4) + (11/4, -1) + (0, 17/2) = (17/2, 35/4): m = -3/4. Put back at the answer position alone,
    r[1] = (25/4, 2) and r[0] stays: z1 = (9, 3), r = (25/4, 2) + (11/4, -1) + (0, 9) = (9, 10): m = -3/2.
    """
    candidate = micro_model.two_layers()
    candidate.module.layers[0].attention.gain.data[1] = 0.5
    whole = z_of(micro_model.two_layers(), (0,))
    sets = [set(), {(0, 1)}]
    assert repaired_metric(candidate, TASK, whole, sets).tolist() == [[-0.75], [-1.0]]
    assert repaired_metric(candidate, TASK, whole.answer_position(), sets).tolist() == [[-0.75], [-1.5]]


def test_first_order_estimate_bound_and_fragility():
    model, candidate = micro_model.one_layer(), micro_model.perturbed_by_hand()
    damage = first_order(gradient_of(model), z_of(model), z_of(candidate))
    # one linear layer: the estimate is exact, and what it says of each head is what repairing it gives back
    assert damage.per_unit.tolist() == [[-1.0, 2.0], [0.25, -2.5]]
    assert fragility(damage).tolist() == [1.5, 1.375]
    # |g0| |d0| = |(2, -1)| |(0, 1)| and |(2, 2)| |(0, 1)|; |g1| |d1| = |(-1/2, 1)| |(3/2, 1/2)| and |(1, 1)| |(1/2, 2)|
    bounds = [[sqrt(5), sqrt(8)], [sqrt(1.25 * 2.5), sqrt(2 * 4.25)]]
    assert damage.bound_per_unit == pytest.approx(np.array(bounds), rel=ROUNDING)
    report = audit(damage, metric_of(model), metric_of(candidate))
    # |15/4 - 3| and |53/4 - 51/4|; the signed estimates are -3/4 and -1/2
    assert (report.degradation, report.estimate) == (0.625, 0.625)
    looseness = [(sqrt(5) + sqrt(3.125)) / 0.75, (sqrt(8) + sqrt(8.5)) / 0.5]
    assert report.bound == pytest.approx((sqrt(5) + sqrt(3.125) + sqrt(8) + sqrt(8.5)) / 2, rel=ROUNDING)
    assert report.looseness == pytest.approx(sum(looseness) / 2, rel=ROUNDING)
    assert (report.coverage, report.violated) == (1.0, False)


def test_bound_is_violated_where_the_damage_is_elsewhere():
    """A candidate whose unembedding bias is off by 1 has the same z, so the bound is 0 and the degradation 1."""
    model, candidate = micro_model.one_layer(), micro_model.one_layer()
    candidate.module.unembed.bias.data[0] -= 1.0
    damage = first_order(gradient_of(model, (0,)), z_of(model, (0,)), z_of(candidate, (0,)))
    report = audit(damage, metric_of(model)[:1], metric_of(candidate)[:1])
    assert (report.degradation, report.bound, report.coverage, report.violated) == (1.0, 0.0, 0.0, True)
