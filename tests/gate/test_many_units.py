"""Of a kind with too many units some are measured, all are read at the answer position, and the report says both."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import numpy as np
import pytest
import safetensors.numpy
import tiny_circuits
import tiny_models
import torch
from quick_recording import record

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.errors import BaselineError, CandidateError
from circuitcheck.core.runtime import Work
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.judge import judge
from circuitcheck.gate.many import SAMPLE, TOP, choose_units, chosen_in, parts
from circuitcheck.gate.measure import measure
from circuitcheck.gate.rounding import with_roundings
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn

WIDE = {"intermediate_size": 256}
"""Two layers of so many neurons are more than are measured."""

SPEC = MeasurementSpec(unit="neuron", draws=200)


@pytest.fixture(scope="module")
def model():
    return tiny_models.tiny_model(**WIDE)


@pytest.fixture(scope="module")
def task(model):
    return tiny_circuits.solvable_task(model)


@pytest.fixture(scope="module")
def baseline(model, task):
    return record(model, task, SPEC)


def rounded(model, bits):
    candidate = replace(tiny_circuits.copy_of(model), precision=f"int{bits}-rtn")
    quantize_rtn(candidate.module, candidate.structure, bits)
    return candidate


def test_those_that_gradients_point_to_are_measured_and_a_sample_of_the_others_is_ablated(baseline):
    population = baseline.population
    assert len(baseline.layout.units) == len(baseline.measured) == TOP
    assert len(population.sample) == len(population.ablated) == SAMPLE
    assert baseline.ablated["resample"].shape == (TOP, len(baseline.z.index))
    assert set(population.places(baseline.layout)) == set(np.argsort(-population.score)[:TOP])
    assert not {*population.sample} & {*population.places(baseline.layout)}
    metric = baseline.metric[list(baseline.z.index)]
    others = np.abs((metric - population.ablated).mean(1))
    assert np.abs(baseline.importance("resample")).mean() > 3 * others.mean(), "gradients find those that matter"


def test_what_was_measured_is_what_an_exact_sweep_measures(model, task, baseline):
    from circuitcheck.core.patch import Patch

    whole = baseline.population.layout
    places = {whole.label(unit): unit for unit in whole.units}
    units = [(places[baseline.layout.label(unit)],) for unit in baseline.measured]
    exact = model.patched(baseline.part, Patch("neuron", tuple(units), "resample"), Work())
    # The same sums over other batch shapes.
    np.testing.assert_allclose(baseline.ablated["resample"], exact, atol=1e-5 * np.abs(exact).max())


def test_a_screening_in_parts_is_that_of_all_prompts_at_once(model, task, monkeypatch):
    prompts = task.prompts()
    whole = choose_units(model, prompts, SPEC, Work())
    monkeypatch.setattr("circuitcheck.gate.many.NUMBERS", 2 * 512 * 10)
    assert len(parts(prompts, model.layout("neuron"))) >= 3
    split = choose_units(model, prompts, SPEC, Work())
    # Scores are magnitudes of means over prompts of a part, so that parts can only raise them.
    assert (split.score >= whole.score * (1 - 1e-4) - 1e-6).all()
    assert len(split.layout.units) == TOP
    assert len(split.sample.units) == SAMPLE


def test_it_is_read_as_it_was_written_and_is_small(baseline, tmp_path):
    files = baseline.save(tmp_path)
    loaded = Baseline.load(files[0])
    assert loaded.layout == baseline.layout
    assert loaded.population.layout == baseline.population.layout
    np.testing.assert_array_equal(loaded.population.score, baseline.population.score)
    for ours, theirs in zip(loaded.population.z.groups, baseline.population.z.groups, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    tokens, units = sum(baseline.z.lengths), len(baseline.population.layout.units)
    largest = max(array.size for array in safetensors.numpy.load_file(files[1]).values())
    assert largest < tokens * units, "nothing holds the values of all units at every position"


def test_the_reference_itself_passes_and_correlates(model, baseline):
    measurement = measure(tiny_circuits.copy_of(model), baseline)
    found = measurement.circuit.population
    assert judge(measurement).word != "FAIL", "eight prompts are too few to tell what is kept of the behaviour"
    assert measurement.circuit.profile_distance.value == measurement.circuit.drift_largest.value == 0
    assert found.units == 512
    assert (found.top, found.sample) == (TOP, SAMPLE)
    assert sum(found.drift.counts) == found.drift.counts[0] == 512
    assert found.correlation.counts[-1] == 512 - found.constant
    assert found.movers == ()
    assert [layer.drift for layer in found.layers] == [0, 0]
    low, high = found.missed_interval
    assert 0 <= low <= found.missed <= high <= 512 - TOP


def test_damage_to_neurons_that_are_not_measured_is_seen_in_all_of_them(model, task, baseline):
    candidate = replace(tiny_circuits.copy_of(model), precision="f32")
    down = candidate.module.gpt_neox.layers[1].mlp.dense_4h_to_h.weight
    measured = {number for group in baseline.layout.groups if group.layer == 1 for number in group.numbers}
    victims = [number for number in range(256) if number not in measured][:40]
    with torch.no_grad():
        down[:, victims] *= -1
    found = measure(candidate, baseline).circuit.population
    assert {mover.unit for mover in found.movers} <= {f"neuron 1.{number}" for number in victims}
    assert found.movers[0].drift == pytest.approx(2, rel=1e-4), "the same value, written the other way"
    assert found.movers[0].correlation == pytest.approx(-1, rel=1e-4)
    assert found.layers[0].drift == 0
    assert found.layers[1].drift > 0.1


def test_rounding_is_known_of_all_units_together(model, task, baseline):
    ways = [way for way in model.roundings() if way.precision == "8-bit"][:2]
    known = with_roundings(baseline, ways, Work())
    assert all(one.layers.shape == (2, len(baseline.z.index)) for one in known.roundings)
    circuit = measure(replace(ways[0].make(), precision="int8-rtn"), known).circuit
    assert circuit.excess.pooled.value <= 1 + 1e-5
    assert len(circuit.excess.layers) == 2
    coarse = replace(rounded(model, 4), precision="int8-rtn")
    assert measure(coarse, known).circuit.excess.pooled.low > 1.2


def test_damage_that_is_not_among_the_measured_is_no_collapse(model, task, baseline):
    candidate = replace(tiny_circuits.copy_of(model), precision="f32")
    with torch.no_grad():
        candidate.module.gpt_neox.layers[0].attention.dense.weight *= -1
        candidate.module.gpt_neox.layers[1].attention.dense.weight *= -1
    repair = measure(candidate, baseline).circuit.repair
    assert repair.diagnosis in ("elsewhere", "no damage", "unresolved")
    assert repair.recovery is None


def test_a_task_that_is_not_solved_is_inconclusive_and_kept_small(model, task, tmp_path):
    unsolved = record(model, task, replace(SPEC, margin=1e5))
    assert unsolved.incompetence
    assert unsolved.population is None
    assert len(unsolved.layout.units) == TOP
    Baseline.load(unsolved.save(tmp_path)[0])
    assert measure(tiny_circuits.copy_of(model), unsolved).circuit is None


def test_another_width_is_refused_before_anything_runs(baseline):
    with pytest.raises(CandidateError, match="it has 1024 neurons, the reference 512"):
        measure(tiny_models.tiny_model(intermediate_size=512), baseline)


def test_another_specification_looks_at_the_same_units(model, task, baseline):
    other = record(model, task, replace(SPEC, ablation="zero"), kinds=("zero",), chosen=chosen_in(baseline))
    assert other.layout == baseline.layout
    assert other.population.sample == baseline.population.sample
    assert not np.array_equal(other.population.ablated, baseline.population.ablated)
    assert record(model, task, replace(SPEC, ablation="zero"), kinds=("zero",)).layout != baseline.layout


def test_importances_of_no_account_are_not_held_against_the_largest_of_them(baseline):
    circuit = measure(tiny_models.tiny_model(**WIDE, seed=0), baseline).circuit
    largest = np.abs(baseline.importance("resample")).max()
    metric = baseline.metric[list(baseline.solved)].mean()
    unit = next(unit for unit in circuit.units if unit.rank_ref == 1)
    assert not isnan(unit.profile_change.value)
    assert circuit.population.important == pytest.approx(0.1 * max(largest, 0.1 * abs(metric)), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        (lambda one: replace(one, population=None), "does not keep all of them"),
        (
            lambda one: replace(one, population=replace(one.population, sample=one.population.sample[::-1])),
            "not in order",
        ),
        (lambda one: replace(one, population=replace(one.population, score=-one.population.score)), "score is below 0"),
    ],
)
def test_a_baseline_that_contradicts_itself_is_refused(baseline, tmp_path, change, refused):
    with pytest.raises(BaselineError, match=refused):
        change(baseline).save(tmp_path)
