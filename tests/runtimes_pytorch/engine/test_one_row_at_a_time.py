"""Models whose logits depend on their batch mates run one row at a time, bit for bit as if alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from patches import ablated_metric, edited, patched_rows, read, repaired_metric, units_of, zeros
from quick_recording import record
from torch import Tensor, nn

from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.core.units import Unit
from circuitcheck.gate.measure import measure
from circuitcheck.gate.screen import estimate_importance
from circuitcheck.runtimes.pytorch.engine.clean_pass import record_clean_pass
from circuitcheck.runtimes.pytorch.engine.replay_proof import NO_SAVINGS, prove_replay
from circuitcheck.runtimes.pytorch.forward import final_hidden, logit_difference
from circuitcheck.runtimes.pytorch.hooked import HookedModel

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
    with torch.no_grad(), edited(model, edits):
        hidden = final_hidden(model, torch.tensor([pair.clean]))
        return logit_difference(model, hidden, torch.tensor([pair.answer]), torch.tensor([pair.foil])).item()


def z_alone(model: HookedModel, ids: Sequence[int]) -> list[Tensor]:
    return read(model, torch.tensor([ids]))


def with_heads(heads: Sequence[Unit], values: Sequence[Tensor]) -> dict[int, Callable[[Tensor], Tensor]]:
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
    together = replace(model, batch_size=None).metric(task.prompts())
    assert (together != model.metric(task.prompts())).any()


def test_clean_passes_are_those_of_each_prompt_alone(model: HookedModel, task: Task) -> None:
    assert model.metric(task.prompts()).tolist() == [alone(model, pair, {}) for pair in task.pairs]
    found = model.activations(task.prompts(), "head")
    for place, pair in enumerate(task.pairs):
        for layer, value in enumerate(z_alone(model, pair.clean)):
            assert np.array_equal(found.rows([place])[layer], value)


@pytest.mark.parametrize("kind", ["resample", "zero"])
def test_ablations_are_those_of_each_prompt_alone(model: HookedModel, task: Task, kind: Any) -> None:
    notes: list[str] = []
    found = ablated_metric(model, task, range(6), kind, notes=notes)
    for column, pair in enumerate(task.pairs):
        z = z_alone(model, pair.counterfactual)
        values = z if kind == "resample" else [torch.zeros_like(value) for value in z]
        expected = [alone(model, pair, with_heads([head], values)) for head in units_of(model)]
        assert found[:, column].tolist() == expected
    assert notes == [], "replays, not full passes, are what is tested here"


def test_means_are_those_of_each_prompt_alone(model: HookedModel, task: Task) -> None:
    found = ablated_metric(model, task, range(6), "mean")
    longest = max(len(pair.clean) for pair in task.pairs)
    totals = [torch.zeros(longest, *z.shape[2:]) for z in z_alone(model, task.pairs[0].clean)]
    counts = torch.zeros(longest, 1, 1)
    for pair in sorted(task.pairs, key=lambda pair: len(pair.clean)):
        for ids in (pair.clean, pair.counterfactual):
            counts[-len(ids) :] += 1
            for total, z in zip(totals, z_alone(model, ids), strict=True):
                total[-len(ids) :] += z[0]
    for column, pair in enumerate(task.pairs):
        values = [(total / counts)[-len(pair.clean) :][None] for total in totals]
        expected = [alone(model, pair, with_heads([head], values)) for head in units_of(model)]
        assert found[:, column].tolist() == expected


def test_repairs_are_those_of_each_prompt_alone(model: HookedModel, task: Task) -> None:
    reference = tiny_models.tiny_model(model.name, seed=3)
    z = reference.activations(task.prompts(), "head")
    heads = units_of(model)
    sets: list[list[Unit]] = [[heads[0]], [heads[-1]], heads[:3], heads, []]
    found = repaired_metric(model, task, z, sets)
    for column, pair in enumerate(task.pairs):
        values = [torch.from_numpy(rows) for rows in z.rows([column])]
        assert found[:, column].tolist() == [alone(model, pair, with_heads(chosen, values)) for chosen in sets]


def test_gradients_are_those_of_each_prompt_alone(model: HookedModel, task: Task) -> None:
    metric, together = model.gradient(task.prompts(), "head")
    for place in range(6):
        metric_alone, single = model.gradient(task.prompts([place]), "head")
        assert metric[place] == metric_alone[0]
        assert all(map(np.array_equal, together.rows([place]), single.rows([place])))


def test_full_passes_run_one_row_at_a_time_too(model: HookedModel, task: Task) -> None:
    ids, targets = tiny_models.token_ids(4, 5), tiny_models.token_ids(2, 4, seed=1)
    values = zeros(model, 4, 1)
    arguments = (ids, *targets, values, [{head} for head in units_of(model)])
    with counted_rows(model) as rows:
        full = patched_rows(model, *arguments, engine="full")
    assert set(rows) == {1}
    assert torch.equal(patched_rows(model, *arguments), full)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_pass_of_a_whole_measurement_has_more_rows(size: int) -> None:
    reference = tiny_models.tiny_model()
    task = tiny_circuits.solvable_task(reference, 8)
    small = replace(reference, batch_size=size)
    with counted_rows(small) as rows:
        prompts = task.prompts()
        small.metric(prompts)
        small.activations(prompts, "head")
        small.gradient(prompts, "head")
        small.prove(prompts, "head")
        estimate_importance(small, prompts, MeasurementSpec(ablation="mean"), Work())
        ablated_metric(small, task, range(8), "zero", units=[(0, 1), (1, 2)], engine="full")
    assert max(rows) == size


def test_a_whole_recording_and_measurement_run_one_row_at_a_time() -> None:
    model = entangled()
    task = tiny_circuits.solvable_task(model, 8)
    with counted_rows(model) as rows:
        baseline = record(model, task, MeasurementSpec(draws=200))
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
        zero = zeros(model, 1, len(pair.clean))
        assert found[:, column].tolist() == [alone(model, pair, with_heads([head], zero)) for head in units_of(model)]


def test_one_row_is_replayed_without_savings() -> None:
    model = entangled()
    with torch.no_grad():
        replay = prove_replay(model, record_clean_pass(model, tiny_models.token_ids(1, 6)))
    assert replay.savings == NO_SAVINGS
