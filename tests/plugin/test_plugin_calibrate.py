"""`--circuit-calibrate`: the noise floor is measured on request, and stored in the baseline."""

from __future__ import annotations

import json

import pytest
from gate_folder import random_model, save_model
from gate_runner import Gate

from circuitcheck.runtimes.pytorch.environment import environment


def noise_of(gate: Gate) -> dict:
    return json.loads((gate.baselines / "ioi.json").read_text())["noise"]


def test_it_stores_the_floor_and_compares_nothing(gate: Gate) -> None:
    before = noise_of(gate)
    result = gate.run("--circuit-calibrate")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(skipped=4)
    where = environment()["instruction_set"]
    after = noise_of(gate)
    assert set(before[where]) < set(after[where])
    assert {"prompt order: reversed", "loaded again", "as recorded"} <= set(after[where])
    result.stdout.fnmatch_lines(
        [
            f"ioi: calibrated on {where}: *ioi.json",
            "*loaded again: drift *, ranking change *, profile distance *, metric change *",
            "*noise floor over all sources: drift *",
            "Nothing was compared in this run.",
        ]
    )


def test_a_calibrated_baseline_still_gates(gate: Gate) -> None:
    gate.run("--circuit-calibrate")
    result = gate.run("--circuit-report-dir", "out")
    assert result.ret == pytest.ExitCode.OK
    noise = gate.report()["runs"][0]["noise"]
    assert noise["instruction_set"] == environment()["instruction_set"]
    assert noise["sources"]["loaded again"]["drift"] == 0


def test_another_reference_is_refused_and_nothing_is_written(gate: Gate) -> None:
    save_model(random_model(seed=1), gate.model)
    before = gate.stored()
    result = gate.run("--circuit-calibrate")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["ioi could not be calibrated, nothing was written: *stale*", "*weights: recorded *"])
    assert gate.stored() == before


def test_a_missing_baseline_is_not_made(gate: Gate) -> None:
    gate.remove_baseline()
    result = gate.run("--circuit-calibrate")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*ioi.json is missing*"])
    assert not (gate.baselines / "ioi.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-n2",), "--circuit-calibrate writes golden baselines, so it never runs in parallel"),
        (("--circuit-accept=all", "--circuit-reason=x"), "both write baselines"),
        (("--circuit-against-base",), "--circuit-against-base does without them"),
    ],
)
def test_refused_together_with(gate: Gate, arguments: tuple[str, ...], message: str) -> None:
    result = gate.run("--circuit-calibrate", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"*{message}*"])


def test_refused_in_ci(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = gate.run("--circuit-calibrate")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--circuit-calibrate is refused where the environment variable CI is set*"])


def test_limits_below_the_calibrated_floor_are_refused(gate: Gate) -> None:
    gate.run("--circuit-calibrate")
    floor = max(change["drift"] for sources in noise_of(gate).values() for change in sources.values())
    gate.configure(limits={"drift_median": floor / 2})
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*is not above the noise floor*"])


def test_another_instruction_set_is_said_with_the_ways_out(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("circuitcheck.runtimes.pytorch.environment._instruction_set", lambda: "AVX9")
    result = gate.run("--circuit-report-dir", "out")
    (note,) = [note for note in gate.report()["runs"][0]["notes"] if "AVX9" in note]
    assert "--circuit-against-base" in note
    assert "--circuit-calibrate" in note
    result.stdout.fnmatch_lines(["*this machine runs AVX9*"])
