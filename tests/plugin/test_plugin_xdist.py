"""The same run with workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_runner import Gate, report_section

MODES = {
    "load": ("-n2", "--dist=load"),
    "loadfile": ("-n2", "--dist=loadfile"),
    "each": ("--dist=each", "--tx", "2*popen"),
}
CASES = ["f16-facts", "f16-ioi", "int8-sim-facts", "int8-sim-ioi"]


@pytest.fixture
def four_cases(gate: Gate, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Gate:
    """One of the cases fails."""
    gate.configure(
        candidates=["f16", "int8-sim"],
        tasks=["ioi.jsonl", "facts.jsonl"],
        limits={"int8-sim": {"ioi": {"drift_median": 0.001}}},
    )
    gate.count_measurements()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return gate


@pytest.mark.parametrize("mode", MODES)
def test_workers_measure_each_case_once_and_report_what_one_process_reports(
    four_cases: Gate, tmp_path: Path, mode: str
) -> None:
    serial = four_cases.run("--circuit-report-dir", "serial")
    assert four_cases.measured == CASES
    parallel = four_cases.run("--circuit-report-dir", "parallel", *MODES[mode])
    assert four_cases.measured == sorted(2 * CASES)
    assert serial.ret == parallel.ret == pytest.ExitCode.TESTS_FAILED
    times = 2 if mode == "each" else 1
    serial.assert_outcomes(passed=15, failed=1)
    parallel.assert_outcomes(passed=15 * times, failed=times)
    files = [four_cases.path / name / "report.json" for name in ("serial", "parallel")]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert report_section(serial) == report_section(parallel)
    assert not list(tmp_path.glob("circuitcheck-*")), "the run's own folder was left behind"


def test_workers_fail_on_a_missing_baseline_and_write_none(gate: Gate) -> None:
    gate.remove_baseline()
    before = gate.stored()
    result = gate.run("-n2", "--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*ioi.json is missing*", "circuit gate: FAIL (1 FAIL)"])
    assert gate.stored() == before


def test_one_selected_test_measures_its_case_alone(gate: Gate) -> None:
    gate.configure(candidates=["f16", "int8-sim"], tasks=["ioi.jsonl", "facts.jsonl"])
    gate.count_measurements()
    result = gate.run("--circuit-report-dir", "out", "-n1", "-k", "f16 and facts and behaviour")
    assert result.ret == pytest.ExitCode.OK
    assert gate.measured == ["f16-facts"]
    result.stdout.fnmatch_lines(["circuit gate: INCOMPLETE (1 PASS, 3 of 4 not compared)"])
    assert gate.report()["complete"] is False


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["serial", "xdist"])
class TestRunsThatDoNotUseTheGate:
    """Whatever pyproject.toml says of the gate, they go on as if it were not installed."""

    @pytest.fixture(autouse=True)
    def other(self, gate: Gate) -> None:
        (gate.path / "test_other.py").write_text("def test_other():\n    pass\n")

    def test_report_as_a_setting_does_not_fail_them(self, gate: Gate, workers: tuple[str, ...]) -> None:
        gate.configure(report=True)
        result = gate.run("test_other.py", *workers)
        assert result.ret == pytest.ExitCode.OK
        result.stdout.no_fnmatch_line("*circuit report*")

    def test_faulty_settings_do_not_fail_them(self, gate: Gate, workers: tuple[str, ...]) -> None:
        gate.configure(nonsense=True)
        result = gate.run("test_other.py", *workers)
        assert result.ret == pytest.ExitCode.OK


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["serial", "xdist"])
def test_report_as_a_setting_decides_wherever_the_gate_is_collected(gate: Gate, workers: tuple[str, ...]) -> None:
    gate.configure(report=True, candidates=["int8-sim"], limits={"drift_median": 0.001})
    result = gate.run("-k", "behaviour", *workers)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["circuit gate: FAIL (1 FAIL)"])


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["serial", "xdist"])
def test_faulty_settings_stop_the_collection_of_the_gate_without_a_traceback(
    gate: Gate, workers: tuple[str, ...]
) -> None:
    gate.configure(candidates=["f61"])
    result = gate.run(*workers)
    # Errors of collection interrupt pytest, and fail xdist.
    assert result.ret == (pytest.ExitCode.TESTS_FAILED if workers else pytest.ExitCode.INTERRUPTED)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["circuitcheck: candidate 'f61' is neither a precision (f32, f16, bf16, int8-sim, *"])
    result.stdout.no_fnmatch_line("*Error:*")
