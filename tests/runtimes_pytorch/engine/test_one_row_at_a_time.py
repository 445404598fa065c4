"""Models whose logits depend on their batch mates run one row at a time, bit for bit as if alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import tiny_circuits
import tiny_models
import torch
from torch import Tensor, nn

from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.gate.record import record_reference
from circuitcheck.gate.screen import estimate_importance
from circuitcheck.runtimes.pytorch.engine.ablate import ablated_metric
from circuitcheck.runtimes.pytorch.engine.clean import clean_metric, clean_z
from circuitcheck.runtimes.pytorch.engine.clean_pass import record_clean_pass
from circuitcheck.runtimes.pytorch.engine.gradient import z_gradient
from circuitcheck.runtimes.pytorch.engine.intervene import intervene
from circuitcheck.runtimes.pytorch.engine.repair import repaired_metric
from circuitcheck.runtimes.pytorch.engine.replay_proof import NO_SAVINGS, prove_replay
from circuitcheck.runtimes.pytorch.forward import final_hidden, logit_difference
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.hooks import edit_z, record_z
from circuitcheck.runtimes.pytorch.ports.structure import Head

ARCHITECTURES = ["gpt_neox", "llama", "gpt2"]


def round_over_the_batch(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Activations to 4 bits with one scale for the whole tensor, as some integer kernels do, whoever's rows are in it.

    The gradient passes as if nothing were rounded.
    """
    x = arguments[0]
    scale = x.detach().abs().max() / 7
    return (x + ((x / scale).round() * scale - x).detach(), *arguments[1:])


def entangled(name: str = "gpt_neox", batch_size: int | None = 1) -> HookedModel:
    """A model whose every linear map, the unembedding included, rounds its input over the whole batch."""
    model = tiny_models.tiny_model(name, tie_word_embeddings=False)
    linear = [part for part in model.module.modules() if isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"]
    for part in linear:
        part.register_forward_pre_hook(round_over_the_batch)
    return replace(model, batch_size=batch_size)


@contextmanager
def counted_rows(model: HookedModel) -> Iterator[list[int]]:
    """Rows that any layer is given in any pass."""
    rows: list[int] = []

    def count(_: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        rows.append(len(arguments[0] if arguments else keywords["hidden_states"]))

    parts = [model.module.get_submodule(site.path) for site in model.structure.layers]
    handles = [part.register_forward_pre_hook(count, with_kwargs=True) for part in parts]
    try:
        yield rows
    finally:
        for handle in handles:
            handle.remove()


# --- one prompt at a time, one plain pass each ---


def alone(model: HookedModel, pair: PromptPair, edits: dict[int, Callable[[Tensor], Tensor]]) -> float:
    with torch.no_grad(), edit_z(model, edits):
        hidden = final_hidden(model, torch.tensor([pair.clean]))
        return logit_difference(model, hidden, torch.tensor([pair.answer]), torch.tensor([pair.foil])).item()


def z_alone(model: HookedModel, ids: Sequence[int]) -> dict[int, Tensor]:
    with torch.no_grad(), record_z(model) as z:
        final_hidden(model, torch.tensor([ids]))
    return z


def with_heads(heads: Sequence[Head], values: dict[int, Tensor]) -> dict[int, Callable[[Tensor], Tensor]]:
    def replaced(layer: int) -> Callable[[Tensor], Tensor]:
        def edit(z: Tensor) -> Tensor:
            edited = z.clone()
            for where, head in heads:
                if where == layer:
                    edited[:, :, head] = values[layer][:, :, head]
            return edited

        return edit

    return {layer: replaced(layer) for layer in {layer for layer, _ in heads}}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> HookedModel:
    return entangled(request.param)


@pytest.fixture(scope="module")
def task(model: HookedModel) -> Task:
    return tiny_circuits.solvable_task(model, 6)


def test_the_model_above_does_depend_on_batch_mates(model: HookedModel, task: Task) -> None:
    together = clean_metric(replace(model, batch_size=None), task)
    assert (together != clean_metric(model, task)).any()


def test_clean_passes_are_those_of_each_prompt_alone(model: HookedModel, task: Task) -> None:
    assert clean_metric(model, task).tolist() == [alone(model, pair, {}) for pair in task.pairs]
    cache = clean_z(model, task, range(6))
    for place, pair in enumerate(task.pairs):
        for layer, value in z_alone(model, pair.clean).items():
            assert torch.equal(cache.rows([place])[layer], value)


@pytest.mark.parametrize("kind", ["resample", "zero"])
def test_ablations_are_those_of_each_prompt_alone(model: HookedModel, task: Task, kind: Any) -> None:
    notes: list[str] = []
    found = ablated_metric(model, task, range(6), kind, notes=notes)
    for column, pair in enumerate(task.pairs):
        z = z_alone(model, pair.counterfactual)
        values = z if kind == "resample" else {layer: torch.zeros_like(value) for layer, value in z.items()}
        expected = [alone(model, pair, with_heads([head], values)) for head in model.heads]
        assert found[:, column].tolist() == expected
    assert notes == [], "replays, not full passes, are what is tested here"


def test_means_are_those_of_each_prompt_alone(model: HookedModel, task: Task) -> None:
    found = ablated_metric(model, task, range(6), "mean")
    longest = max(len(pair.clean) for pair in task.pairs)
    totals = {layer: torch.zeros(longest, *z.shape[2:]) for layer, z in z_alone(model, task.pairs[0].clean).items()}
    counts = torch.zeros(longest, 1, 1)
    for pair in sorted(task.pairs, key=lambda pair: len(pair.clean)):
        for ids in (pair.clean, pair.counterfactual):
            counts[-len(ids) :] += 1
            for layer, z in z_alone(model, ids).items():
                totals[layer][-len(ids) :] += z[0]
    for column, pair in enumerate(task.pairs):
        values = {layer: (total / counts)[-len(pair.clean) :][None] for layer, total in totals.items()}
        expected = [alone(model, pair, with_heads([head], values)) for head in model.heads]
        assert found[:, column].tolist() == expected


def test_repairs_are_those_of_each_prompt_alone(model: HookedModel, task: Task) -> None:
    reference = tiny_models.tiny_model(model.name, seed=3)
    z = clean_z(reference, task, range(6))
    heads = model.heads
    sets: list[list[Head]] = [[heads[0]], [heads[-1]], heads[:3], heads, []]
    found = repaired_metric(model, task, z, sets)
    for column, pair in enumerate(task.pairs):
        values = dict(enumerate(z.rows([column])))
        assert found[:, column].tolist() == [alone(model, pair, with_heads(chosen, values)) for chosen in sets]


def test_gradients_are_those_of_each_prompt_alone(model: HookedModel, task: Task) -> None:
    together = z_gradient(model, task, range(6))
    for place in range(6):
        single = z_gradient(model, task, [place])
        assert all(map(torch.equal, together.rows([place]), single.rows([place])))


def test_full_passes_run_one_row_at_a_time_too(model: HookedModel, task: Task) -> None:
    batch = task.batches()[0]
    values = [torch.zeros(len(batch.index), 1, site.n_heads, site.d_head) for site in model.structure.layers]
    arguments = (batch.clean, batch.answer, batch.foil, values, [{head} for head in model.heads])
    with counted_rows(model) as rows:
        full = intervene(model, *arguments, engine="full")
    assert set(rows) == {1}
    assert torch.equal(intervene(model, *arguments), full)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_pass_of_a_whole_measurement_has_more_rows(size: int) -> None:
    reference = tiny_models.tiny_model()
    task = tiny_circuits.solvable_task(reference, 8)
    small = replace(reference, batch_size=size)
    with counted_rows(small) as rows:
        clean_metric(small, task)
        clean_z(small, task, range(8))
        z_gradient(small, task, range(8))
        estimate_importance(small, task, range(8), "mean")
        batch = task.batches()[0]
        values = [torch.zeros(4, 1, site.n_heads, site.d_head) for site in small.structure.layers]
        intervene(small, batch.clean, batch.answer, batch.foil, values, [{(0, 1)}, {(1, 2)}], engine="full")
    assert max(rows) == size


def test_a_whole_recording_and_measurement_run_one_row_at_a_time() -> None:
    model = entangled()
    task = tiny_circuits.solvable_task(model, 8)
    with counted_rows(model) as rows:
        baseline = record_reference(model, task, MeasurementSpec(draws=200))
        measured = measure(model, baseline)
    assert set(rows) == {1}
    circuit = measured.circuit
    assert circuit is not None
    # The same passes of the same rows, whatever they were packed with: nothing is rounded otherwise.
    assert circuit.profile_distance.value == circuit.drift_largest.value == circuit.metric_change.value == 0
    (noise,) = baseline.noise.values()
    assert set(noise["one prompt a batch"].values()) == {0.0}


# --- proofs of a replay of one row ---


def carry_over(model: HookedModel) -> None:
    """The second layer adds what the first one saw last, whichever row that was."""
    seen: list[Tensor] = []
    first, second = (model.module.get_submodule(site.path) for site in model.structure.layers[:2])

    def remember(_: nn.Module, arguments: tuple[Tensor, ...], __: Any) -> None:
        seen[:] = [arguments[0].mean()]

    first.register_forward_pre_hook(remember, with_kwargs=True)
    second.register_forward_pre_hook(
        lambda _, arguments, keywords: ((arguments[0] + seen[0], *arguments[1:]), keywords), with_kwargs=True
    )


def scale_what_the_attention_gives(model: HookedModel) -> None:
    """By 32 roundings of a float32, which a proof that allows for rounding does not see."""
    attention = model.module.get_submodule(model.structure.layers[1].attention)
    own = attention.forward
    attention.forward = lambda *arguments, **keywords: (
        (output := own(*arguments, **keywords))[0] * (1 + 2**-18),
        *output[1:],
    )


@pytest.mark.parametrize("broken", [carry_over, scale_what_the_attention_gives])
def test_a_row_that_is_not_replayed_bit_for_bit_runs_in_full(broken: Callable[[HookedModel], None]) -> None:
    model = entangled()
    task = tiny_circuits.solvable_task(model, 4)
    broken(model)
    notes: list[str] = []
    found = ablated_metric(model, task, range(4), "zero", notes=notes)
    assert len(notes) == 1, "once, though every prompt is proven by itself"
    assert "every intervention ran as a full pass" in notes[0]
    for column, pair in enumerate(task.pairs):
        zeros = {layer: torch.zeros_like(z) for layer, z in z_alone(model, pair.clean).items()}
        assert found[:, column].tolist() == [alone(model, pair, with_heads([head], zeros)) for head in model.heads]


def test_one_row_is_replayed_without_savings() -> None:
    model = entangled()
    with torch.no_grad():
        replay = prove_replay(model, record_clean_pass(model, tiny_models.token_ids(1, 6)))
    assert replay.savings == NO_SAVINGS
