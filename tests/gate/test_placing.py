"""Damage is placed in the layer and module that it is in, also where the residual stream is in another basis."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from detection.bases import change_basis
from quick_recording import record

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.diagnostics.keep_list import suggested_order
from circuitcheck.gate.measure import measure
from circuitcheck.gate.placing import left_of

LAYERS = 3
SPEC = MeasurementSpec(draws=200)
PATHS = {"attention": "attention.dense", "mlp": "mlp.dense_4h_to_h"}


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model(num_hidden_layers=LAYERS)


@pytest.fixture(scope="module")
def baseline(model):
    return record(model, tiny_circuits.solvable_task(model), SPEC)


def damaged(model, layer, name):
    """A copy whose module writes the other way."""
    candidate = tiny_circuits.copy_of(model)
    with torch.no_grad():
        candidate.module.gpt_neox.layers[layer].get_submodule(PATHS[name]).weight.mul_(-1)
    return candidate


def test_what_is_left_by_hand():
    reference, moved = np.array([2.0, 4.0]), np.array([1.0, 3.0])
    repaired = np.array([[2.0, 4.0], [1.0, 1.0], [3.0, 4.0]])
    assert left_of(reference, repaired, moved).tolist() == [0.0, 1.0, 0.25]
    assert np.isnan(left_of(reference, repaired, np.zeros(2))).all()


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_damaged_module_is_the_one_that_leaves_nothing(model, baseline, layer, name):
    circuit = measure(damaged(model, layer, name), baseline).circuit
    placing = circuit.placing
    assert [module.unit for module in placing.modules] == [
        f"{side} {number}" for number in range(LAYERS) for side in ("attention", "mlp")
    ]
    assert placing.culprits == (f"{name} {layer}",)
    # What is put back are the reference's own numbers; the rest of the model sums in the same order.
    assert placing.left == pytest.approx(0, abs=1e-4)
    assert suggested_order(circuit)[0] == f"{name} {layer}"


def test_two_damaged_modules_are_both_named(model, baseline):
    candidate = damaged(damaged(model, 0, "mlp"), 2, "attention")
    placing = measure(candidate, baseline).circuit.placing
    assert {"mlp 0", "attention 2"} <= {*placing.culprits}
    assert placing.left <= 0.2


def test_damage_in_a_turned_residual_stream_has_a_place():
    model = tiny_models.tiny_model("llama", num_hidden_layers=LAYERS)
    known = record(model, tiny_circuits.solvable_task(model), SPEC)
    candidate = tiny_circuits.copy_of(model)
    with torch.no_grad():
        candidate.module.model.layers[1].mlp.down_proj.weight.mul_(-1)
    change_basis(candidate.module, "stream rotated", 3)
    placing = measure(candidate, known).circuit.placing
    assert placing.culprits == ("mlp 1",)
    # Solved for by least squares of float32 numbers, through a map that is as good as its smallest direction.
    assert placing.left < 0.05


def test_nothing_is_placed_where_nothing_is_damaged_or_nobody_asks(model, baseline):
    assert measure(tiny_circuits.copy_of(model), baseline).circuit.placing is None
    assert measure(damaged(model, 1, "mlp"), baseline, curves=False).circuit.placing is None


def test_damage_that_no_module_holds_has_no_culprit(model, baseline):
    candidate = tiny_circuits.copy_of(model)
    with torch.no_grad():
        candidate.module.lm_head.weight.mul_(0.5)
    placing = measure(candidate, baseline).circuit.placing
    assert placing.culprits == ()
    assert placing.left > 0.2


def test_modules_are_kept_with_the_baseline_and_few_prompts_of_them(model, baseline, tmp_path):
    loaded = Baseline.load(baseline.save(tmp_path)[0])
    assert loaded.beside.layout == model.layout("block")
    assert loaded.beside.z.index == baseline.z.index[:16]
    for ours, theirs in zip(loaded.beside.z.groups, baseline.beside.z.groups, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert len({id(read) for read in loaded.beside.reading.maps}) == 1, "one map reads all modules"


def test_a_gate_of_modules_needs_none_of_its_own(model):
    blocks = record(model, tiny_circuits.solvable_task(model), replace(SPEC, unit="block"))
    assert blocks.beside is None
    assert measure(damaged(model, 1, "mlp"), blocks).circuit.placing is None
