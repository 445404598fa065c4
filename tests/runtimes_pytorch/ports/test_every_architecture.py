"""Every architecture of the table, on a tiny model: proofs, replays, and importances from passes of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import patches
import pytest
import tiny_circuits
import tiny_models
import torch
from tiny_sites import EXPECTED
from torch import Tensor, nn

from circuitcheck.core.specification import Ablation
from circuitcheck.runtimes.pytorch.forward import final_hidden, metric_of
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.ports.architectures import ARCHITECTURES
from circuitcheck.runtimes.pytorch.ports.proofs import prove

EVERY = sorted(EXPECTED)
"""Tiny models, at least one of every entry of the table."""

EXPERTS = ["mixtral-routed", "qwen2_moe", "qwen3_moe", "gpt_oss", "granitemoe"]

FULL_PASSES = {
    "bloom": "cannot be run alone",  # its ALiBi has one entry a prompt and head, and its attention adds the residual
    "bert": "does not reproduce the clean pass",  # its attention normalises what its projection puts out
    "roberta": "does not reproduce the clean pass",
    "gpt_bigcode": "cannot be run alone",  # it gives what its attention puts out the shape of what the layer was given
    "granitemoe": "cannot be run alone",  # it keeps a cache, and has no option of its own to leave that
}
"""What no replay stands for, and why."""

HEADS = 4
BATCH, SEQ = 5, 9

ROUNDING = 1e-5
"""Sums over other batch shapes are rounded in another order; relative to the largest metric, as for replays."""


def test_every_entry_of_the_table_has_a_tiny_model() -> None:
    """Of its own name and with that model type; a new line of the table is to come with one."""
    missing = sorted(set(ARCHITECTURES) - set(EVERY))
    assert not missing, f"add tiny models of {missing} to tests/helpers/tiny_models.py, and their sites to tiny_sites"
    for name in ARCHITECTURES:
        assert tiny_models.tiny_module(name).config.model_type == tiny_models.model_type(name) == name


# --- proofs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", EVERY)
def test_the_hooks_are_proven_in_every_type(name: str, dtype: torch.dtype) -> None:
    model = hook_module(tiny_models.tiny_module(name).to(dtype))
    with model.unchanged():
        prove(model, tiny_models.token_ids(2, SEQ))


# --- replays ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_replays_equal_full_passes_or_are_not_made(name: str) -> None:
    model = tiny_models.tiny_model(name)
    ids, targets = tiny_models.token_ids(BATCH, SEQ), tiny_models.token_ids(2, BATCH, seed=1)
    values = patches.read(model, tiny_models.token_ids(BATCH, SEQ, seed=2))
    heads = patches.units_of(model)
    sets = [*patches.alone(heads), heads[:3], heads, ()]
    notes: list[str] = []
    replayed = patches.patched_rows(model, ids, targets[0], targets[1], values, sets, notes=notes)
    full = patches.patched_rows(model, ids, targets[0], targets[1], values, sets, engine="full")
    assert len(full[:, 0].unique()) > len(heads), "the interventions are to matter"
    if name in FULL_PASSES:
        assert len(notes) == 1
        assert f"{name}: every intervention ran as a full pass" in notes[0]
        assert FULL_PASSES[name] in notes[0]
        assert torch.equal(replayed, full)
    else:
        assert notes == []
        assert (replayed - full).abs().max() <= ROUNDING * full.abs().max()


# --- importances -----------------------------------------------------------------------------------------------------


class Oracle:
    """Ablations by full passes of one prompt, with hooks of their own on sites that were written down by hand."""

    def __init__(self, name: str, module: nn.Module) -> None:
        path, attention, projection, _, self.width, _ = EXPECTED[name]
        stem = path.rpartition(".")[0]
        self.module = module
        self.projections = [module.get_submodule(f"{stem}.{layer}.{attention}.{projection}") for layer in range(2)]

    def logits(self, prompt: tuple[int, ...]) -> Tensor:
        """Of the last position, `[vocabulary]`, float64."""
        with torch.no_grad():
            return self.module(torch.tensor([prompt])).logits[0, -1].double()

    def inputs(self, prompt: tuple[int, ...]) -> list[Tensor]:
        seen: list[Tensor] = []
        with self.hooked(lambda _, x: seen.append(x.clone())):
            self.logits(prompt)
        return seen

    @contextmanager
    def hooked(self, hook: Callable[[int, Tensor], Any]) -> Iterator[None]:
        handles = [
            part.register_forward_pre_hook(lambda _, given, layer=layer: hook(layer, given[0]))
            for layer, part in enumerate(self.projections)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def ablated(self, prompt: tuple[int, ...], layer: int, head: int, other: list[Tensor]) -> Tensor:
        columns = slice(head * self.width, (head + 1) * self.width)

        def replace(where: int, x: Tensor) -> tuple[Tensor] | None:
            if where != layer:
                return None
            x = x.clone()
            x[..., columns] = other[layer][..., columns]
            return (x,)

        with self.hooked(replace):
            return self.logits(prompt)


@pytest.mark.parametrize("kind", ["resample", "zero"])
@pytest.mark.parametrize("name", EVERY)
def test_importances_are_those_of_full_passes(name: str, kind: Ablation) -> None:
    model = tiny_models.tiny_model(name)
    task = tiny_circuits.solvable_task(model, prompts=4)
    ablated = patches.ablated_metric(model, task, range(4), kind)
    oracle = Oracle(name, model.module)
    largest = 0.0
    for number, pair in enumerate(task.pairs):
        answer, foil = torch.tensor([pair.answer]), torch.tensor([pair.foil])
        with torch.no_grad():
            clean = metric_of(model, torch.tensor([pair.clean]), answer, foil).item()
        logits = oracle.logits(pair.clean)
        own = (logits[pair.answer] - logits[pair.foil]).item()
        other = [z if kind == "resample" else z * 0 for z in oracle.inputs(pair.counterfactual)]
        assert clean == pytest.approx(own, rel=ROUNDING)
        for row, (layer, head) in enumerate(patches.units_of(model)):
            logits = oracle.ablated(pair.clean, layer, head, other)
            importance = own - (logits[pair.answer] - logits[pair.foil]).item()
            assert clean - ablated[row, number] == pytest.approx(importance, abs=ROUNDING * abs(own))
            largest = max(largest, abs(importance) / abs(own))
    assert largest > 0.01, "some head is to matter"


# --- what the tiny models are there for ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt_neo", "mistral", "starcoder2", "gemma2", "gemma3_text", "cohere2", "gpt_oss"])
def test_local_layers_see_four_tokens(name: str) -> None:
    """Otherwise the tiny model would say nothing about windows: prompts are longer than one."""
    model = tiny_models.tiny_model(name)
    ids = tiny_models.token_ids(1, SEQ)
    early, late = ids.clone(), ids.clone()
    early[0, SEQ - 5] = (ids[0, SEQ - 5] + 1) % tiny_models.VOCABULARY
    late[0, SEQ - 4] = (ids[0, SEQ - 4] + 1) % tiny_models.VOCABULARY
    clean = patches.read(model, ids)[0][:, -1]
    assert torch.equal(patches.read(model, early)[0][:, -1], clean)
    assert not torch.equal(patches.read(model, late)[0][:, -1], clean)


@pytest.mark.parametrize("name", ["gptj", "falcon", "phi", "stablelm-parallel", "cohere"])
def test_parallel_layers_give_their_mlp_what_their_attention_is_given(name: str) -> None:
    """Their MLP does not hear of an ablation in its own layer."""
    model = tiny_models.tiny_model(name)
    site = model.structure.layers[0]
    seen: list[Tensor] = []
    mlp = model.module.get_submodule(str(site.mlp))
    handle = mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].clone()))
    ids = tiny_models.token_ids(2, SEQ)
    patches.read(model, ids)
    projection = model.module.get_submodule(site.projection)
    ablation = projection.register_forward_pre_hook(lambda _, given: (given[0] * 0,))
    patches.read(model, ids)
    ablation.remove()
    handle.remove()
    assert torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_chosen_for_each_token_whatever_its_batch_mates(name: str) -> None:
    """There is no capacity that a batch shares: alone or among others, a prompt's result differs by rounding only."""
    model = tiny_models.tiny_model(name)
    chosen: list[Tensor] = []
    for part in model.module.modules():
        if "Router" in type(part).__name__ or "Gating" in type(part).__name__:
            part.register_forward_hook(lambda _, __, given: chosen.append(given[-1].clone()))
    ids = tiny_models.token_ids(16, SEQ)
    with torch.no_grad():
        together = final_hidden(model, ids)
        assert len(chosen) == 2
        alone = torch.cat([final_hidden(model, ids[row : row + 1]) for row in range(len(ids))])
    assert (together - alone).abs().max() <= ROUNDING * together.abs().max()
