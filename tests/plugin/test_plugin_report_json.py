"""`--circuit-report-dir`: report.json."""

from __future__ import annotations

import math

import pytest
from gate_runner import Gate

RUN_KEYS = {
    "model",
    "candidate",
    "precision",
    "task",
    "unit",
    "metric",
    "verdict",
    "message",
    "prompts",
    "solved",
    "part",
    "clusters",
    "criteria",
    "broken",
    "units",
    "repair",
    "bound",
    "ranking",
    "associations",
    "census",
    "multiverse",
    "keep",
    "noise",
    "noise_floor",
    "environment",
    "notes",
}
CRITERION_KEYS = {"name", "value", "limit", "relation", "unit", "verdict", "message"}
UNIT_KEYS = {
    "unit",
    "layer",
    "column",
    "importance_ref",
    "importance_cand",
    "rank_ref",
    "rank_cand",
    "drift",
    "cosine",
    "fragility",
    "repair_gain",
}


def test_report_json_has_the_documented_keys(gate: Gate) -> None:
    gate.configure(candidates=["f16", "int8-sim"])
    result = gate.run("--circuit-report-dir", "out")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["wrote out/report.json", "circuit gate: PASS (2 PASS)"])
    report = gate.report()
    outline = {"schema", "command", "environment", "complete", "interrupted", "failed", "expected_runs", "verdict"}
    assert set(report) == outline | {"settings", "runs", "compare"}
    assert (report["schema"], report["complete"], report["interrupted"], report["expected_runs"]) == (3, True, False, 2)
    assert (report["verdict"], report["failed"]) == ("PASS", False)
    assert set(report["environment"]) == {"circuitcheck", "device", "instruction_set", "libraries", "python"}
    assert [(run["model"], run["candidate"], run["task"]) for run in report["runs"]] == [
        ("model", "f16", "ioi"),
        ("model", "int8-sim", "ioi"),
    ]
    for run in report["runs"]:
        assert set(run) >= RUN_KEYS
        assert run["verdict"] == "PASS"
        assert run["prompts"] == run["solved"] == 40
        assert all(set(criterion) == CRITERION_KEYS for criterion in run["criteria"])
        assert [unit["unit"] for unit in run["units"]] == ["0.0", "0.1", "1.0", "1.1"]
        assert all(set(unit) >= UNIT_KEYS for unit in run["units"])
        assert run["environment"] == report["environment"]
        assert set(run["bound"]) >= {"degradation", "estimate", "bound", "coverage", "looseness", "violated"}
        assert set(run["repair"]) >= {"diagnosis", "damage", "unrepaired", "recovery", "curves"}


def test_criteria_carry_value_interval_limit_and_unit(gate: Gate) -> None:
    gate.run("--circuit-report-dir", "out")
    criteria = {criterion["name"]: criterion for criterion in gate.report()["runs"][0]["criteria"]}
    assert set(criteria) >= {
        "behaviour_kept",
        "metric_change",
        "excess",
        "excess_layer",
        "excess_unit",
        "profile_distance",
        "unrepaired",
    }
    drift = criteria["excess"]
    assert (drift["limit"], drift["relation"], drift["unit"]) == (1.2, "<=", "times rounding's drift")
    low, high = drift["value"]["interval"]
    assert 0 < low <= drift["value"]["value"] <= high < drift["limit"]


def test_what_could_not_be_measured_has_the_same_keys(gate: Gate) -> None:
    gate.run("--circuit-report-dir", "out")
    measured = gate.report()["runs"][0]
    (gate.baselines / "ioi.json").unlink()
    gate.run("--circuit-report-dir", "out")
    failed = gate.report()["runs"][0]
    assert set(failed) == set(measured)
    assert (failed["model"], failed["verdict"], failed["criteria"]) == (measured["model"], "FAIL", [])
    assert "is missing" in failed["message"]


def test_numbers_are_finite_or_null(gate: Gate) -> None:
    """JSON has no NaN, and many readers refuse Python's."""

    def numbers(value: object) -> list[float]:
        if isinstance(value, dict | list):
            items = value.values() if isinstance(value, dict) else value
            return [number for item in items for number in numbers(item)]
        return [value] if isinstance(value, float) else []

    gate.run("--circuit-report-dir", "out")
    found = numbers(gate.report())
    assert len(found) > 100
    assert all(math.isfinite(number) for number in found)


def test_directory_is_made_and_an_older_report_replaced(gate: Gate) -> None:
    gate.run("--circuit-report-dir", "some/where")
    first = (gate.path / "some/where/report.json").read_bytes()
    gate.run("--circuit-report-dir", "some/where", "-k", "nothing")
    assert gate.report("some/where")["runs"] == []
    assert gate.report("some/where")["complete"] is False
    gate.run("--circuit-report-dir", "some/where")
    assert (gate.path / "some/where/report.json").read_bytes() == first


@pytest.mark.parametrize("option", ["--no-summary", "-pno:terminal"])
def test_report_json_is_written_where_no_summary_is_printed(gate: Gate, option: str) -> None:
    result = gate.run("--circuit-report-dir", "out", option)
    assert result.ret == pytest.ExitCode.OK
    assert [run["verdict"] for run in gate.report()["runs"]] == ["PASS"]


def test_a_file_in_the_directorys_place_is_refused_before_anything_is_measured(gate: Gate) -> None:
    gate.count_measurements()
    (gate.path / "out").write_text("a file")
    result = gate.run("--circuit-report-dir", "out")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["ERROR: circuitcheck: report-dir is out, but must be a directory, and this is a file."]
    )
    assert not gate.measured


def test_a_report_that_cannot_be_written_is_no_green_run(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    result = gate.run("--circuit-report-dir", "out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["out/report.json could not be written: No space left on device"])
    assert list((gate.path / "out").iterdir()) == []
