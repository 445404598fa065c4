"""`--circuit-report`: the tables, and the exit code that they decide."""

from __future__ import annotations

import pytest
from gate_runner import Gate, report_section

UNREACHABLE = {"int8-sim": {"drift_median": 0.001}}
"""A limit that int8-sim misses: it rounds to 1 part in 127, and the medians here are above 0.01."""


def test_report_prints_tables_and_the_gate_in_one_line(gate: Gate) -> None:
    gate.configure(candidates=["f16", "int8-sim"], tasks=["ioi.jsonl", "facts.jsonl"])
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=16)
    result.stdout.fnmatch_lines(
        [
            "*= circuit report =*",
            "*candidate*task*profile*ranking*behaviour*verdict*",
            "*f16*ioi*PASS",
            "*f16*facts*PASS",
            "*int8-sim*ioi*PASS",
            "*int8-sim*facts*PASS",
            "Most fragile heads of f16",
            "*task*head*importance ref*importance cand*rank*drift*fragility*repair*",
            "Most fragile heads of int8-sim",
            "note: int8-sim is a simulation, not an INT8 kernel*",
            "circuit gate: PASS (4 PASS)",
        ]
    )


def test_without_the_option_tests_judge_and_no_table_is_printed(gate: Gate) -> None:
    gate.configure(candidates=["int8-sim"], limits=UNREACHABLE)
    result = gate.run()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.no_fnmatch_line("*circuit report*")


def test_a_failure_names_value_interval_and_limit_without_a_traceback(gate: Gate) -> None:
    gate.configure(candidates=["f16", "int8-sim"], limits=UNREACHABLE)
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=7, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*test_drift[[]int8-sim-ioi[]]*",
            "int8-sim-ioi: drift_median is 0.0* [[]0.0*, 0.0*[]], must be <= 0.001",
            "*f16*ioi*PASS",
            "*int8-sim*ioi*FAIL",
            "circuit gate: FAIL (1 PASS, 1 FAIL)",
        ]
    )
    result.stdout.no_fnmatch_line("*Traceback*")
    result.stdout.no_fnmatch_line("*check.py*")


def test_the_report_decides_where_the_selected_tests_pass(gate: Gate) -> None:
    """Each case is measured whole, so the report knows of a failure that the selected test does not look at."""
    gate.configure(candidates=["int8-sim"], limits=UNREACHABLE)
    alone = gate.run("-k", "behaviour")
    assert alone.ret == pytest.ExitCode.OK
    alone.assert_outcomes(passed=1, deselected=3)
    reported = gate.run("-k", "behaviour", "--circuit-report")
    assert reported.ret == pytest.ExitCode.TESTS_FAILED
    reported.assert_outcomes(passed=1, deselected=3)
    reported.stdout.fnmatch_lines(["*int8-sim-ioi: drift_median is *must be <= 0.001*", "circuit gate: FAIL (1 FAIL)"])


def test_limits_that_nothing_was_held_against_are_named(gate: Gate) -> None:
    """A misspelt task, or another precision's name, would otherwise leave the default limit in force, unseen."""
    gate.configure(limits={"bf16": {"drift_median": 0.001}, "f16": {"oii": {"drift_median": 0.001}}})
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(
        [
            "note: limits that nothing in this run was held against: bf16: no candidate has that precision",
            "note: limits that nothing in this run was held against: f16.oii: no task is called so",
            "circuit gate: PASS (1 PASS)",
        ]
    )


def test_tables_are_the_same_twice(gate: Gate) -> None:
    assert report_section(gate.run("--circuit-report")) == report_section(gate.run("--circuit-report"))
