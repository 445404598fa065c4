"""Accepting a reference: what stays, what is measured anew, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from fake_runtime import FakeRuntime, fake_task, with_weights

from circuitcheck.baseline.baseline import Baseline
from circuitcheck.baseline.noise_floor import MEASURES
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.accept import Acceptance, Request, accept, accept_calibration, write
from circuitcheck.gate.record import record_reference

SPEC = MeasurementSpec(draws=200)
ELSEWHERE = {
    "AVX2": {"one thread": dict.fromkeys(MEASURES, 1e-6), "sdpa attention": dict.fromkeys(MEASURES, 2e-6)},
    "NEON": {"loaded again": dict.fromkeys(MEASURES, 3e-6)},
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Baselines that were calibrated here and elsewhere."""
    recorded = record_reference(FakeRuntime(), fake_task(), SPEC, reason="the first")
    replace(recorded, noise=ELSEWHERE).save(tmp_path)
    baseline = Baseline.load(tmp_path / "pencil.json")
    accepted = accept_calibration(FakeRuntime(), baseline, tmp_path, FakeRuntime)
    assert accepted.outcome.startswith("calibrated on PAPER: ")
    assert stored(tmp_path).noise == ELSEWHERE, "nothing is written before all is made"
    write([accepted], tmp_path)
    return tmp_path


def stored(folder: Path) -> Baseline:
    return Baseline.load(folder / "pencil.json")


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}


def accepted(
    model: FakeRuntime, folder: Path, request: Request = "changed", spec: MeasurementSpec = SPEC, **options: int
) -> Acceptance:
    acceptance = accept(model, fake_task(), spec, folder, request, "the second", **options)
    write([acceptance], folder)
    return acceptance


def test_calibration_adds_to_what_others_calibrated(folder):
    noise = stored(folder).noise
    assert {name: noise[name] for name in ELSEWHERE} == ELSEWHERE
    assert list(noise["PAPER"]) == ["loaded again", "one prompt a batch", "prompt order: reversed"]


@pytest.mark.parametrize("request_", ["changed", "all"])
def test_a_reference_that_did_not_change_keeps_its_files_to_the_byte(folder, request_):
    before = contents(folder)
    result = accepted(FakeRuntime(), folder, request_)
    assert result.outcome == f"unchanged: {folder / 'pencil.json'}"
    assert contents(folder) == before
    assert sum(map(len, stored(folder).noise.values())) == 6, "three instruction sets' sources"


def test_last_digits_that_differ_keep_the_noise_of_other_machines(folder):
    """The same weights on another machine or library version: what was calibrated elsewhere still holds."""
    before = stored(folder)
    result = accepted(FakeRuntime(gains=[1.0, 1.0 + 1e-6]), folder)
    assert result.outcome == f"accepted: {folder / 'pencil.json'} (the second)"
    assert "no head moved by more than 1% of the largest importance" in result.details
    after = stored(folder)
    assert after.reason == "the second"
    assert (after.metric != before.metric).any()
    assert {name: after.noise[name] for name in ELSEWHERE} == ELSEWHERE
    # What was measured while it was recorded stands in for what was; sources that only a calibration tries stay.
    assert list(after.noise["PAPER"]) == list(before.noise["PAPER"])


def test_another_reference_starts_anew(folder):
    result = accepted(with_weights(FakeRuntime(gains=[1.0, 0.5]), "d" * 64), folder)
    assert result.outcome.startswith("accepted: ")
    assert f"weights: {'a' * 12} -> {'d' * 12}" in result.details
    assert "head 0.1: importance 2.000 -> 1.000 logits" in result.details
    assert any("judged by the old baseline, the new reference would have been FAIL" in line for line in result.details)
    assert stored(folder).noise == {"PAPER": {"one prompt a batch": dict.fromkeys(MEASURES, 0.0)}}


def test_another_specification_starts_anew(folder):
    result = accepted(FakeRuntime(), folder, spec=replace(SPEC, part=8))
    assert result.details[0].startswith("spec: ")
    assert list(stored(folder).noise) == ["PAPER"]


def test_a_reference_of_other_weights_that_computes_the_same_starts_anew(folder):
    """Noise is of what was fingerprinted, whatever the numbers say."""
    result = accepted(with_weights(FakeRuntime(), "d" * 64), folder)
    assert result.outcome.startswith("accepted: ")
    assert list(stored(folder).noise) == ["PAPER"]
    assert list(stored(folder).noise["PAPER"]) == ["one prompt a batch"]


def test_the_memory_budget_reaches_every_sweep_and_the_verdict(folder):
    model = with_weights(FakeRuntime(), "d" * 64)
    accepted(model, folder, memory=12345)
    # Three kinds of ablation, the noise floor, the verdict's ablations and its repair; proofs take a prompt or two.
    budgets = [memory for name, memory in model.seen if memory is not None]
    assert budgets == [12345] * len(budgets)
    kinds = [name for name, memory in model.seen if memory == 12345]
    assert kinds.count("gradient") == 1
    assert kinds.count("patched") >= 3 + 1 + 1 + 2


def test_what_exists_and_what_is_missing_are_left_alone_where_not_asked_for(folder, tmp_path):
    before = contents(folder)
    assert accepted(FakeRuntime(), folder, "new").outcome.startswith("left alone: ")
    assert contents(folder) == before
    empty = tmp_path / "empty"
    assert accepted(FakeRuntime(), empty, "changed").outcome.endswith("(use --circuit-accept=new to record it)")
    assert not empty.exists()
    assert accepted(FakeRuntime(), empty, "all").outcome.startswith("accepted: ")


def test_an_old_schema_is_replaced_and_said_to_have_been_unreadable(folder):
    file = folder / "pencil.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 2}))
    result = accepted(FakeRuntime(), folder)
    assert result.outcome.startswith("accepted: ")
    assert "the old baseline could not be read" in result.details[0]
    assert "has schema 2" in result.details[0]
    assert list(stored(folder).noise) == ["PAPER"]


def test_units_of_another_kind_are_accepted_beside(folder):
    before = contents(folder)
    result = accepted(FakeRuntime(), folder, "new", replace(SPEC, unit="block"))
    assert result.outcome.startswith("accepted: ")
    after = contents(folder)
    assert {name: after[name] for name in before} == before
    assert {name.partition(".block.")[0] for name in after.keys() - before.keys()} == {"pencil"}
    assert len(after) == len(before) + 2
