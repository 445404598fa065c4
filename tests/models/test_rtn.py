"""Round to nearest against hand computations and its properties, and which weights of a model it rounds."""

from __future__ import annotations

import copy

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from transformers.pytorch_utils import Conv1D

from circuitcheck.core.errors import ConfigurationError, ModelError
from circuitcheck.runtimes.pytorch.forward import last_logits
from circuitcheck.runtimes.pytorch.loading.load import load_model
from circuitcheck.runtimes.pytorch.loading.precision import dtype_for
from circuitcheck.runtimes.pytorch.ports.proofs import prove
from circuitcheck.runtimes.pytorch.ports.structure import LayerSite, Structure
from circuitcheck.runtimes.pytorch.quantizers.recipes import RECIPES
from circuitcheck.runtimes.pytorch.quantizers.rtn import (
    RoundedWeight,
    dequantize,
    linear_weights,
    quantize_rtn,
    round_weight,
)

EPS = torch.finfo(torch.float32).eps
BITS = st.integers(2, 8)
ROWS, INPUTS = 4, 12


@st.composite
def weights(draw, inputs=INPUTS):
    """`[4, inputs]`, with rows whose magnitudes differ by up to 10^12, and rows of zeros."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    exponents = torch.tensor(draw(st.lists(st.integers(-6, 6), min_size=ROWS, max_size=ROWS)))
    zero = torch.tensor(draw(st.lists(st.booleans(), min_size=ROWS, max_size=ROWS)))
    rows = torch.randn(ROWS, inputs, generator=generator) * 10.0 ** exponents[:, None]
    return torch.where(zero[:, None], 0.0, rows)


def rounded(weight, bits, group=None, generator=None):
    return dequantize(*round_weight(weight, bits, group, generator))


# --- the arithmetic -------------------------------------------------------------------------------------------------


def test_by_hand():
    weight = torch.tensor([[7.0, -3.4, 0.6, 0.4], [14.0, 1.1, -2.9, -3.1], [0.0, 0.0, 0.0, 0.0]])
    # 4 bits: 7 levels a side, so the scales are 1, 2 and, for the zeros, 1.
    codes, scale = round_weight(weight, 4)
    assert codes.flatten(1).tolist() == [[7, -3, 1, 0], [7, 1, -1, -2], [0, 0, 0, 0]]
    assert scale.flatten().tolist() == [1.0, 2.0, 1.0]
    assert dequantize(codes, scale).tolist() == [[7.0, -3.0, 1.0, 0.0], [14.0, 2.0, -2.0, -4.0], [0.0, 0.0, 0.0, 0.0]]


def test_groups_by_hand():
    """Two groups of two inputs, each with its own scale; 2 bits leave the codes -1, 0 and 1."""
    codes, scale = round_weight(torch.tensor([[10.0, -4.0, 0.5, -0.3]]), 2, 2)
    assert codes.tolist() == [[[1, 0], [1, -1]]]
    assert scale.tolist() == [[[10.0], [0.5]]]
    assert dequantize(codes, scale).tolist() == [[10.0, 0.0, 0.5, -0.5]]


@given(weights(), BITS, st.sampled_from([None, 1, 3, 4, 12]))
def test_no_weight_moves_by_more_than_half_a_step(weight, bits, group):
    codes, scale = round_weight(weight, bits, group)
    error = (dequantize(codes, scale) - weight).reshape(codes.shape).abs()
    # the quotient, of up to 127 steps, and the product are rounded once each
    assert (error <= scale * (0.5 + 127 * 2 * EPS)).all()


@given(weights(), BITS, st.sampled_from([None, 3, 4]))
def test_codes_are_in_range_and_each_group_uses_its_range(weight, bits, group):
    codes, scale = round_weight(weight, bits, group)
    levels = 2 ** (bits - 1) - 1
    assert codes.abs().max() <= levels
    assert (scale > 0).all()
    full = weight.reshape(codes.shape).abs().amax(-1) > 0
    assert (codes.abs().amax(-1)[full] == levels).all()


@given(weights(), BITS, st.sampled_from([None, 3, 4]))
def test_rounding_twice_is_rounding_once(weight, bits, group):
    codes, scale = round_weight(weight, bits, group)
    once = dequantize(codes, scale)
    again, _ = round_weight(once, bits, group)
    assert torch.equal(codes, again)
    # the second scale is the first but for two roundings, and the product adds one
    torch.testing.assert_close(rounded(once, bits, group), once, rtol=4 * EPS, atol=0)


@given(weights(), BITS, st.floats(1e-3, 1e3), st.integers(0, ROWS - 1))
def test_an_output_channel_knows_nothing_of_the_others(weight, bits, factor, row):
    other = weight.clone()
    other[row] *= factor
    expected = rounded(weight, bits)
    found = rounded(other, bits)
    rest = [number for number in range(ROWS) if number != row]
    assert torch.equal(found[rest], expected[rest])


@given(weights(), BITS)
def test_zeros_and_signs_stay(weight, bits):
    found = rounded(weight, bits)
    assert (found[weight == 0] == 0).all()
    assert torch.equal(rounded(-weight, bits), -found)


@given(weights(), BITS, st.integers(0, 2**32))
def test_stochastic_rounding_goes_to_one_of_the_two_neighbours(weight, bits, seed):
    codes, scale = round_weight(weight, bits, None, torch.Generator().manual_seed(seed))
    error = (dequantize(codes, scale) - weight).reshape(codes.shape).abs()
    assert (error <= scale * (1 + 127 * 2 * EPS)).all()
    assert codes.abs().max() <= 2 ** (bits - 1) - 1


def test_stochastic_rounding_is_unbiased_and_repeats_with_its_seed():
    weight = torch.full((1, 20001), 0.3)
    weight[0, 0] = 1.0  # 2 bits: scale 1, so 0.3 becomes 1 in 3 of 10 cases and else 0
    found = rounded(weight, 2, None, torch.Generator().manual_seed(0))
    # five standard errors of a share of 0.3 among 20000
    assert abs(found[0, 1:].mean().item() - 0.3) < 5 * (0.3 * 0.7 / 20000) ** 0.5
    assert torch.equal(found, rounded(weight, 2, None, torch.Generator().manual_seed(0)))
    assert not torch.equal(found, rounded(weight, 2, None, torch.Generator().manual_seed(1)))


def test_weights_too_small_for_a_scale_become_zero_and_not_nan():
    found = rounded(torch.tensor([[1e-44, -1e-44], [1.0, 1e-44]]), 8)
    assert found.tolist() == [[0.0, 0.0], [1.0, 0.0]]


# --- the models -----------------------------------------------------------------------------------------------------


class OneMap(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.layer = nn.Module()
        self.layer.attention = part

    structure = Structure((LayerSite(0, "layer", "layer.attention", "layer.attention", None, 2, 16),), None, None, "")


@pytest.mark.parametrize("bits", [8, 4])
def test_conv1d_is_rounded_as_the_transposed_linear(bits):
    """GPT-2's output channels are columns; rounding its rows instead would give another model."""
    torch.manual_seed(0)
    linear, conv = nn.Linear(64, 48), Conv1D(48, 64)
    linear.weight.data *= torch.logspace(-2, 2, 48)[:, None]
    conv.weight.data, conv.bias.data = linear.weight.data.T.clone(), linear.bias.data.clone()
    one, other = OneMap(linear), OneMap(conv)
    quantize_rtn(one, one.structure, bits)
    quantize_rtn(other, other.structure, bits)
    assert torch.equal(linear.weight, conv.weight.T)
    assert (conv.nx, conv.nf, conv.weight.is_contiguous()) == (64, 48, True)


NAMES = ["gpt_neox", "gpt2", "llama", "opt", "mixtral"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bits", [8, 4, 3, 2])
def test_on_models(name, bits):
    """The hooks hold, every linear map of the layers is rounded, and nothing else is touched."""
    model, plain = tiny_models.tiny_model(name), tiny_models.tiny_module(name)
    paths = {f"{part.path}.{part.name}" for part in linear_weights(model.module, model.structure)}
    notes = quantize_rtn(model.module, model.structure, bits)
    prove(model, tiny_models.token_ids(2, 6))
    before = dict(plain.named_parameters())
    for path, parameter in model.module.named_parameters():
        assert isinstance(parameter, RoundedWeight) == (path in paths)
        assert torch.equal(parameter, before[path]) == (path not in paths)
        assert parameter.dtype == torch.float32
        inside = any(path.startswith(f"{site.path}.") for site in model.structure.layers)
        assert path in paths or not inside or parameter.dim() == 1 or any(path in note for note in notes)
    assert {weight.bits for weight in rounded_weights(model)} == {bits}


def rounded_weights(model):
    return [parameter for parameter in model.module.parameters() if isinstance(parameter, RoundedWeight)]


def test_a_router_is_named_because_it_stays_float():
    model = tiny_models.tiny_model("mixtral")
    (note,) = quantize_rtn(model.module, model.structure, 8)
    assert note == (
        "Inside the layers these weights stay float: model.layers.0.mlp.gate.weight, model.layers.1.mlp.gate.weight."
    )


def test_experts_are_rounded_along_their_inputs():
    model, plain = tiny_models.tiny_model("mixtral"), tiny_models.tiny_module("mixtral")
    quantize_rtn(model.module, model.structure, 4)
    for name in ("gate_up_proj", "down_proj"):
        path = f"model.layers.0.mlp.experts.{name}"
        expected = torch.stack([rounded(expert, 4, 32) for expert in plain.get_parameter(path)])
        assert torch.equal(model.module.get_parameter(path), expected)


@pytest.mark.parametrize("name", ["gpt_neox", "llama"])
def test_fewer_bits_move_the_logits_more(name):
    ids = tiny_models.token_ids(4, 6)
    with torch.no_grad():
        plain = last_logits(tiny_models.tiny_model(name), ids)
    moved = []
    for bits in (8, 4, 2):
        model = tiny_models.tiny_model(name)
        quantize_rtn(model.module, model.structure, bits)
        with torch.no_grad():
            moved.append(((last_logits(model, ids) - plain).norm() / plain.norm()).item())
    # Half a step of 8 bits is 1/254 of a channel's largest weight, a few percent after two random layers.
    assert 0 < moved[0] < 0.05 < moved[1] < moved[2]


def test_groups_that_do_not_fit_are_said():
    model = tiny_models.tiny_model("llama", intermediate_size=72)
    notes = quantize_rtn(model.module, model.structure, 4)
    assert notes == (
        "Groups of 32 do not divide the inputs of model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj: one "
        "scale for each output channel there.",
    )
    plain = tiny_models.tiny_module("llama", intermediate_size=72)
    for name, group in (("down_proj", None), ("up_proj", 32)):
        path = f"model.layers.0.mlp.{name}.weight"
        assert torch.equal(model.module.get_parameter(path), rounded(plain.get_parameter(path), 4, group))
    prove(model, tiny_models.token_ids(2, 6))


def test_group_size_and_seed_are_options():
    first, second, third, nearest, plain = (tiny_models.tiny_model() for _ in range(5))
    for model, seed in ((first, 1), (second, 1), (third, 2), (nearest, None)):
        assert quantize_rtn(model.module, model.structure, 4, group_size=16, stochastic_seed=seed) == ()
    path = first.structure.layers[0].projection + ".weight"
    expected = rounded(plain.module.get_parameter(path), 4, 16)
    assert torch.equal(nearest.module.get_parameter(path), expected)
    assert torch.equal(first.module.get_parameter(path), second.module.get_parameter(path))
    assert not torch.equal(first.module.get_parameter(path), third.module.get_parameter(path))


def test_a_copy_of_the_model_is_still_known_as_rounded():
    model = tiny_models.tiny_model()
    quantize_rtn(model.module, model.structure, 3)
    path = model.structure.layers[0].projection + ".weight"
    copied = copy.deepcopy(model.module).get_parameter(path)
    assert (type(copied), copied.bits) == (RoundedWeight, 3)
    assert torch.equal(copied, model.module.get_parameter(path))
    assert copied.data_ptr() != model.module.get_parameter(path).data_ptr()


@pytest.mark.parametrize(("bits", "group"), [(1, None), (9, None), (4, 0)])
def test_impossible_settings_are_refused(bits, group):
    model = tiny_models.tiny_model()
    with pytest.raises(ConfigurationError, match="give 2 to 8 bits, and groups from 1 up"):
        quantize_rtn(model.module, model.structure, bits, group_size=group)


def test_layers_without_a_linear_map_are_refused():
    module = OneMap(nn.Identity())
    with pytest.raises(ModelError, match="OneMap: nothing was quantized: its layers hold no linear map"):
        quantize_rtn(module, module.structure, 8)


# --- the recipes ----------------------------------------------------------------------------------------------------


def test_every_recipe_starts_from_float32():
    assert {dtype_for(spec) for spec in RECIPES} == {torch.float32}


def test_a_recipe_is_its_function():
    by_name, by_hand = tiny_models.tiny_model(), tiny_models.tiny_model()
    assert RECIPES["int3-rtn"](by_name.module, by_name.structure) == ()
    quantize_rtn(by_hand.module, by_hand.structure, 3)
    for one, other in zip(by_name.module.parameters(), by_hand.module.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_unknown_precision_is_refused_with_those_that_there_are():
    with pytest.raises(ConfigurationError, match=r"unknown precision 'int5'.* int8-rtn, .*bnb-nf4"):
        load_model("embedded", "int5")
