"""What the gate's tests are called, and how they are chosen."""

from __future__ import annotations

import pytest
from gate_folder import SUITE
from gate_runner import Gate


@pytest.fixture
def four_cases(gate: Gate) -> Gate:
    gate.configure(candidates=["f16", "int8-sim"], tasks=["ioi.jsonl", "facts.jsonl"])
    return gate


def collected(gate: Gate, *arguments: str) -> set[str]:
    result = gate.run("--collect-only", "-q", *arguments)
    return {line.removeprefix("test_gate.py::") for line in result.outlines if line.startswith("test_gate.py::")}


def test_ids_name_test_candidate_and_task(four_cases: Gate) -> None:
    cases = ("f16-ioi", "f16-facts", "int8-sim-ioi", "int8-sim-facts")
    assert collected(four_cases) == {f"test_{test}[{case}]" for test in SUITE for case in cases}


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("int8-sim and ioi", {f"test_{test}[int8-sim-ioi]" for test in SUITE}),
        ("facts and drift", {"test_drift[f16-facts]", "test_drift[int8-sim-facts]"}),
        ("test_behaviour and not f16", {"test_behaviour[int8-sim-ioi]", "test_behaviour[int8-sim-facts]"}),
    ],
)
def test_k_chooses_by_candidate_task_and_test(four_cases: Gate, expression: str, expected: set[str]) -> None:
    assert collected(four_cases, "-k", expression) == expected


def test_kinds_of_unit_are_cases_of_their_own(four_cases: Gate) -> None:
    """Heads keep the names that they had before there was anything else."""
    cases = [f"{candidate}-{task}" for candidate in ("f16", "int8-sim") for task in ("ioi", "facts")]
    both = {f"test_drift[{case}{unit}]" for case in cases for unit in ("", "-block")}
    asked = ("--circuit-unit=head", "--circuit-unit=block")
    assert collected(four_cases, "-k", "drift", *asked) == both
    four_cases.configure(candidates=["f16"], tasks=["ioi.jsonl"], units=["block"])
    assert collected(four_cases, "-k", "drift") == {"test_drift[f16-ioi-block]"}
    assert collected(four_cases, "-k", "drift", "--circuit-unit=head") == {"test_drift[f16-ioi]"}


def test_one_id_runs_one_test(four_cases: Gate) -> None:
    result = four_cases.run("-v", "test_gate.py::test_drift[int8-sim-ioi]")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["test_gate.py::test_drift[[]int8-sim-ioi[]] PASSED*"])


def test_a_directory_is_called_by_its_own_name(gate: Gate) -> None:
    """Dots belong to it, as in sizes and versions."""
    gate.model.rename(gate.path / "tiny-1.4b")
    (gate.path / "tiny-1.5b").mkdir()
    gate.configure(model="tiny-1.4b", candidates=["tiny-1.4b", "tiny-1.5b"])
    assert collected(gate, "-k", "drift") == {"test_drift[tiny-1.4b-ioi]", "test_drift[tiny-1.5b-ioi]"}


def test_collecting_measures_and_reports_nothing(gate: Gate) -> None:
    gate.count_measurements()
    result = gate.run("--collect-only", "--circuit-report", "--circuit-report-dir", "out")
    assert result.ret == pytest.ExitCode.OK
    assert not gate.measured
    assert not (gate.path / "out").exists()
    result.stdout.no_fnmatch_line("*circuit gate*")
