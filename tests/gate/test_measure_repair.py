"""Repair on models whose only parts are attention heads: putting all of them back puts everything back."""

from __future__ import annotations

import micro_model
import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record

from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.forward import last_logits
from circuitcheck.runtimes.pytorch.hooked import HookedModel

SPEC = MeasurementSpec(draws=200, minimum_clusters=4)


def random_micro(seed: int = 0) -> HookedModel:
    """Two layers of two heads with weights that are no round numbers."""
    module = micro_model.MicroModel(micro_model.FIRST_LAYER, micro_model.SECOND_LAYER)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if "gain" not in name and "offset" not in name:
            parameter.data.normal_(generator=generator)
    return micro_model.hook_micro(module, 2)


def solved_task(model: HookedModel) -> Task:
    """All prompts of three tokens that differ in the first, with what the model says most and least after them."""
    pairs = []
    for number in range(16):
        clean = (number % 4, number // 4, 1)
        logits = last_logits(model, torch.tensor([clean]))[0]
        counterfactual = ((number + 1) % 4, number // 4, 1)
        pairs.append(PromptPair(clean, counterfactual, int(logits.argmax()), int(logits.argmin()), f"c{number}"))
    return Task("micro", tuple(pairs))


@pytest.fixture(scope="module")
def reference() -> HookedModel:
    return random_micro()


@pytest.fixture(scope="module")
def baseline(reference):
    recorded = record(reference, solved_task(reference), SPEC)
    assert recorded.incompetence is None
    return recorded


def damaged(reference: HookedModel, gains: dict[int, tuple[float, float]]) -> HookedModel:
    """A copy whose heads write so many times their z: their z itself is changed, not the projection."""
    candidate = random_micro()
    for layer, gain in gains.items():
        candidate.module.layers[layer].attention.gain.data = torch.tensor(gain)
    return candidate


def test_repairing_all_heads_restores_an_attention_only_candidate(reference, baseline):
    circuit = measure(damaged(reference, {0: (0.2, 0.9), 1: (0.7, 0.1)}), baseline).circuit
    assert circuit.metric_change.value > 0.2
    # The same float32 numbers go through the same projections, possibly in other batches: units of the last place.
    assert circuit.repair.unrepaired.value < 1e-6
    assert circuit.repair.recovery.value == pytest.approx(1, abs=1e-5)
    for points in circuit.repair.curves.values():
        assert points[-1].k == 4
        assert points[-1].recovery.value == pytest.approx(1, abs=1e-5)
    assert circuit.repair.diagnosis in ("localized", "distributed")


def test_head_that_alone_is_damaged_gives_everything_back(reference, baseline):
    """Head 1.0 is in the last layer, so that nothing behind it is damaged by it."""
    candidate = damaged(reference, {1: (0.1, 1.0)})
    circuit = measure(candidate, baseline).circuit
    gains = np.array([head.repair_gain for head in circuit.units])
    drift = np.array([head.drift for head in circuit.units])
    np.testing.assert_allclose(drift, [0, 0, 0.9, 0], atol=1e-6)  # scaling z by 0.1 is a drift of 0.9
    assert gains[2] == pytest.approx(circuit.repair.damage.value, rel=1e-5)
    np.testing.assert_allclose(np.delete(gains, 2), 0, atol=1e-5)
    assert circuit.repair.curves["drift"][0].recovery.value == pytest.approx(1, abs=1e-5)
    assert circuit.repair.diagnosis == "localized"
    # The model behind the last heads is linear, so the first order is exact, and the bound holds.
    assert circuit.bound.estimate == pytest.approx(circuit.bound.degradation, rel=1e-5)
    assert (circuit.bound.coverage, circuit.bound.violated) == (1, False)
    assert circuit.bound.looseness >= 1 - 1e-6
    assert circuit.units[2].fragility == pytest.approx(circuit.bound.degradation, rel=1e-5)


def test_damage_outside_the_heads_is_not_given_back():
    """The last MLP: no head reads it, and what heads write is the same."""
    model = tiny_models.tiny_model()
    recorded = record(model, tiny_circuits.solvable_task(model, 24), SPEC)
    candidate = tiny_circuits.copy_of(model)
    candidate.module.gpt_neox.layers[1].mlp.dense_4h_to_h.weight.data.mul_(-1)
    circuit = measure(candidate, recorded).circuit
    assert circuit.drift_largest.value == 0
    assert circuit.metric_change.value > 0.1
    assert circuit.repair.diagnosis == "collapse"
    # The heads get what they had, in other batches: some units in the sixth digit of logits of about 10.
    assert circuit.repair.recovery.value == pytest.approx(0, abs=1e-4)
    assert circuit.repair.unrepaired.value == pytest.approx(circuit.metric_change.value, rel=1e-4)


def test_recovery_is_defined_with_damage_only(reference, baseline):
    unharmed = measure(damaged(reference, {}), baseline).circuit.repair
    assert (unharmed.diagnosis, unharmed.recovery) == ("no damage", None)
    assert (unharmed.curves, unharmed.random, unharmed.areas) == ({}, (), {})
    harmed = measure(damaged(reference, {0: (0.1, 0.1)}), baseline).circuit.repair
    assert harmed.diagnosis != "no damage"
    assert np.isfinite([harmed.recovery.value, harmed.recovery.low, harmed.recovery.high]).all()


def test_damage_too_small_to_speak_of_has_no_curves(reference, baseline):
    """A resolved damage below 5 % of the metric: single heads are repaired, and all; no order is worth its cost."""
    repair = measure(damaged(reference, {1: (0.99, 0.99)}), baseline).circuit.repair
    assert (repair.diagnosis, repair.recovery) == ("no damage", None)
    assert repair.damage.value != 0
    assert (repair.curves, repair.random, repair.areas) == ({}, (), {})
    assert repair.unrepaired.value < 1e-6


def test_orders_are_held_against_twenty_random_ones(reference, baseline):
    repair = measure(damaged(reference, {1: (0.1, 1.0)}), baseline).circuit.repair
    assert list(repair.curves) == ["importance", "drift", "importance x drift", "fragility", "reversed"]
    assert list(repair.areas) == list(repair.curves)
    # Head 1.0 alone gives all back: a random order of four heads finds it after 2.5 on average.
    assert repair.areas["drift"].value == pytest.approx(1, abs=1e-5)
    assert repair.areas["drift"].over_random.low > 0
    assert [point.k for point in repair.random] == [1, 2, 3, 4]
    shares = [point.recovery.value for point in repair.random]
    np.testing.assert_allclose(np.array(shares) * 20, np.round(np.array(shares) * 20), atol=1e-3)  # all or nothing
    assert shares == sorted(shares)
    assert (repair.random[0].recovery.low, repair.random[0].recovery.high) == pytest.approx((0, 1), abs=1e-5)
    assert shares[-1] == pytest.approx(1, abs=1e-5)
