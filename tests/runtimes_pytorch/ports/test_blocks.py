"""A layer's whole attention and whole MLP as units: read, proven, patched and replayed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import micro_model
import numpy as np
import pytest
import tiny_models
import torch
from patches import alone, patched_rows, read, units_of
from quick_recording import record
from tiny_sites import EXPECTED
from torch import Tensor, nn

from circuitcheck.core.errors import SiteError
from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import ABLATIONS, POSITIONS, Ablation, MeasurementSpec, Positions
from circuitcheck.core.units import Group, Layout
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.hooked import HookedModel

BATCH, SEQ = 5, 9

ROUNDING = 1e-5
"""Sums over other batch shapes are rounded in another order; relative to the largest metric, as for replays."""

SUM_ROUNDING = 4 * torch.finfo(torch.float32).eps
"""Three numbers are added, and two subtracted; relative to the largest."""

POST_NORM = {
    "bert": ("attention.output.LayerNorm", "output.LayerNorm"),
    "roberta": ("attention.output.LayerNorm", "output.LayerNorm"),
    "distilbert": ("sa_layer_norm", "output_layer_norm"),
}
"""Where the stream is normalised after each addition: norms of a layer, whose input is the sum."""

SCALED = {"granite": 0.5, "granitemoe": 1.0}
"""What Granite multiplies by what it adds (`residual_multiplier`)."""

FULL_PASSES = ["bert", "roberta", "bloom", "gpt_bigcode", "granitemoe"]
"""What no replay stands for; see the tests of every architecture."""

THREE: dict[str, Any] = {"num_hidden_layers": 3}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neox, parallel": ("gpt_neox", THREE),
    "gpt_neox, sequential": ("gpt_neox", THREE | {"use_parallel_residual": False}),
    "gpt2": ("gpt2", {"n_layer": 3}),
    "llama": ("llama", THREE),
    "gemma2, norms behind attention and MLP": ("gemma2", THREE),
    "opt, tokens behind one another": ("opt", THREE),
    "bloom, residual added inside": ("bloom", {"n_layer": 3}),
    "falcon, parallel": ("falcon", THREE),
    "falcon, sequential": ("falcon-alibi", THREE),
    "bert": ("bert", THREE),
    "mixtral": ("mixtral", THREE),
    "mixtral, experts chosen": ("mixtral-routed", THREE),
}


def tiny(name: str) -> HookedModel:
    architecture, settings = MODELS[name]
    return tiny_models.tiny_model(architecture, **settings)


def random_task() -> Task:
    """Six pairs of two lengths that have nothing to do with one another."""
    pairs = []
    for number in range(6):
        clean, other = tiny_models.token_ids(2, 6 + number % 2, seed=number).tolist()
        pairs.append(PromptPair(tuple(clean), tuple(other), 3, 5, "one"))
    return Task("random", tuple(pairs))


# --- where they are --------------------------------------------------------------------------------------------------


def test_they_are_named_by_what_they_are() -> None:
    layout = tiny_models.tiny_model("llama").layout("block")
    expected = tuple(
        Group(f"{name} {layer}", layer, 1, 32, numbered=False) for layer in range(2) for name in ("attention", "mlp")
    )
    assert layout == Layout("block", expected)
    assert [layout.label(unit) for unit in layout.units] == ["attention 0", "mlp 0", "attention 1", "mlp 1"]
    assert [layout.layer(unit) for unit in layout.units] == [0, 0, 1, 1]
    assert [layout.column(unit) for unit in layout.units] == [0, 1, 0, 1]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_architecture_is_proven(name: str) -> None:
    model = tiny_models.tiny_model(name)
    with model.unchanged():
        model.prove(random_task().prompts(), "block")


def test_a_model_without_an_mlp_has_none() -> None:
    with pytest.raises(SiteError, match=r"layers\.0: the width of the residual stream, or the MLP, was not found"):
        micro_model.one_layer().layout("block")


def test_a_kind_that_nobody_knows_is_refused() -> None:
    with pytest.raises(SiteError, match="LlamaForCausalLM: units are head, block, neuron, not 'vertex'"):
        tiny_models.tiny_model("llama").prove(random_task().prompts(), "vertex")


class AddsItTwice(micro_model.MicroModelWithMLPs):
    """The second layer's MLP runs twice in a pass."""

    def forward(self, ids: Tensor) -> Tensor:
        self.layers[1].mlp(self.embed(ids))
        logits: Tensor = super().forward(ids)
        return logits


class DoesNothing(nn.Module):
    def forward(self, residual: Tensor) -> Tensor:
        return residual * 0


def test_an_mlp_that_runs_twice_is_refused() -> None:
    module = AddsItTwice(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER)
    prompts = micro_model.micro_task().prompts()
    refused = r"layer 1, module layers\.1\.mlp, check 'z is readable': it ran 2 times"
    with pytest.raises(SiteError, match=refused):
        micro_model.hook_micro(module, 2).prove(prompts, "block")


def test_an_mlp_that_does_not_matter_is_refused() -> None:
    model = micro_model.two_layers_with_mlps()
    model.module.layers[0].mlp = DoesNothing()
    refused = r"layer 0, module layers\.0\.mlp, check 'ablation matters': zeroing all of the layer's blocks"
    with pytest.raises(SiteError, match=refused):
        model.prove(micro_model.micro_task().prompts(), "block")


def test_an_mlp_that_is_not_as_wide_as_the_residual_stream_is_refused() -> None:
    """Its one number is added to both of the stream's."""

    class Narrows(nn.Module):
        def forward(self, residual: Tensor) -> Tensor:
            return residual[..., :1]

    model = micro_model.two_layers_with_mlps()
    model.module.layers[1].mlp = Narrows()
    refused = r"layer 1, module layers\.1\.mlp, check 'z is readable': its output is not \[batch, seq, 2\]"
    with pytest.raises(SiteError, match=refused):
        model.prove(micro_model.micro_task().prompts(), "block")


# --- what they are ---------------------------------------------------------------------------------------------------


@contextmanager
def seen(model: HookedModel, paths: list[str]) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Hidden states that modules are given and give back."""
    found: list[tuple[Tensor, Tensor]] = []

    def note(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any], output: Any) -> None:
        given = arguments[0] if arguments else keywords["hidden_states"]
        found.append((given.clone(), (output[0] if isinstance(output, tuple) else output).clone()))

    handles = [model.module.get_submodule(path).register_forward_hook(note, with_kwargs=True) for path in paths]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", sorted(set(EXPECTED) - set(POST_NORM)))
def test_a_block_is_what_is_added_to_the_residual_stream(name: str) -> None:
    """What a layer adds is its attention and its MLP, whatever norms stand in front of or behind them."""
    model = tiny_models.tiny_model(name)
    with seen(model, [site.path for site in model.structure.layers]) as hidden:
        values = read(model, tiny_models.token_ids(BATCH, SEQ), "block")
    for layer, (before, after) in enumerate(hidden):
        added = SCALED.get(name, 1.0) * (values[2 * layer] + values[2 * layer + 1])[:, :, 0]
        largest = max(tensor.abs().max() for tensor in (before, after, *values))
        assert (after - before - added).abs().max() <= SUM_ROUNDING * largest


@pytest.mark.parametrize("name", POST_NORM)
def test_a_block_is_what_is_added_in_front_of_a_norm(name: str) -> None:
    """An encoder normalises the sum: behind attention the stream is norm(stream + attention), and so on."""
    model = tiny_models.tiny_model(name)
    layers = [site.path for site in model.structure.layers]
    ids = tiny_models.token_ids(BATCH, SEQ)
    with seen(model, layers) as hidden:
        values = read(model, ids, "block")
    with seen(model, [f"{path}.{norm}" for path in layers for norm in POST_NORM[name]]) as norms:
        read(model, ids, "block")
    for layer in range(len(layers)):
        (to_first, first), (to_second, _) = norms[2 * layer : 2 * layer + 2]
        attention, mlp = (value[:, :, 0] for value in values[2 * layer : 2 * layer + 2])
        assert torch.equal(to_first, attention + hidden[layer][0])
        assert torch.equal(to_second, mlp + first)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_its_own_values_change_no_bit(name: str) -> None:
    model = tiny_models.tiny_model(name)
    task = random_task()
    prompts, units = task.prompts(), model.layout("block").units
    own = model.activations(prompts, "block")
    patched = model.patched(prompts, Patch("block", (*alone(units), units), own), engine="full")
    assert (patched == model.metric(prompts)).all()


def test_blocks_of_the_micro_model_by_hand() -> None:
    """Prompt (2, 0), answer 0, foil 1, so m = r0 - r1 - 1/2 (see `micro_model`). Attention adds (21/4, 2) to (1, 0).

    At the first position it adds (5/4, 1/2) to (2, 1), and the MLP (169/64, 9/16) to their sum. At the last one
    r = (25/4, 2), and the MLP adds (625/64, 1): m = 1025/64 - 3 - 1/2 = 801/64. Without the attention r = (1, 0),
    and the MLP adds (1/4, 0): m = 3/4. Without the MLP m = 15/4, and without both m = 1/2. The counterfactual (1, 0)
    has r = (1, 0) + W0 (0, 1) + W1 (1, 1) + b = (9/4, 1), so that its attention adds (5/4, 1) and its MLP (81/64, 1/4).
    With its attention alone r = (9/4, 1), m = 9/4 + 81/64 - 5/4 - 1/2 = 113/64; with its MLP alone
    m = 25/4 + 81/64 - 9/4 - 1/2 = 305/64.
    """
    model = micro_model.one_layer_with_mlp()
    prompts = micro_model.micro_task().prompts([0])
    attention, mlp = model.layout("block").units
    assert [group.tolist() for group in model.activations(prompts, "block").groups] == [
        [[[1.25, 0.5]], [[5.25, 2.0]]],
        [[[169 / 64, 9 / 16]], [[625 / 64, 1.0]]],
    ]
    sets = ((), (attention,), (mlp,), (attention, mlp))
    assert model.patched(prompts, Patch("block", sets, "zero"))[:, 0].tolist() == [801 / 64, 0.75, 3.75, 0.5]
    resampled = model.patched(prompts, Patch("block", sets[:3], "resample"))
    assert resampled[:, 0].tolist() == [801 / 64, 113 / 64, 305 / 64]


# --- replays ---------------------------------------------------------------------------------------------------------


def sets_of(model: HookedModel) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Each block alone, a layer's two, some of several layers, all attention, all MLPs, all, and none."""
    units = tuple(units_of(model, "block"))
    return (*alone(units), units[:2], units[2:4], units[1:4], units[::2], units[1::2], units, ())


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", MODELS)
def test_replays_equal_full_passes(name: str, ablation: Ablation, positions: Positions) -> None:
    model, prompts, work = tiny(name), random_task().prompts(), Work()
    patch = Patch("block", sets_of(model), ablation, positions)
    replayed = model.patched(prompts, patch, work)
    full = model.patched(prompts, patch, engine="full")
    if model.name in FULL_PASSES:
        # Where only the answer position is replaced, a pass of it alone was tried first.
        *before, last = work.notes
        assert all("ran over whole prompts" in note for note in before)
        assert len(before) == (positions == "answer")
        assert "every intervention ran as a full pass" in last
        assert np.array_equal(replayed, full)
    else:
        assert work.notes == []
        assert np.abs(replayed - full).max() <= ROUNDING * np.abs(full).max()
    assert len(np.unique(full[:, 0])) > len(units_of(model, "block")), "the patches are to matter"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["gpt_neox, parallel", "llama", "gpt2", "opt, tokens behind one another"])
def test_replays_equal_full_passes_in_half_precision(name: str, dtype: torch.dtype) -> None:
    model = tiny(name)
    model.module.to(dtype)
    ids, targets = tiny_models.token_ids(BATCH, SEQ), tiny_models.token_ids(2, BATCH, seed=1)
    values = read(model, tiny_models.token_ids(BATCH, SEQ, seed=2), "block")
    notes: list[str] = []
    replayed = patched_rows(model, ids, *targets, values, sets_of(model), kind="block", notes=notes)
    full = patched_rows(model, ids, *targets, values, sets_of(model), kind="block", engine="full")
    assert notes == []
    # As for heads: two steps of the type for three layers of rounding, doubled for the largest of many results.
    assert (replayed - full).abs().max() <= 4 * torch.finfo(dtype).eps * full.abs().max()


@pytest.mark.parametrize("name", ["gpt_neox, parallel", "gpt_neox, sequential", "gpt2", "llama"])
def test_a_model_that_runs_one_row_at_a_time_is_replayed_bit_for_bit(name: str) -> None:
    model, prompts, work = replace(tiny(name), batch_size=1), random_task().prompts(), Work()
    patch = Patch("block", sets_of(model), "resample")
    assert np.array_equal(model.patched(prompts, patch, work), model.patched(prompts, patch, engine="full"))
    assert work.notes == []


# --- gated -----------------------------------------------------------------------------------------------------------


def test_blocks_are_gated_from_end_to_end() -> None:
    model = tiny_models.tiny_model("llama")
    spec = MeasurementSpec(unit="block", draws=100, margin=0.0, minimum_solved=0.1, minimum_clusters=1)
    baseline = record(model, random_task(), spec)
    same, other = measure(model, baseline), measure(tiny_models.tiny_model("llama", seed=1), baseline)
    assert same.circuit is not None
    assert other.circuit is not None
    assert [unit.unit for unit in same.circuit.units] == ["attention 0", "mlp 0", "attention 1", "mlp 1"]
    assert same.circuit.profile_distance.value == same.circuit.drift_largest.value == 0
    assert other.circuit.drift_largest.value > 0.5
