"""Calibration: the reference against its own baseline under every source of noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tiny_circuits
import tiny_models
from quick_recording import record

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.noise_floor import MEASURES, floor_of, largest, listed
from circuitcheck.core.activations import Activations, join
from circuitcheck.core.reading import Reading
from circuitcheck.core.runtime import Variation, Work
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.calibrate import calibrate
from circuitcheck.gate.repeat import measured_noise
from circuitcheck.runtimes.pytorch.environment import environment
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.variations import all_variations, usual_variations

HERE = environment()["instruction_set"]


@pytest.fixture(scope="module")
def model() -> HookedModel:
    return tiny_models.tiny_model()


@pytest.fixture(scope="module")
def baseline(model):
    return record(model, tiny_circuits.solvable_task(model, 9), MeasurementSpec(part=4))


def test_every_source_is_tried_and_stored_with_its_instruction_set(model, baseline, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    reloads = []

    def reload() -> HookedModel:
        reloads.append(1)
        return tiny_models.tiny_model()

    calibrated = calibrate(model, baseline, reload=reload)
    assert reloads == [1]
    assert list(calibrated.noise) == [HERE]
    assert list(calibrated.noise[HERE]) == [
        "one thread",
        "2 threads",
        "3 threads",
        "one prompt a batch",
        "2 prompts a batch",
        "8 prompts a batch",
        "prompt order: reversed",
        "prompt order: shuffle 0",
        "prompt order: shuffle 1",
        "sdpa attention",
        "loaded again",
        "as recorded",
    ]
    assert all(sorted(change) == sorted(MEASURES) for change in calibrated.noise[HERE].values())
    # Roundings of float32, amplified by two layers; a prompt measured in another's place would move z by its size.
    assert 0 < calibrated.noise_floor["drift"] < 1e-4
    assert max(calibrated.noise_floor.values()) < 1e-2
    assert {key: getattr(calibrated, key) for key in ("reason", "task")} == {"reason": "", "task": baseline.task}


def test_noise_of_other_machines_is_kept_and_counts(model, baseline):
    elsewhere = {"one thread": dict.fromkeys(MEASURES, 0.5)}
    calibrated = calibrate(model, replace(baseline, noise={"AVX9": elsewhere}))
    assert calibrated.noise["AVX9"] == elsewhere
    assert calibrated.noise_floor == dict.fromkeys(MEASURES, 0.5)
    assert {"one thread (AVX9)", f"one thread ({HERE})"} <= set(listed(calibrated.noise))


def test_a_reference_that_is_not_the_recorded_one_shows(model, baseline):
    """What calibration measures is the recorded numbers against now, not now against now."""
    other = tiny_circuits.scale_head(model, 0, 1, 1.5)
    calibrated = calibrate(other, baseline)
    assert calibrated.noise[HERE]["as recorded"]["profile_distance"] > 0.01


def test_rearranged_prompts_come_back_in_order(model, baseline):
    moved = Variation("moved", order=(4, 5, 0, 8, 2, 1, 3, 7, 6))

    def noise(z: Activations, reading: Reading = baseline.reading) -> dict[str, float]:
        return measured_noise(
            model,
            baseline.spec,
            baseline.measured,
            z,
            reading,
            baseline.metric,
            baseline.solved_prompts,
            baseline.effects("resample"),
            [moved],
            Work(),
        )["moved"]

    change = noise(baseline.z)
    # Other batches, so other roundings.
    assert max(change["drift"], change["metric_change"]) < 1e-5
    assert change["profile_distance"] < 1e-3
    first, second, third, fourth = ([group[0] for group in baseline.z.rows([place])] for place in baseline.z.index)
    exchanged = join(dict(zip(baseline.z.index, (third, second, first, fourth), strict=True)), baseline.layout)
    assert noise(exchanged)["drift"] > 0.1, "values of two prompts in each other's place show"
    blind = replace(baseline.reading, maps=tuple(np.zeros_like(read) for read in baseline.reading.maps))
    assert noise(exchanged, blind)["drift"] > 0.1, "also where the tokens at hand happen not to show them"


def test_metric_change_is_of_the_mean_over_solved_prompts(model, baseline):
    """The criterion is of the mean, so its noise is, too: two prompts that move apart leave it where it was."""
    solved = list(baseline.solved)
    apart = baseline.metric.copy()
    apart[solved[0]] += 1
    apart[solved[1]] -= 1
    calibrated = calibrate(model, replace(baseline, metric=apart))
    mean = float(baseline.metric[solved].mean(dtype=np.float64))
    # float32 metrics of about 10, whose sum of nine is rounded here and there.
    assert calibrated.noise[HERE]["as recorded"]["metric_change"] == pytest.approx(0, abs=1e-6)
    raised = baseline.metric.copy()
    raised[solved[0]] += 1
    unsolved_too = replace(baseline, metric=raised, solved=baseline.solved[1:], **without_first(baseline))
    assert calibrate(model, unsolved_too).noise[HERE]["as recorded"]["metric_change"] == pytest.approx(0, abs=1e-6)
    change = calibrate(model, replace(baseline, metric=raised)).noise[HERE]["as recorded"]["metric_change"]
    # The recorded mean is larger by 1 / solved, and the change is relative to it.
    step = 1 / len(solved)
    assert change == pytest.approx(step / (mean + step), rel=1e-4)


def without_first(baseline: Baseline) -> dict[str, Any]:
    """The other solved prompts' part of what is recorded."""
    index = baseline.z.index[1:]
    rows = {place: [group[0] for group in baseline.z.rows([place])] for place in index}
    slopes = {place: [group[0] for group in baseline.gradient.rows([place])] for place in index}
    return {
        "ablated": {kind: values[:, 1:] for kind, values in baseline.ablated.items()},
        "z": join(rows, baseline.layout),
        "gradient": join(slopes, baseline.layout),
    }


def test_a_task_that_is_not_solved_has_no_noise(model):
    unsolved = record(model, tiny_circuits.unsolvable_task(model, 4))
    assert calibrate(model, unsolved) is unsolved
    assert unsolved.noise_floor == {}


def test_the_floor_is_the_largest_of_each_measure():
    assert largest([{"drift": 1.0, "metric_change": 2.0}, {"drift": 3.0, "metric_change": 1.0}]) == {
        "drift": 3.0,
        "metric_change": 2.0,
    }
    assert floor_of({"a": {"x": {"drift": 1.0}}, "b": {"y": {"drift": 2.0}}}) == {"drift": 2.0}
    assert floor_of({}) == {}


def test_sources_of_a_calibration_contain_those_of_every_recording(model):
    usual = {source.name for source in usual_variations(model)}
    assert usual <= {source.name for source in all_variations(model, 4)}


def test_orders_rearrange_all_prompts(model):
    orders = [source.order for source in all_variations(model, 7) if source.order]
    assert len(set(orders)) == 3
    assert all(np.array_equal(sorted(order), range(7)) for order in orders)
