"""The gate on a dictionary's features: reconstruction first, survival, and releases in another basis."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from detection.bases import change_basis
from quick_recording import record

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.core.errors import CandidateError, DictionaryError, StaleBaselineError
from circuitcheck.core.prompts import Task
from circuitcheck.core.results import Verdict
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.dictionaries.dictionary import Dictionary, HookPoint
from circuitcheck.dictionaries.read import read_dictionaries
from circuitcheck.gate.accept import accept
from circuitcheck.gate.calibrate import calibrate
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.report.text import render
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module, load_model
from circuitcheck.tasks.named import load_task

SPEC = MeasurementSpec(unit="feature", draws=200, part=12)


@cache
def embedded() -> HookedModel:
    return load_model("embedded", device="cpu")


@cache
def dictionary() -> Dictionary:
    return read_dictionaries("embedded")[0]


@cache
def task() -> Task:
    return load_task("facts", embedded().tokenizer, prompts=40)


@cache
def baseline() -> Baseline:
    model = embedded().with_dictionaries([dictionary()])
    four_bits = [one for one in model.roundings() if one.precision == "4-bit"][:2]
    return record(model, task(), SPEC, kinds=("resample",), sources=(), roundings=four_bits)


def unchanged(_: object) -> None:
    """No edit."""


def candidate(precision: str = "f32", edit=unchanged) -> HookedModel:
    module = deepcopy(embedded().module)
    edit(module)
    made = hook_module(module, tokenizer=embedded().tokenizer, name="embedded", precision=precision)
    return made.with_dictionaries([dictionary()])


def gated(precision: str = "f32", edit=unchanged) -> Verdict:
    return judge(measure(candidate(precision, edit), baseline(), curves=False))


def survival(verdict: Verdict):
    return next(one for one in verdict.criteria if one.name == "features_surviving")


def test_what_is_recorded():
    found = baseline().features
    (facts,) = found.dictionaries
    assert (facts.group, facts.architecture, facts.latents) == ("feature 2", "topk", 512)
    assert 0.85 < facts.explained < 1
    assert facts.active == len(found.layout.units) < 512
    assert found.layout.label(found.layout.units[0]).startswith("feature 2.")
    # 16 latents are on at each position
    positions = sum(len(task().pairs[place].clean) for place in baseline().z.index)
    assert len(found.values) == 16 * positions
    assert len(baseline().layout.units) == 64  # those to which gradients point
    assert len(found.surviving) == 2
    assert (found.surviving > 0.3).all()


def test_it_is_read_as_it_was_written(tmp_path):
    (file, _) = baseline().save(tmp_path)
    again = Baseline.load(file)
    assert again.features.dictionaries[0].fingerprint == dictionary().fingerprint
    assert np.array_equal(again.features.values, baseline().features.values)
    assert again.features.layout == baseline().features.layout
    assert np.array_equal(again.features.basis.rows, baseline().features.basis.rows)
    assert again.save(tmp_path / "again")[1].read_bytes() == baseline().save(tmp_path)[1].read_bytes()


def test_the_reference_itself_passes():
    verdict = gated()
    found = verdict.measurement.circuit.features
    assert verdict.word == "PASS", [one.message for one in verdict.criteria]
    assert found.surviving.value == found.surviving.low == 1
    assert found.explained == pytest.approx([found.dictionaries[0].explained], abs=1e-5)
    assert found.expected == 1
    names = [one.name for one in verdict.criteria]
    assert {"profile_distance", "features_surviving"} <= {*names}
    assert not [name for name in names if name.startswith(("excess", "drift"))]
    assert all(
        one.correlation == pytest.approx(1) and one.difference < 1e-5 for one in found.features if one.activation_ref
    )
    assert {one.unit for one in found.features} >= {unit.unit for unit in verdict.measurement.circuit.units}


def blurred(size: float):
    def edit(module) -> None:
        """Noise in the MLP that writes to the dictionary's hook point."""
        weight = module.gpt_neox.layers[2].mlp.dense_4h_to_h.weight
        generator = torch.Generator().manual_seed(0)
        weight.data += size * weight.data.std() * torch.randn(weight.shape, generator=generator)

    return edit


def test_features_that_are_lost():
    verdict = gated("4-bit", blurred(4.0))
    found = survival(verdict)
    measured = verdict.measurement.circuit.features
    assert found.verdict == "FAIL"
    assert found.limit == pytest.approx(0.85 * measured.expected)
    assert measured.expected == pytest.approx(min(baseline().features.surviving))
    lost = [one for one in measured.features if not one.survives]
    assert lost
    assert all(not one.correlation >= 0.9 for one in lost)
    assert sum(measured.correlation.counts) <= measured.active == sum(measured.difference.counts)
    shown = render([verdict])
    assert "Features, what dictionaries explain" in shown
    assert lost[0].unit in shown or len(lost) > 4


def test_where_rounding_is_not_known_survival_is_no_criterion():
    verdict = gated("8-bit")
    assert "features_surviving" not in {one.name for one in verdict.criteria}
    assert any("how many features survive is no criterion" in why for why in verdict.untold)


def test_too_little_is_explained():
    rng = np.random.default_rng(0)
    noise = replace(dictionary(), decoder=rng.standard_normal(dictionary().decoder.shape).astype(np.float32))
    model = embedded().with_dictionaries([noise])
    recorded = record(model, task(), SPEC, kinds=("resample",), sources=())
    verdict = judge(measure(candidate(), recorded))
    assert verdict.word == "INCONCLUSIVE"
    assert "feature 2 explains 0% of the variance at its hook point, and at least 50% is needed" in verdict.message


def test_a_rotated_stream_is_read_through_its_rotation():
    verdict = gated(edit=lambda module: change_basis(module, "stream rotated"))
    found = verdict.measurement.circuit.features
    assert verdict.word == "PASS", [one.message for one in verdict.criteria]
    assert found.surviving.value > 0.99  # TopK turns the last bit of a tie into a latent
    assert max(one.difference for one in found.features if one.survives) < 0.05
    assert any("residual stream is rotated" in note for note in verdict.measurement.notes)
    assert not any("with its mean" in note for note in verdict.measurement.notes)


def test_a_dictionary_of_a_stream_with_its_mean_is_warned_of():
    """The embedded model has LayerNorms, so what rotates its stream takes the mean out of it."""
    with_mean = replace(dictionary(), centred=False)
    model = embedded().with_dictionaries([with_mean]).on_task(task().prompts(), "feature")
    layout, tokens = model.layout("feature"), tuple(range(64))
    reading, basis = model.reading("feature", tokens), model.stream_basis("feature")
    for turn, is_said in (("stream rotated", True), (None, False)):
        made = candidate(edit=unchanged if turn is None else lambda module: change_basis(module, "stream rotated"))
        read = made.with_dictionaries([with_mean]).read_like(task().prompts(), layout, reading, basis)
        assert any("was trained on a stream with its mean" in note for note in read.facts.notes) == is_said


def test_what_no_rotation_explains_is_refused():
    def shuffled(module) -> None:
        """Another embedding: the map between the two is none of the stream's."""
        change_basis(module, "stream rotated")
        rows = module.gpt_neox.embed_in.weight
        rows.data = rows.data[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))]

    with pytest.raises(CandidateError, match="keeps what its dictionaries read in another basis"):
        gated(edit=shuffled)


def test_heads_that_are_rotated_are_no_stream():
    width = 128
    rng = np.random.default_rng(0)
    point = HookPoint(1, "z")
    of_heads = Dictionary(
        name="of heads",
        architecture="standard",
        reads=point,
        writes=point,
        encoder=np.eye(width, dtype=np.float32),
        bias=np.zeros(width, np.float32),
        threshold=np.zeros(width, np.float32),
        decoder=np.eye(width, dtype=np.float32) + 0.01 * rng.standard_normal((width, width)).astype(np.float32),
        decoder_bias=np.zeros(width, np.float32),
    )
    model = embedded().with_dictionaries([of_heads]).on_task(task().prompts(), "feature")
    layout, tokens = model.layout("feature"), tuple(range(64))
    reading, basis = model.reading("feature", tokens), model.stream_basis("feature")
    turned = candidate(edit=lambda module: change_basis(module, "heads rotated")).with_dictionaries([of_heads])
    with pytest.raises(CandidateError, match="another basis"):
        turned.read_like(task().prompts(), layout, reading, basis)


def test_another_dictionary_is_another_baseline():
    other = replace(dictionary(), bias=dictionary().bias + 1)
    made = candidate().with_dictionaries([other])
    with pytest.raises(StaleBaselineError, match="recorded with other dictionaries"):
        measure(made, baseline())


def test_a_baseline_whose_dictionary_alone_changed_has_changed(monkeypatch, tmp_path):
    """What was calibrated with the old dictionary says nothing of the new one's features."""
    change = {"drift": 1e-6, "ranking_change": 0.0, "profile_distance": 1e-6, "metric_change": 1e-7}
    replace(baseline(), noise={"NEON": {"threads": change}}).save(tmp_path)
    features = baseline().features
    other = replace(features, dictionaries=(replace(features.dictionaries[0], fingerprint="1" * 64),))
    new = replace(baseline(), features=other, noise={"AVX2": {"threads": change}})
    monkeypatch.setattr("circuitcheck.gate.accept.record_reference", lambda *_, **__: new)
    monkeypatch.setattr("circuitcheck.gate.accept.measure", lambda *_, **__: measure(candidate(), new, curves=False))
    accepted = accept(candidate(), task(), SPEC, tmp_path, "changed", "another dictionary")
    assert accepted.outcome.startswith("accepted: ")
    assert f"feature 2: {dictionary().fingerprint[:12]} -> 111111111111" in accepted.details
    assert list(accepted.baseline.noise) == ["AVX2"]


def test_calibration_measures_the_noise_of_features():
    reference = embedded().with_dictionaries([dictionary()])
    calibrated = calibrate(reference, baseline(), reload=lambda: embedded().with_dictionaries([dictionary()]))
    (sources,) = calibrated.noise.values()
    assert len(sources) > 3
    assert all(np.isfinite([*change.values()]).all() for change in sources.values())
    # Of 16 latents that are the largest the last may be another where sums are rounded otherwise.
    assert calibrated.noise_floor["profile_distance"] < 0.05
    assert calibrated.noise_floor["metric_change"] < 1e-4
    assert judge(measure(candidate(), calibrated, curves=False)).word == "PASS"


def test_a_further_look_sees_more_of_each_feature():
    """Values are kept of 12 prompts; units are ablated on all that are solved, in the reference and in candidates."""
    solved = len(baseline().solved)
    assert len(baseline().z.index) == 12 < solved
    assert baseline().ablated["resample"].shape == (64, solved)
    few = baseline().first(20)
    assert few.ablated["resample"].shape == (64, len(few.solved))
    # What was recorded on the prompts that values are kept of, only, still holds.
    old = replace(baseline(), ablated={"resample": baseline().ablated["resample"][:, :12]})
    assert old.ablated_on.index == baseline().z.index
    measured = measure(candidate(), old, curves=False).circuit
    assert measured.profile_distance.value < 1e-5


def test_a_dictionary_that_nothing_turns_on():
    off = replace(dictionary(), threshold=np.full(512, 1e6, np.float32))
    with pytest.raises(DictionaryError, match=r"no latent of .* is above 0 on the task 'facts'"):
        record(embedded().with_dictionaries([off]), task(), SPEC)
