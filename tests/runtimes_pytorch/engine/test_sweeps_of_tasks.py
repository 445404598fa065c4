"""Ablations and repairs of a whole task, with prompts of several lengths."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from patches import ablated_metric, repaired_metric, units_of

from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.specification import ABLATIONS, Ablation
from circuitcheck.runtimes.pytorch.engine.packing import record_bytes, row_bytes
from circuitcheck.runtimes.pytorch.hooked import HookedModel

LENGTHS = (7, 4, 7, 5, 4)


@pytest.fixture
def task() -> Task:
    pairs = []
    for number, length in enumerate(LENGTHS):
        clean, other = tiny_models.token_ids(2, length, seed=number).tolist()
        pairs.append(PromptPair(tuple(clean), tuple(other), 3, 5, "one"))
    return Task("random", tuple(pairs))


@pytest.fixture
def model() -> HookedModel:
    return tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    # Other batch shapes round sums in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("kind", ABLATIONS)
def test_ablations_equal_full_passes(model: HookedModel, task: Task, kind: Ablation) -> None:
    notes: list[str] = []
    replayed = ablated_metric(model, task, [4, 0, 3, 1], kind, notes=notes)
    close(replayed, ablated_metric(model, task, [4, 0, 3, 1], kind, engine="full"))
    assert notes == []


def test_some_units_are_rows_of_all_units(model: HookedModel, task: Task) -> None:
    chosen = [(2, 1), (0, 3)]
    every = ablated_metric(model, task, range(5), "resample")
    some = ablated_metric(model, task, range(5), "resample", units=chosen)
    close(some, every[[units_of(model).index(unit) for unit in chosen]])


def test_a_budget_of_one_row_changes_no_result(model: HookedModel, task: Task) -> None:
    budget = record_bytes(model, max(LENGTHS)) + row_bytes(model, max(LENGTHS))
    close(ablated_metric(model, task, range(5), "mean", memory=budget), ablated_metric(model, task, range(5), "mean"))


def test_repairing_all_heads_of_a_candidate_whose_heads_alone_are_off(model: HookedModel, task: Task) -> None:
    """With every head's z restored, only rounding is left of a fault in queries, keys and values."""
    candidate = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    with torch.no_grad():
        for layer in candidate.module.gpt_neox.layers:
            layer.attention.query_key_value.weight.mul_(0.7)
    reference, notes = model.activations(task.prompts(), "head"), list[str]()
    repaired = repaired_metric(candidate, task, reference, [(), units_of(model)], notes=notes)
    assert notes == []
    close(repaired[0], candidate.metric(task.prompts()))
    close(repaired[1], model.metric(task.prompts()))
    assert np.abs(repaired[0] - repaired[1]).max() > 0.01
