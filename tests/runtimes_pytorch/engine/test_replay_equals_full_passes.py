"""Replays give what full passes give, on every architecture, in every precision."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from patches import alone, patched_rows, read, units_of, zeros
from torch import Tensor, nn

from circuitcheck.runtimes.pytorch.engine.clean_pass import record_clean_pass
from circuitcheck.runtimes.pytorch.engine.replay import Savings
from circuitcheck.runtimes.pytorch.engine.replay_proof import prove_replay
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.quantizers.int8_sim import simulate_int8

BATCH, SEQ = 5, 9
THREE: dict[str, Any] = {"num_hidden_layers": 3}
LOCAL = ["sliding_attention", "full_attention", "sliding_attention"]

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox, parallel residual": ("gpt_neox", THREE),
    "gpt_neox, sequential residual": ("gpt_neox", THREE | {"use_parallel_residual": False}),
    "gpt2": ("gpt2", {"n_layer": 3}),
    "llama, grouped-query": ("llama", THREE),
    "qwen3, norms on queries and keys": ("qwen3", THREE),
    "gemma": ("gemma", THREE),
    "gemma2, norms after attention and MLP": ("gemma2", THREE | {"layer_types": LOCAL, "sliding_window": 4}),
    "cohere, scaled logits": ("cohere", THREE),
    "mistral, sliding window": ("mistral", THREE | {"sliding_window": 4}),
    "opt": ("opt", THREE),
    "opt, projected out": ("opt", THREE | {"word_embed_proj_dim": 16}),
    "opt, norms after": ("opt", THREE | {"word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "mixtral": ("mixtral", THREE),
    "one layer": ("llama", {"num_hidden_layers": 1}),
}

TOLERANCES = {
    # The bound that replays are held to. Sums over other batch shapes are rounded in another order.
    torch.float32: 1e-5,
    # Each of about five operations in each of three layers is rounded by half a step of the type; they add up like a
    # random walk to two steps, and the largest of some hundred results lies at twice the typical one.
    torch.float16: 4 * torch.finfo(torch.float16).eps,
    torch.bfloat16: 4 * torch.finfo(torch.bfloat16).eps,
}
"""Largest difference allowed, relative to the largest metric."""


class Int8Linear(nn.Module):
    """A linear map with weights rounded to the nearest of 255 levels in each row."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        self.register_buffer("weight", (linear.weight.detach() / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale.to(x.dtype), self.bias)


def quantized(module: nn.Module, *, keep: str = "") -> nn.Module:
    for path, part in list(module.named_modules()):
        if isinstance(part, nn.Linear) and path != keep:
            parent, _, name = path.rpartition(".")
            setattr(module.get_submodule(parent), name, Int8Linear(part))
    return module


def prompts() -> tuple[Tensor, Tensor, Tensor]:
    targets = tiny_models.token_ids(2, BATCH, seed=1)
    return tiny_models.token_ids(BATCH, SEQ), targets[0], targets[1]


def replacements(model: HookedModel, kind: str) -> list[Tensor]:
    """For each layer what replaces z, as ablations and repairs have it."""
    layers = read(model, tiny_models.token_ids(BATCH, SEQ, seed=2))
    if kind == "zero":
        return [torch.zeros(()).expand(value.shape) for value in layers]
    if kind == "mean":
        return [value.float().mean(0).expand(value.shape) for value in layers]
    if kind == "answer position":
        return [value[:, -1:].float() for value in layers]
    return layers


def head_sets(model: HookedModel) -> list[set[tuple[int, int]]]:
    """Every head alone, cumulative sets forwards and backwards, all heads, and none."""
    heads = units_of(model)
    cumulative = [heads[:count] for count in range(2, 7)] + [heads[-count:] for count in range(2, 7)]
    return [*map(set, (*alone(heads), *cumulative, heads, ()))]


def assert_replayed_equals_full(model: HookedModel, kind: str, tolerance: float) -> None:
    ids, answer, foil = prompts()
    values, sets = replacements(model, kind), head_sets(model)
    notes: list[str] = []
    replayed = patched_rows(model, ids, answer, foil, values, sets, notes=notes)
    full = patched_rows(model, ids, answer, foil, values, sets, engine="full")
    assert notes == []
    assert replayed.shape == full.shape == (len(sets), BATCH)
    assert replayed.dtype == full.dtype == torch.float32
    assert (replayed - full).abs().max() <= tolerance * full.abs().max()
    assert len(full[:, 0].unique()) > len(units_of(model)), "the interventions are to matter"


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_every_architecture_in_every_type(name: str, dtype: torch.dtype) -> None:
    kind, settings = ARCHITECTURES[name]
    model = hook_module(tiny_models.tiny_module(kind, **settings).to(dtype))
    assert_replayed_equals_full(model, "resample", TOLERANCES[dtype])


@pytest.mark.parametrize("kind", ["resample", "mean", "zero", "answer position"])
@pytest.mark.parametrize("name", ["gpt_neox, parallel residual", "llama, grouped-query", "opt, projected out"])
def test_every_kind_of_replacement(name: str, kind: str) -> None:
    architecture, settings = ARCHITECTURES[name]
    model = tiny_models.tiny_model(architecture, **settings)
    assert_replayed_equals_full(model, kind, TOLERANCES[torch.float32])


@pytest.mark.parametrize("name", ["gpt_neox, parallel residual", "llama, grouped-query", "opt"])
@pytest.mark.parametrize("unembedding", ["plain", "quantized"])
def test_quantized_linear_layers(name: str, unembedding: str) -> None:
    architecture, settings = ARCHITECTURES[name]
    module = tiny_models.tiny_module(architecture, tie_word_embeddings=False, **settings)
    output = hook_module(module).structure.output_layer
    model = hook_module(quantized(module, keep=output if unembedding == "plain" else ""))
    # Weights alone are rounded, so the sums are float32 ones.
    assert_replayed_equals_full(model, "resample", TOLERANCES[torch.float32])


@pytest.mark.parametrize(
    "name", ["gpt_neox, parallel residual", "gpt_neox, sequential residual", "llama, grouped-query"]
)
def test_rounded_activations(name: str) -> None:
    """A scale over all positions forbids to leave positions out, and nothing else: the proof finds that out."""
    architecture, settings = ARCHITECTURES[name]
    model = tiny_models.tiny_model(architecture, **settings)
    simulate_int8(model.module, model.structure)
    assert savings(model) == Savings("single", last_position=False)
    # A sum that lies on the edge between two of the 255 levels falls on either side.
    assert_replayed_equals_full(model, "resample", 1 / 127)


def test_rounded_activations_of_all_tokens_behind_one_another() -> None:
    """OPT hands its MLP tokens without their prompt, so rows that share an entry would share a scale."""
    model = tiny_models.tiny_model("opt", **THREE)
    simulate_int8(model.module, model.structure)
    assert savings(model) == Savings("rows", last_position=False)
    assert_replayed_equals_full(model, "resample", 1 / 127)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_saving_holds_on_every_architecture(name: str) -> None:
    architecture, settings = ARCHITECTURES[name]
    assert savings(tiny_models.tiny_model(architecture, **settings)) == Savings()


def savings(model: HookedModel) -> Savings:
    with torch.no_grad():
        return prove_replay(model, record_clean_pass(model, tiny_models.token_ids(BATCH, SEQ))).savings


def test_one_prompt_of_one_token() -> None:
    model = tiny_models.tiny_model("gpt_neox", **THREE)
    ids = tiny_models.token_ids(1, 1)
    values = zeros(model, 1, 1)
    sets = head_sets(model)
    notes: list[str] = []
    replayed = patched_rows(model, ids, ids[:, 0], ids[:, 0] + 1, values, sets, notes=notes)
    full = patched_rows(model, ids, ids[:, 0], ids[:, 0] + 1, values, sets, engine="full")
    assert notes == []
    torch.testing.assert_close(replayed, full, rtol=1e-5, atol=1e-5 * full.abs().max().item())


@pytest.mark.parametrize("batch", [1, SEQ])
def test_as_many_prompts_as_tokens(batch: int) -> None:
    """What has one entry a prompt is told from what has one entry a token."""
    model = tiny_models.tiny_model("opt", **THREE)
    ids = tiny_models.token_ids(batch, SEQ)
    values = zeros(model, batch, SEQ)
    notes: list[str] = []
    replayed = patched_rows(model, ids, ids[:, 0], ids[:, 1], values, [{(1, 2)}], notes=notes)
    full = patched_rows(model, ids, ids[:, 0], ids[:, 1], values, [{(1, 2)}], engine="full")
    assert notes == []
    torch.testing.assert_close(replayed, full, rtol=1e-5, atol=1e-5 * full.abs().max().item())


def test_no_head_sets() -> None:
    model = tiny_models.tiny_model("gpt_neox")
    ids, answer, foil = prompts()
    assert patched_rows(model, ids, answer, foil, replacements(model, "zero"), []).shape == (0, BATCH)
