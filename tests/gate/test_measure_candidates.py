"""What measuring says about the reference itself, and about candidates whose fault is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record
from scipy.stats import spearmanr

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.census import Census
from circuitcheck.core.results import Measurement
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_module

SPEC = MeasurementSpec(draws=200)
LAST = 1
"""The last layer: its heads' z is before what is changed in its output weights, and nothing comes after."""


@pytest.fixture(scope="module")
def reference() -> HookedModel:
    return tiny_models.tiny_model()


@pytest.fixture(scope="module")
def baseline(reference) -> Baseline:
    return record(reference, tiny_circuits.solvable_task(reference), SPEC)


@pytest.fixture(scope="module")
def itself(reference, baseline) -> Measurement:
    return measure(reference, baseline)


def changes(measurement: Measurement) -> np.ndarray:
    """|candidate - reference| importance of every head."""
    return np.array([abs(head.importance_change.value) for head in measurement.circuit.units])


def drifts(measurement: Measurement) -> np.ndarray:
    """Of what every head writes."""
    return np.array([unit.drift for unit in measurement.circuit.units])


def place(layer: int, head: int) -> int:
    return 4 * layer + head


# --- the reference against itself: clean passes are the same operations on the same numbers, so they are exact ---

# Ablations and repairs may be packed into other batches: units in the sixth digit of logits of about 10, relative to
# importances of about 0.1.
REPACKED = 1e-5


def test_reference_has_not_moved(itself):
    circuit = itself.circuit
    assert itself.inconclusive is None
    for estimate in (circuit.metric_change, circuit.drift_median, circuit.drift_largest):
        assert (estimate.value, estimate.low, estimate.high) == (0, 0, 0)
    assert circuit.profile_distance.high < 10 * REPACKED
    assert circuit.ranking.agreement.value == 1
    assert (circuit.ranking.top_5, circuit.ranking.kendall_tau_b) == (1, pytest.approx(1))
    assert circuit.behaviour_kept.value == circuit.behaviour_kept.high == 1
    assert circuit.behaviour_kept.low < 1  # eight prompts are no proof of the ninth
    assert circuit.metric_ref == circuit.metric_cand


def test_reference_has_no_damage(itself):
    repair, bound = itself.circuit.repair, itself.circuit.bound
    assert (repair.diagnosis, repair.recovery) == ("no damage", None)
    assert (repair.damage.value, repair.damage.low, repair.damage.high) == (0, 0, 0)
    assert all(np.isnan(point.recovery.value) for points in repair.curves.values() for point in points)
    assert repair.unrepaired.value < REPACKED
    assert (bound.degradation, bound.estimate, bound.bound) == (0, 0, 0)
    assert (bound.coverage, bound.violated) == (1, False)


def test_every_head_of_the_reference_is_the_same(itself, baseline):
    importance = baseline.importance("resample")
    heads = itself.circuit.units
    assert [(head.layer, head.column) for head in heads] == [(layer, head) for layer in range(2) for head in range(4)]
    assert [head.unit for head in heads] == [f"{layer}.{head}" for layer in range(2) for head in range(4)]
    for number, head in enumerate(heads):
        assert head.importance_ref.value == importance[number]
        assert head.importance_cand.value == pytest.approx(importance[number], abs=REPACKED)
        assert head.importance_ref.low <= importance[number] <= head.importance_ref.high
        assert (head.drift, head.drift_answer, head.cosine, head.fragility) == (0, 0, pytest.approx(1), 0)
        assert head.rank_ref == head.rank_cand == 1 + int((np.abs(importance) > abs(importance[number])).sum())
        assert np.isnan(head.repair_gain)  # nothing to give back, so no head was repaired alone


def test_what_is_said_about_the_measurement(itself):
    assert (itself.model, itself.candidate, itself.precision, itself.task) == ("gpt_neox", "f32", "f32", "tiny")
    assert (itself.unit, itself.metric) == ("head", "logit_difference")
    assert (itself.prompts, itself.solved, itself.part, itself.clusters) == (8, 8, 8, 6)
    assert itself.notes == ()
    assert sorted(itself.noise_floor) == ["drift", "metric_change", "profile_distance", "ranking_change"]


# --- planted faults ---


@pytest.mark.parametrize("factor", [0.0, 0.5, -1.0])
def test_scaled_head_is_seen_and_named(reference, baseline, factor):
    head = tiny_circuits.most_important(baseline.importance("resample"), list(baseline.layout.units), LAST)[0]
    measured = measure(tiny_circuits.scale_head(reference, LAST, head, factor), baseline)
    assert int(changes(measured).argmax()) == place(LAST, head)
    assert measured.circuit.profile_distance.value > 0.1
    assert measured.circuit.drift_largest.value == pytest.approx(abs(1 - factor), rel=1e-6)  # float32 writes
    assert drifts(measured).argmax() == place(LAST, head)
    assert [unit.drift_z for unit in measured.circuit.units] == [0] * 8  # it is what is made of z that changed
    moved = measured.circuit.units[place(LAST, head)]
    if factor == 0:
        assert abs(moved.importance_cand.value) < REPACKED
        assert moved.rank_cand == 8
    else:
        # Not the factor itself: the head also moves the final norm.
        assert np.sign(moved.importance_cand.value) == np.sign(factor * moved.importance_ref.value)
        assert abs(moved.importance_change.value) > 0.2 * abs(moved.importance_ref.value)


def test_swapped_heads_are_seen_and_named(reference, baseline):
    order = tiny_circuits.most_important(baseline.importance("resample"), list(baseline.layout.units), LAST)
    first, second = order[0], order[-1]
    measured = measure(tiny_circuits.swap_heads(reference, LAST, first, second), baseline)
    two = np.argsort(-changes(measured))[:2]
    assert place(LAST, first) in two
    assert measured.circuit.profile_distance.value > 0.1
    assert measured.circuit.ranking.agreement.value < 1
    assert set(np.flatnonzero(drifts(measured) > 0.1)) == {place(LAST, first), place(LAST, second)}
    assert [unit.drift_z for unit in measured.circuit.units] == [0] * 8


def test_fault_in_the_first_layer_drifts_in_the_layers_behind_it_alone(reference, baseline):
    measured = measure(tiny_circuits.scale_head(reference, 0, 2, 0.0), baseline)
    drift = drifts(measured)
    assert drift[:4].tolist() == [0, 0, 1, 0]  # head 0.2 writes nothing any more
    assert (drift[4:] > 0.01).all()
    in_coordinates = np.array([unit.drift_z for unit in measured.circuit.units])
    assert (in_coordinates[:4] == 0).all()
    assert (in_coordinates[4:] > 0.01).all()
    assert measured.circuit.drift_largest.value == drift.max()
    assert measured.circuit.drift_median.value == np.median(drift)


@pytest.mark.parametrize(("name", "layer"), [("gpt2", "transformer.h.0.attn.c_attn"), ("llama", None)])
def test_other_architectures_are_measured_alike(name, layer):
    model = tiny_models.tiny_model(name)
    recorded = record(model, tiny_circuits.solvable_task(model), SPEC)
    measured = measure(model, recorded)
    assert measured.circuit.profile_distance.value == measured.circuit.drift_largest.value == 0
    faulty = tiny_circuits.copy_of(model)
    path = layer or "model.layers.0.self_attn.v_proj"
    faulty.module.get_submodule(path).weight.data.mul_(1.5)
    assert measure(faulty, recorded).circuit.drift_median.value > 0.05


def test_candidate_is_called_by_its_name_or_by_its_precision(reference, baseline):
    other = measure(tiny_circuits.copy_of(reference, name="release"), baseline)
    assert (other.candidate, other.precision) == ("release", "f32")


def test_model_notes_reach_the_report(reference, baseline):
    noted = replace(reference, notes=("simulated",))
    assert measure(noted, baseline).notes == ("simulated",)


@pytest.mark.parametrize("training", [False, True])
def test_candidate_is_left_as_it_was(reference, baseline, training):
    candidate = tiny_circuits.copy_of(reference)
    candidate.module.train(training)
    before = fingerprint_module(candidate.module)
    measure(candidate, baseline)
    assert fingerprint_module(candidate.module) == before
    assert all(part.training is training for part in candidate.module.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in candidate.module.modules())


def test_measuring_a_loaded_baseline_gives_the_same(reference, baseline, itself, tmp_path):
    loaded = Baseline.load(baseline.save(tmp_path)[0])
    again = measure(reference, loaded)
    # Only the ceiling and the noise floor are rounded, to six digits, when they are saved; NaN is not equal to itself.
    ranking = replace(again.circuit.ranking, ceiling=itself.circuit.ranking.ceiling)
    assert repr(replace(again.circuit, ranking=ranking)) == repr(itself.circuit)
    assert again.circuit.ranking.ceiling == pytest.approx(itself.circuit.ranking.ceiling, rel=1e-5)


# --- half precision ---


def test_bf16_moves_a_little_everywhere(reference, baseline):
    candidate = tiny_circuits.copy_of(reference)
    candidate.module.to(torch.bfloat16)
    circuit = measure(candidate, baseline).circuit
    drift = np.array([head.drift for head in circuit.units])
    # bfloat16 has 8 bits: one rounding is up to 0.4 %, and some tens of them meet in a head.
    assert ((drift > 1e-4) & (drift < 0.2)).all()


# --- what is left out is said ---


def test_answer_position_alone_says_what_is_left_out(reference, baseline):
    kept = record(reference, baseline.task, replace(SPEC, positions="answer"))
    measured = measure(tiny_circuits.scale_head(reference, 0, 2, 0.0), kept)
    assert measured.notes == (
        "The baseline keeps the answer position only: drift, gradients and repair say nothing about earlier positions.",
    )
    everywhere = measure(tiny_circuits.scale_head(reference, 0, 2, 0.0), baseline)
    for ours, theirs in zip(measured.circuit.units, everywhere.circuit.units, strict=True):
        # The same numbers, read by matrix products of other shapes.
        assert ours.drift == pytest.approx(theirs.drift_answer, rel=1e-6)
        assert ours.drift == pytest.approx(ours.drift_answer, rel=1e-6)
        assert ours.importance_cand == theirs.importance_cand  # ablation acts on all positions in both
    assert [head.drift for head in measured.circuit.units] != [head.drift for head in everywhere.circuit.units]


def test_part_of_the_prompts_says_what_is_left_out(reference, baseline):
    kept = record(reference, baseline.task, replace(SPEC, part=5))
    measured = measure(reference, kept)
    assert (measured.solved, measured.part) == (8, 5)
    assert measured.notes == ("Drift, gradients and repair use the first 5 of 8 solved prompts.",)
    assert measured.circuit.drift_largest.value == 0


# --- nothing to measure ---


def test_unsolved_task_is_inconclusive_and_the_candidate_is_never_run(reference):
    kept = record(reference, tiny_circuits.unsolvable_task(reference), SPEC)
    candidate = tiny_circuits.copy_of(reference)
    candidate.module.forward = None  # any run would raise
    measured = measure(candidate, kept)
    assert measured.circuit is None
    assert measured.inconclusive.startswith("the reference solves 0 of 8 prompts")
    assert (measured.solved, measured.part, measured.clusters) == (0, 0, 0)


def test_importance_of_every_recorded_kind_is_held_against_drift(baseline, reference):
    circuit = measure(tiny_circuits.scale_head(reference, 0, 2, 0.0), baseline).circuit
    assert list(circuit.associations) == ["resample", "mean", "zero"]
    drift = np.array([head.drift for head in circuit.units])
    for kind, found in circuit.associations.items():
        assert found.raw.value == pytest.approx(spearmanr(np.abs(baseline.importance(kind)), drift).statistic)
        assert found.raw.low <= found.raw.value <= found.raw.high


def test_without_curves_the_criteria_are_the_same(baseline, reference):
    faulty = tiny_circuits.scale_head(reference, 0, 2, -3.0)
    measured = [measure(faulty, baseline, curves=curves) for curves in (True, False)]
    whole, short = (one.circuit for one in measured)
    assert (whole.repair.diagnosis, short.repair.diagnosis) == ("localized", "damage")
    assert short.repair.curves == short.repair.areas == {}
    words = [[(one.name, one.verdict) for one in judge(one_way).criteria] for one_way in measured]
    assert words[0] == words[1]
    # The sets are packed into other batches.
    assert short.repair.recovery.value == pytest.approx(whole.repair.recovery.value, abs=REPACKED)


def test_provenance_reaches_the_measurement(baseline, reference):
    census = Census((), (), 8, 8, 4.0, "made up")
    measured = measure(replace(reference, census=census, batch_size=1), baseline)
    assert (measured.census, measured.batch_size) == (census, 1)
    assert measured.fingerprints == baseline.all_fingerprints
    assert sorted(measured.fingerprints) == ["prompts", "spec", "tokenizer", "weights"]
