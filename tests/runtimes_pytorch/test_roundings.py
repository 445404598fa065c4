"""Plain roundings of a reference: copies that are rounded as they say, and a reference that is left alone."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.attention_products import products_of, watched
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_module
from circuitcheck.runtimes.pytorch.roundings import WAYS, rounded
from circuitcheck.verdict.limits import DRIFT_LIMITS

IDS = torch.tensor([[1, 2, 3, 4]])


@pytest.fixture(scope="module", params=["gpt_neox", "gpt2"])
def model(request) -> HookedModel:
    return tiny_models.tiny_model(request.param)


def weights_inside(model: HookedModel) -> list[nn.Parameter]:
    layers = [model.module.get_submodule(site.path) for site in model.structure.layers]
    return [parameter for layer in layers for parameter in layer.parameters() if parameter.dim() == 2]


def test_every_precision_that_rounds_has_its_ways_under_distinct_names():
    assert {way.precision for way in WAYS} == set(DRIFT_LIMITS) - {"f32"}
    assert len({(way.precision, way.name) for way in WAYS}) == len(WAYS)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.precision}, {way.name}")
def test_a_copy_is_rounded_and_the_reference_left_alone(model, way):
    before = fingerprint_module(model.module)
    copy = rounded(model, way, [IDS])
    assert copy.precision == way.precision
    with torch.no_grad():
        change = (copy.module(IDS).logits.float() - model.module(IDS).logits).abs().max()
    assert 0 < change < 100
    assert fingerprint_module(model.module) == before


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way.precision}, {way.name}")
def test_proofs_stand_for_copies_that_run_the_same_code_and_for_no_others(model, way):
    copy = rounded(model, way, [IDS])
    runs_the_same = all(
        type(part) is type(own)
        and part.forward.__func__ is own.forward.__func__
        and not (part._forward_pre_hooks or part._forward_hooks)
        and all(a.dtype == b.dtype for a, b in zip(part.parameters(False), own.parameters(False), strict=True))
        for part, own in zip(copy.module.modules(), model.module.modules(), strict=True)
    )
    assert (copy.proven_here is model.proven_here) == way.is_of_weights == runs_the_same


def test_weights_take_as_many_values_as_they_may(model):
    for way in WAYS:
        if "-bit" in way.precision:
            levels = 2 * (2 ** (int(way.precision[0]) - 1) - 1) + 1
            group = 32 if "groups" in way.name else None
            for weight in weights_inside(rounded(model, way, [IDS])):
                columns = weight.T if type(model.module).__name__.startswith("GPT2") else weight
                rows = columns.detach().reshape(-1, group or columns.shape[1])
                # A row of codes times one scale; codes times scale differ in the last place where signs differ.
                steps = rows / rows.abs().amax(1, keepdim=True).clamp(min=1e-30) * (levels // 2)
                assert (steps - steps.round()).abs().max() < 1e-3, way.name


def test_float8_weights_are_floats_of_8_bits_times_a_scale(model):
    (way,) = (way for way in WAYS if way.name == "weights per tensor")
    for weight in weights_inside(rounded(model, way)):
        scale = weight.abs().max() / torch.finfo(torch.float8_e4m3fn).max
        assert torch.allclose((weight / scale).to(torch.float8_e4m3fn).float() * scale, weight, rtol=1e-6)


def test_a_model_without_linear_maps_is_refused_by_what_is_missing():
    model = tiny_models.tiny_model()
    for site in model.structure.layers:
        layer = model.module.get_submodule(site.path)
        for path, part in list(layer.named_modules()):
            if isinstance(part, nn.Linear):
                parent = layer.get_submodule(path.rpartition(".")[0])
                setattr(parent, path.rpartition(".")[2], nn.Identity())
    for way in WAYS:
        if way.name.startswith("weights"):
            with pytest.raises(ModelError, match="linear map"):
                rounded(model, way)


def test_fixed_scales_are_of_the_range_that_was_seen(model):
    """256 levels from the least to the largest that a map read, 0 among them; what is beyond is cut off."""
    (way,) = (way for way in WAYS if way.name.endswith("range, what maps read"))
    path = model.structure.layers[0].projection
    seen: list[torch.Tensor] = []

    def read(copy: HookedModel, ids: torch.Tensor) -> torch.Tensor:
        part = copy.module.get_submodule(path)
        handle = part.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
        with torch.no_grad():
            copy.module(ids)
        handle.remove()
        return seen[-1]

    low, high = (float(end) for end in read(model, IDS).aminmax())
    low, high = min(low, 0.0), max(high, 0.0)
    step = (high - low) / 255
    rounded_values = read(rounded(model, way, [IDS]), IDS) / step  # hooks run in order, so this is what the map reads
    assert (rounded_values - rounded_values.round()).abs().max() < 1e-3
    others = read(rounded(model, way, [IDS]), torch.arange(5, 45).reshape(4, 10))
    assert others.min() >= low - step
    assert others.max() <= high + step


def test_without_prompts_there_are_no_fixed_scales(model):
    names = [one.name for one in model.roundings()]
    assert len(names) == len(WAYS) - 4
    assert not any("range" in name or "keys and values" in name for name in names)


def factors_of(copy: HookedModel) -> list[torch.Tensor]:
    """Both factors of every product of two values, in order."""
    seen: list[torch.Tensor] = []
    product = torch.matmul

    class Watching(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            if function is product and not any(isinstance(one, nn.Parameter) for one in arguments):
                seen.extend(one.detach().clone() for one in arguments)
            return function(*arguments, **(keywords or {}))

    with torch.no_grad(), Watching():
        copy.module(IDS)
    assert len(seen) == 4 * len(copy.structure.layers)
    return seen


def test_what_attention_multiplies_is_rounded_to_256_levels_of_its_range(model):
    (way,) = (way for way in WAYS if "attention's products" in way.name)
    for values in factors_of(rounded(model, way, [IDS])):
        levels = values.unique()
        assert len(levels) <= 256
        assert values.abs().max() > 0
        steps = levels / levels.diff().min()  # whatever their number, all are multiples of one step
        assert torch.allclose(steps, steps.round(), atol=1e-2)


def test_a_cache_keeps_keys_and_values_in_8_bits_for_each_head_and_token(model):
    (way,) = (way for way in WAYS if "keys and values" in way.name)
    factors = factors_of(rounded(model, way, [IDS]))
    for keys, values in zip(factors[1::4], factors[3::4], strict=True):
        for held in (keys.transpose(-1, -2), values):
            codes = held / held.abs().amax(-1, keepdim=True) * 127
            assert torch.allclose(codes, codes.round(), atol=1e-3)
    for queries, weights in zip(factors[0::4], factors[2::4], strict=True):
        for free in (queries, weights):
            codes = free / free.abs().amax(-1, keepdim=True) * 127
            assert not torch.allclose(codes, codes.round(), atol=1e-3)


@pytest.mark.parametrize("name", ["attention's products", "keys and values"])
def test_an_attention_whose_products_cannot_be_seen_is_said(model, name):
    (way,) = (way for way in WAYS if name in way.name)
    model.module.set_attn_implementation("sdpa")
    try:
        with pytest.raises(ModelError, match="attention"):
            rounded(model, way, [IDS])
    finally:
        model.module.set_attn_implementation("eager")
    assert "forward" not in vars(model.module.get_submodule(model.structure.layers[0].attention))


def test_a_product_by_keyword_is_left_alone_and_is_not_counted():
    """It cannot be told which of its factors is which."""

    class Attention(nn.Module):
        def forward(self, x):
            return torch.matmul(x, other=x.transpose(-1, -2)) @ x

    attention = Attention()
    x = torch.arange(6.0).reshape(1, 2, 3)
    assert products_of(attention, [attention], x) == [1]
    with watched(attention, lambda place, value: value * 0 if place == (0, "made") else value):
        assert not attention(x).any()
    assert torch.equal(attention(x), x @ x.transpose(-1, -2) @ x)
