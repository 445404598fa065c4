"""Quantizers do what they are for, on three architectures."""

from copy import deepcopy

import pytest
import torch
from detection import quantizing
from detection.anatomy import linear_maps, matrix
from detection.quantizing import fake_rounded, inputs_of

NAMES = ("embedded", "known-induction", "known-lookup")


def error(model, change) -> float:
    """What a change of the weights does to what the linear maps give on the calibration text, relative, the mean."""
    module = deepcopy(model.module)
    linears = [linear for _, linear in linear_maps(model.module)]
    with torch.no_grad(), inputs_of(linears) as seen:
        model.module(model.calibration)
    change(module)
    errors = []
    for linear, (_, other) in zip(linears, linear_maps(module), strict=True):
        right, wrong = (seen[linear] @ matrix(one).T for one in (linear, other))
        errors.append(float((right - wrong).norm() / right.norm()))
    return sum(errors) / len(errors)


@pytest.mark.parametrize("name", NAMES)
def test_gptq_does_better_than_rounding_to_the_nearest(models, name):
    model = models[name]
    plain = error(model, lambda module: quantizing.round_plainly(module, 4, 32))
    assert error(model, lambda module: quantizing.round_by_gptq(module, 4, model.calibration)) < 0.9 * plain


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("by_weight", [False, True])
@torch.no_grad()
def test_folding_changes_weights_and_not_what_is_computed(models, name, by_weight):
    module, ids = deepcopy(models[name].module), models[name].evaluation
    before = module(ids).logits
    weights = [matrix(linear).clone() for _, linear in linear_maps(module)]
    quantizing.fold_scales(module, models[name].calibration, strength=0.5, by_weight=by_weight)
    assert not any(
        torch.equal(kept, matrix(linear))
        for kept, (path, linear) in zip(weights, linear_maps(module), strict=True)
        if "q_proj" in path or "query" in path or "c_attn" in path
    )
    # float32 rounding, added up over layers
    assert float((module(ids).logits - before).abs().max() / before.abs().max()) < 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_fewer_bits_do_more_damage_and_smaller_groups_less(models, name):
    model = models[name]

    def plain(bits, group):
        return error(model, lambda module: quantizing.round_plainly(module, bits, group))

    assert plain(8, None) < 0.1 * plain(4, None) < 0.1 * plain(3, None)
    assert plain(4, 16) < plain(4, None)
    clipped = error(model, lambda module: quantizing.round_clipped(module, 3, 32))
    assert clipped < 1.05 * plain(3, 32)
    for change in (quantizing.round_asymmetrically, lambda module, _: quantizing.round_to_normal_float(module)):
        assert plain(8, None) < error(model, lambda module, change=change: change(module, 4)) < plain(3, None)


def test_rounding_keeps_the_largest_and_is_the_nearest():
    values = torch.tensor([[1.27, 0.004, -0.006], [0.0, 0.0, 0.0]])
    # 0.004 and 0.006 of steps of 0.01; scales are float32
    assert torch.allclose(fake_rounded(values, 8), torch.tensor([[1.27, 0.0, -0.01], [0.0, 0.0, 0.0]]), atol=1e-6)
    wide = torch.tensor([[448.0, 0.51, 0.02]])
    assert torch.allclose(fake_rounded(wide, None), torch.tensor([[448.0, 0.5, 0.0195]]), atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_rounded_activations_are_told_token_by_token(models, name):
    """A row's logits do not depend on what runs beside it, and copies round with their own weights."""
    module, ids = deepcopy(models[name].module), models[name].evaluation
    quantizing.round_activations(module, 4)
    copy = deepcopy(module)
    assert torch.allclose(module(ids[:2]).logits[:1], module(ids[:1]).logits, atol=1e-4)
    moved = (module(ids[:1]).logits - models[name].module(ids[:1]).logits).abs().max()
    assert moved > 1e-3
    for _, linear in linear_maps(copy):
        matrix(linear).zero_()
    assert not torch.equal(copy(ids[:1]).logits, module(ids[:1]).logits)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_rounded_cache_moves_values_and_not_queries(models, name):
    module, ids = deepcopy(models[name].module), models[name].evaluation[:2]
    before = module(ids).logits
    quantizing.round_cache(module, 8)
    eight = (module(ids).logits - before).abs().max()
    module = deepcopy(models[name].module)
    quantizing.round_cache(module, 2)
    assert 0 < eight < 0.1 * (module(ids).logits - before).abs().max()
