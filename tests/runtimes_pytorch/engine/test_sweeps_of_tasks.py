"""Ablations and repairs of a whole task, with prompts of several lengths."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch

from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.runtimes.pytorch.engine import ablate
from circuitcheck.runtimes.pytorch.engine.ablate import KINDS, AblationKind, ablated_metric
from circuitcheck.runtimes.pytorch.engine.clean import clean_metric, clean_z
from circuitcheck.runtimes.pytorch.engine.packing import record_bytes, row_bytes
from circuitcheck.runtimes.pytorch.engine.repair import repaired_metric
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


@pytest.mark.parametrize("kind", KINDS)
def test_ablations_equal_full_passes(
    model: HookedModel, task: Task, kind: AblationKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes: list[str] = []
    replayed = ablated_metric(model, task, [4, 0, 3, 1], kind, notes=notes)
    original = ablate.intervene
    monkeypatch.setattr(
        ablate, "intervene", lambda *arguments, **options: original(*arguments, **options, engine="full")
    )
    close(replayed, ablated_metric(model, task, [4, 0, 3, 1], kind))
    assert notes == []


def test_some_heads_are_rows_of_all_heads(model: HookedModel, task: Task) -> None:
    chosen = [(2, 1), (0, 3)]
    every = ablated_metric(model, task, range(5), "resample")
    close(
        ablated_metric(model, task, range(5), "resample", heads=chosen), every[[model.heads.index(h) for h in chosen]]
    )


def test_a_budget_of_one_row_changes_no_result(model: HookedModel, task: Task) -> None:
    budget = record_bytes(model, max(LENGTHS)) + row_bytes(model, max(LENGTHS))
    close(ablated_metric(model, task, range(5), "mean", memory=budget), ablated_metric(model, task, range(5), "mean"))


def test_repairing_all_heads_of_a_candidate_whose_heads_alone_are_off(model: HookedModel, task: Task) -> None:
    """With every head's z restored, only rounding is left of a fault in queries, keys and values."""
    candidate = tiny_models.tiny_model("gpt_neox", num_hidden_layers=3)
    with torch.no_grad():
        for layer in candidate.module.gpt_neox.layers:
            layer.attention.query_key_value.weight.mul_(0.7)
    reference, notes = clean_z(model, task, range(5)), list[str]()
    repaired = repaired_metric(candidate, task, reference, [set(), set(model.heads)], notes=notes)
    assert notes == []
    close(repaired[0], clean_metric(candidate, task))
    close(repaired[1], clean_metric(model, task))
    assert np.abs(repaired[0] - repaired[1]).max() > 0.01
