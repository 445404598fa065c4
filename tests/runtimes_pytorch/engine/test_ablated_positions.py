"""Ablations of the answer position alone leave every other position's z as it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import micro_model
import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from patches import ablated_metric, edited, read, units_of
from quick_recording import record

from circuitcheck.core.prompts import Task
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import ABLATIONS, Ablation, MeasurementSpec, Positions
from circuitcheck.gate.measure import measure
from circuitcheck.gate.screen import Estimates, estimate_importance
from circuitcheck.runtimes.pytorch.forward import metric_of
from circuitcheck.runtimes.pytorch.hooked import HookedModel

# Logits of about 10 in float32, summed in another order by other batch shapes.
ROUNDING = 2e-5


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_models.tiny_model()


@pytest.fixture(scope="module")
def task(model: HookedModel) -> Task:
    return tiny_circuits.solvable_task(model)


def z_of(model: HookedModel, ids: tuple[int, ...]) -> list[torch.Tensor]:
    return read(model, torch.tensor([ids]))


def estimated(model: HookedModel, task: Task, kind: Ablation, at: Positions) -> Estimates:
    return estimate_importance(model, task.prompts(range(8)), MeasurementSpec(ablation=kind, ablate_at=at), Work())


def ablated_by_hand(model: HookedModel, task: Task, kind: str) -> np.ndarray:
    """One prompt and head at a time; the mean is of the answer position of all clean and counterfactual prompts."""
    both = [z_of(model, ids) for pair in task.pairs for ids in (pair.clean, pair.counterfactual)]
    mean = [torch.stack([z[layer][0, -1] for z in both]).mean(0) for layer in range(2)]
    metric = np.empty((len(units_of(model)), len(task.pairs)))
    for column, pair in enumerate(task.pairs):
        other = z_of(model, pair.counterfactual)
        for row, (layer, head) in enumerate(units_of(model)):
            value = {"zero": 0.0, "mean": mean[layer][head], "resample": other[layer][0, -1, head]}[kind]

            def edit(z: torch.Tensor, value: Any = value, head: int = head) -> torch.Tensor:
                edited = z.clone()
                edited[0, -1, head] = value
                return edited

            with torch.no_grad(), edited(model, {layer: edit}):
                answer, foil = torch.tensor([pair.answer]), torch.tensor([pair.foil])
                metric[row, column] = metric_of(model, torch.tensor([pair.clean]), answer, foil).item()
    return metric


@pytest.mark.parametrize("kind", ABLATIONS)
def test_ablations_of_the_answer_position_equal_those_by_hand(model: HookedModel, task: Task, kind: Any) -> None:
    found = ablated_metric(model, task, range(8), kind, at="answer")
    np.testing.assert_allclose(found, ablated_by_hand(model, task, kind), atol=ROUNDING, rtol=0)
    everywhere = ablated_metric(model, task, range(8), kind)
    # In the last layer no other position reaches the answer; in the first one they do.
    np.testing.assert_allclose(found[4:], everywhere[4:], atol=ROUNDING, rtol=0)
    assert np.abs(found[:4] - everywhere[:4]).max() > 100 * ROUNDING


def test_zero_at_the_answer_position_of_the_micro_model() -> None:
    """Prompt (2, 0): r = (2, 1), (1, 0), so z0 = (0, 0), (2, 1) and z1 = (2, 1), (3, 1) (see the module's docstring).

    Without head 0 at the last position r = (1, 0) + W1 (3, 1) + b = (1, 0) + (1, 3/2) + (1/4, -1/2) = (9/4, 1), so the
    logits of tokens 0 and 1 are 9/4 and 3/2. Without head 1 r = (1, 0) + (4, 1) + (1/4, -1/2) = (21/4, 1/2), so they
    are 21/4 and 1.
    """
    model = micro_model.one_layer()
    task = Task("one", micro_model.micro_task().pairs[:1])
    assert ablated_metric(model, task, [0], "zero", at="answer").tolist() == [[0.75], [4.25]]


@pytest.mark.parametrize("kind", ABLATIONS)
def test_estimates_follow_only_the_answer_position(model: HookedModel, task: Task, kind: Any) -> None:
    """Shrinking a head's way makes the first order exact, and the way is 0 at all other positions."""
    everywhere, answer = (estimated(model, task, kind, at) for at in ("all", "answer"))
    # The last layer's z acts on the answer at the answer position alone.
    np.testing.assert_allclose(answer.first_order[4:], everywhere.first_order[4:], atol=ROUNDING, rtol=0)
    assert np.abs(answer.first_order[:4] - everywhere.first_order[:4]).max() > 100 * ROUNDING
    importance = answer.clean.mean() - ablated_metric(model, task, range(8), kind, at="answer").mean(1)
    assert np.corrcoef(answer.integrated, importance)[0, 1] > 0.9


def test_the_spec_is_honoured_on_both_sides(model: HookedModel, task: Task) -> None:
    spec = MeasurementSpec(draws=200, ablate_at="answer")
    baseline = record(model, task, spec)
    for kind in ABLATIONS:
        expected = ablated_by_hand(model, task, kind)
        np.testing.assert_allclose(baseline.ablated[kind], expected, atol=ROUNDING, rtol=0)
    measured = measure(model, baseline)
    assert measured.circuit is not None
    found = [unit.importance_cand.value for unit in measured.circuit.units]
    np.testing.assert_allclose(found, baseline.importance("resample"), atol=ROUNDING, rtol=0)
    screened = record(model, task, replace(spec, sweep="screened"))
    for place, unit in enumerate(screened.measured):
        expected = ablated_by_hand(model, task, "resample")[units_of(model).index(unit)]
        np.testing.assert_allclose(screened.ablated["resample"][place], expected, atol=ROUNDING, rtol=0)
