"""Integrated gradients: right for a model that can be worked out by hand, and they add up for a real one."""

from __future__ import annotations

from dataclasses import replace

import micro_model
import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record

from circuitcheck.core.patch import Patch
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.diagnostics.integrated_gradients import integrated_damage
from circuitcheck.gate.measure import measure
from circuitcheck.stats.first_order import first_order

SPEC = MeasurementSpec(draws=100)


@pytest.fixture(scope="module")
def reference():
    return tiny_models.tiny_model()


@pytest.fixture(scope="module")
def task(reference):
    return tiny_circuits.solvable_task(reference)


def coarse(reference, factor: float):
    """A copy with every value projection off by so much, so that every z moves."""
    candidate = tiny_circuits.copy_of(reference)
    for site in candidate.structure.layers:
        candidate.module.get_submodule(f"{site.attention}.query_key_value").weight.data.mul_(factor)
    return candidate


def with_all(model, prompts, values) -> np.ndarray:
    """M of every prompt with all heads set to these values, `[prompts]`."""
    return model.patched(prompts, Patch("head", (model.layout("head").units,), values))[0]


@pytest.mark.parametrize("answer_only", [False, True])
def test_sum_over_heads_is_what_the_whole_way_costs(reference, task, answer_only):
    """Completeness: m with all z of the candidate put into the reference, less m of the reference."""
    prompts = task.prompts()
    ours, theirs = (model.activations(prompts, "head") for model in (reference, coarse(reference, 1.3)))
    if answer_only:
        ours, theirs = ours.answer_position(), theirs.answer_position()
    moved = with_all(reference, prompts, theirs)
    found = integrated_damage(reference, prompts, "head", ours, theirs, steps=64)
    assert found.shape == (8, 8)
    # Midpoints leave a share of 1 / (24 * 64^2) of the curvature; float32 logits of about 10 leave 1e-5.
    np.testing.assert_allclose(found.sum(0), moved - reference.metric(prompts), rtol=1e-3, atol=1e-4)


def test_few_steps_already_come_close(reference, task):
    prompts = task.prompts()
    ours, theirs = (model.activations(prompts, "head") for model in (reference, coarse(reference, 1.3)))
    few, many = (integrated_damage(reference, prompts, "head", ours, theirs, steps=steps) for steps in (8, 64))
    np.testing.assert_allclose(few, many, rtol=0.02, atol=0.02 * np.abs(many).max())


def test_short_way_in_the_last_layer_is_the_first_order(reference, task):
    """Nothing lies behind the last layer's heads, and over a short way the gradient hardly changes."""
    prompts = task.prompts()
    ours = reference.activations(prompts, "head")
    theirs = replace(ours, groups=(ours.groups[0], ours.groups[1] * np.float32(1.001)))
    first = first_order(reference.gradient(prompts, "head")[1], ours, theirs).per_unit
    found = integrated_damage(reference, prompts, "head", ours, theirs)
    np.testing.assert_allclose(found[4:], first[4:], rtol=1e-2, atol=1e-6)
    assert (found[:4] == 0).all()


def test_linear_model_by_one_step():
    """Behind its last heads the micro model is linear, so that one gradient is right for the whole way."""
    model = micro_model.hook_micro(micro_model.MicroModel(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER), 2)
    prompts = tiny_circuits.solvable_task(model, prompts=6, vocabulary=4).prompts()
    ours = model.activations(prompts, "head")
    theirs = replace(ours, groups=(ours.groups[0], ours.groups[1] * 3))
    moved = with_all(model, prompts, theirs) - model.metric(prompts)
    for steps in (1, 5):
        found = integrated_damage(model, prompts, "head", ours, theirs, steps=steps)
        np.testing.assert_allclose(found.sum(0), moved, atol=1e-5)


def test_no_way_costs_nothing(reference, task):
    prompts = task.prompts(range(3))
    z = reference.activations(prompts, "head")
    assert (integrated_damage(reference, prompts, "head", z, z) == 0).all()


def test_no_steps_are_refused(reference, task):
    prompts = task.prompts(range(1))
    z = reference.activations(prompts, "head")
    with pytest.raises(ValueError, match="at least one step"):
        integrated_damage(reference, prompts, "head", z, z, steps=0)


@pytest.mark.parametrize("batch_size", [None, 1])
def test_audit_has_a_second_opinion_where_the_reference_is_at_hand(reference, task, batch_size):
    baseline = record(reference, task, SPEC)
    candidate = coarse(reference, 1.2)
    assert measure(candidate, baseline).circuit.bound.integrated is None
    at_hand = tiny_circuits.copy_of(reference)
    at_hand = replace(at_hand, batch_size=batch_size)
    integrated = measure(candidate, baseline, reference=at_hand).circuit.bound.integrated
    z = candidate.activations(baseline.part, "head")
    parts = integrated_damage(reference, baseline.part, "head", baseline.z, z).sum(0)
    assert integrated.estimate == pytest.approx(np.abs(parts).mean(), rel=1e-4)
    assert torch.is_grad_enabled()
