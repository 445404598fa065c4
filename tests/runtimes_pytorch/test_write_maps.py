"""How units are read in logits: what a head's write does to them, whatever the projection is made of."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import Any

import metric_functions
import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record
from torch import Tensor, nn

from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.quantizers.recipes import RECIPES
from circuitcheck.verdict.limits import limits_for

TOKENS = (0, 3, 7, 30)
STEP = 0.03
"""How large a write is tried beside a residual stream of numbers of size 1."""

FLOAT32 = 1e-5
"""Sums of 32 float32 numbers, relative to the largest entry of a map."""


def maps_of(model: HookedModel, amplitude: float = 1.0) -> list[Tensor]:
    found = model.reading("head", TOKENS, [amplitude] * len(model.ports("head")))
    assert found.tokens == TOKENS
    return [torch.from_numpy(one) for one in found.maps]


def apart(found: Tensor, expected: Tensor) -> float:
    """The largest difference of two arrays, relative to the largest number of the second."""
    return float((found - expected).abs().max() / expected.abs().max())


def projection(model: HookedModel, layer: int = 0) -> Any:
    return model.module.get_submodule(model.structure.layers[layer].projection)


def matrix(model: HookedModel, layer: int = 0) -> Tensor:
    """W_O as `[heads, d_head, d_model]`."""
    site, part = model.structure.layers[layer], projection(model, layer)
    weight = part.weight.detach() if type(part).__name__ == "Conv1D" else part.weight.detach().T
    return weight.reshape(site.n_heads, site.d_head, -1)


GAINS = {
    "gpt_neox": (lambda module: module.gpt_neox.final_layer_norm.weight, True),
    "gpt2": (lambda module: module.transformer.ln_f.weight, True),
    "llama": (lambda module: module.model.norm.weight, False),
    "gemma": (lambda module: 1 + module.model.norm.weight, False),
    "olmo": (lambda _: torch.ones(32), True),  # a LayerNorm without weights
}
"""Name to what the final norm multiplies by, and whether it takes the mean away."""


@pytest.mark.parametrize("name", GAINS)
@torch.no_grad()
def test_a_map_is_what_the_final_norm_and_the_unembedding_make_of_a_write(name):
    module = tiny_models.tiny_module(name)
    for part in module.parameters():
        if part.dim() == 1:  # gains of 1 would hide one that is left out
            part += torch.linspace(-0.4, 0.4, len(part))
    model = hook_module(module)
    gain, is_centred = GAINS[name]
    rows = module.get_output_embeddings().weight[list(TOKENS)] * gain(module)
    rows = rows - rows.mean(1, keepdim=True) if is_centred else rows
    reading = model.reading("head", TOKENS)
    assert reading.source == "unembedding"
    for layer, found in enumerate(maps_of(model)):
        assert apart(found, torch.einsum("td,hwd->htw", rows, matrix(model, layer))) < FLOAT32
    (shared, *others) = model.reading("block", TOKENS).maps
    assert all(one is shared for one in others)
    assert apart(torch.from_numpy(shared)[0], rows) < FLOAT32


@pytest.mark.parametrize("name", ["gpt_neox", "llama", "gemma"])
@torch.no_grad()
def test_a_map_is_what_a_write_does_to_the_models_own_logits(name):
    """With the scale of the final norm held, logits are linear in the last residual stream."""
    model = hook_module(tiny_models.tiny_module(name).double())
    module, path = model.module, model.structure.final_norm
    norm, unembed = module.get_submodule(path), module.get_output_embeddings()
    stream = torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centred = stream - stream.mean() if GAINS[name][1] else stream
    z = torch.linspace(-1, 1, model.structure.layers[0].d_head, dtype=torch.float64)
    write = STEP * z @ matrix(model)[2]
    size = centred.pow(2).mean().sqrt()
    # Along the stream itself the scale gives way; what is left of the write does not change it, to first order.
    inside = write - write.mean() if GAINS[name][1] else write
    across = write - (inside @ centred) / (centred @ centred) * centred

    def logits(residual: Tensor) -> Tensor:
        return unembed(norm(residual[None, None]))[0, 0, list(TOKENS)]

    found = (logits(stream + across) - logits(stream - across)) / 2 * size
    along = (inside @ centred) / (centred @ centred) * (logits(stream) - logits(0 * stream)) * size
    expected = STEP * maps_of(model)[0][2].double() @ z
    assert apart(found + along, expected) < 1e-3  # norms compute in float32, and steps are not infinitely small


@pytest.mark.parametrize(
    ("spec", "tolerance"),
    # torchao's steps for activations are 255 to twice the largest one, but it stops at 127 of them: 0.4 % are lost
    [("int8-rtn", 1e-6), ("int4-rtn", 1e-6), ("int8", 5e-3), ("int8-weight", 1e-5), ("bnb-nf4", 1e-5)],
)
@torch.no_grad()
def test_a_quantized_projection_is_read_as_what_it_computes(spec, tolerance):
    if not spec.endswith("-rtn"):
        pytest.importorskip("bitsandbytes" if spec.startswith("bnb") else "torchao")
    plain = tiny_models.tiny_model("llama", hidden_size=64, intermediate_size=128)
    model = tiny_circuits.copy_of(plain)
    RECIPES[spec](model.module, model.structure)
    dequantized = _dequantized(projection(model), spec)
    assert apart(dequantized, projection(plain).weight) > 0.003, "it is to be rounded"
    rounded = tiny_circuits.copy_of(plain)
    projection(rounded).weight.copy_(dequantized)
    found, expected = maps_of(model, amplitude=2.5)[0], maps_of(rounded)[0]
    assert apart(found, expected) < tolerance
    assert apart(found, maps_of(plain)[0]) > apart(found, expected)


def _dequantized(part: Any, spec: str) -> Tensor:
    if spec.endswith("-rtn"):
        return part.weight.detach()
    if spec == "bnb-nf4":
        import bitsandbytes

        return bitsandbytes.functional.dequantize_4bit(part.weight.data, part.weight.quant_state).float()
    return part.weight.dequantize()


def turned(reference: HookedModel, *, undone: bool = True) -> HookedModel:
    """A copy whose projections turn their input by a hook of their own, with the weights turned back."""
    model = tiny_circuits.copy_of(reference)
    for layer, site in enumerate(model.structure.layers):
        part = projection(model, layer)
        width = site.n_heads * site.d_head
        turn = torch.linalg.qr(torch.randn(width, width, generator=torch.Generator().manual_seed(layer)))[0]
        part.register_forward_pre_hook(lambda _, given, turn=turn: (given[0] @ turn, *given[1:]), prepend=True)
        if undone:
            part.weight.data = part.weight.data @ turn
    return model


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_a_projection_with_a_transform_of_its_own_is_read_in_front_of_it_and_passes(name):
    reference = tiny_models.tiny_model(name)
    candidate = turned(reference)
    for found, expected in zip(maps_of(candidate), maps_of(reference), strict=True):
        assert apart(found, expected) < FLOAT32
    baseline = record(reference, tiny_circuits.solvable_task(reference, prompts=40), MeasurementSpec(draws=200))
    verdict = judge(measure(candidate, baseline), limits_for("f32", "tiny"))
    circuit = verdict.measurement.circuit
    assert verdict.word == "PASS", [judgement.message for judgement in verdict.criteria]
    assert circuit.drift_largest.value < FLOAT32
    assert circuit.basis.changed == ()
    assert max(unit.drift_z for unit in circuit.units) < FLOAT32
    broken = judge(measure(turned(reference, undone=False), baseline), limits_for("f32", "tiny"))
    assert broken.word == "FAIL"


@pytest.mark.parametrize("ablation", ["resample", "zero"])
@pytest.mark.parametrize("positions", ["all", "answer"])
def test_a_pruned_head_fails_whatever_is_kept_of_it(positions, ablation):
    reference = tiny_models.tiny_model("gpt_neox")
    spec = MeasurementSpec(draws=200, positions=positions, ablation=ablation, sweep="screened")
    baseline = record(reference, tiny_circuits.solvable_task(reference, prompts=40), spec)
    verdict = judge(measure(tiny_circuits.scale_head(reference, 1, 2, 0.0), baseline, curves=False))
    assert verdict.word == "FAIL"
    (largest,) = (judgement for judgement in verdict.criteria if judgement.name == "drift_largest")
    assert (largest.verdict, largest.value.value) == ("FAIL", 1)


class Bare(nn.Module):
    """A model of which only the parts are seen that put out no logits of tokens."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.inner = module.model
        self.config = module.config

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(ids).last_hidden_state


def bare(*, embedding: bool) -> HookedModel:
    module = Bare(tiny_models.tiny_module("llama"))
    known = tiny_models.tiny_model("llama").structure
    sites = tuple(
        replace(site, **{key: f"inner.{getattr(site, key).partition('.')[2]}" for key in ("path", "attention",
                "projection", "mlp")})
        for site in known.layers
    )  # fmt: skip
    structure = replace(
        known, layers=sites, embedding="inner.embed_tokens" if embedding else None, final_norm=None, output_layer=None
    )
    return hook_module(module.eval(), structure, metric=metric_functions.class_difference)


@torch.no_grad()
def test_a_model_without_an_unembedding_is_read_through_its_embedding():
    model = bare(embedding=True)
    assert model.reading("head", TOKENS).source == "embedding"
    rows = model.module.inner.embed_tokens.weight[list(TOKENS)]
    assert apart(maps_of(model)[1], torch.einsum("td,hwd->htw", rows, matrix(model, 1))) < FLOAT32
    assert model.reading("block", TOKENS).maps[0].tolist() == rows[None].tolist()


@torch.no_grad()
def test_a_model_without_either_is_read_through_a_sketch_that_is_always_the_same():
    model = bare(embedding=False)
    reading, other = (one.reading("head", TOKENS) for one in (model, bare(embedding=False)))
    assert reading.source == other.source == "sketch"
    assert all((ours == theirs).all() for ours, theirs in zip(reading.maps, other.maps, strict=True))
    # of tokens by number: more of them leave those that were there
    assert (model.reading("head", (0, 3, 7, 30, 40)).maps[0][:, :4] == reading.maps[0]).all()
    assert model.reading("block", TOKENS).maps[0].shape == (1, 4, 32)


@torch.no_grad()
def test_an_unembedding_of_fewer_numbers_than_the_stream_has_is_not_read():
    """OPT of 350m embeds in 512 numbers what its layers carry in 1024."""
    module = tiny_models.tiny_module("opt", word_embed_proj_dim=16)
    assert module.get_output_embeddings().in_features == 16
    reading = hook_module(deepcopy(module)).reading("head", TOKENS)
    assert reading.source == "sketch"
    assert [one.shape for one in reading.maps] == [(4, 4, 8)] * 2
