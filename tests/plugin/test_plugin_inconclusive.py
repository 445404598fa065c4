"""What the reference does not solve is INCONCLUSIVE, never PASS."""

from __future__ import annotations

import pytest
from gate_folder import read_lines, write_lines
from gate_runner import Gate


@pytest.fixture
def unsolved(gate: Gate) -> Gate:
    """Answer and foil of ioi change places, so that the reference fails every prompt; its baseline says so."""
    file = gate.path / "ioi.jsonl"
    lines = read_lines(file)
    write_lines(file, [line | {"answer_id": line["foil_id"], "foil_id": line["answer_id"]} for line in lines])
    gate.run("--circuit-accept=changed", "--circuit-reason", "the other way round")
    return gate


def test_it_fails_and_says_why(unsolved: Gate) -> None:
    result = unsolved.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(
        [
            "f16-ioi is INCONCLUSIVE: the reference solves 0 of 40 prompts *at least 50% are needed*",
            "The reference does not solve any of these tasks, so no candidate was compared *",
            "circuit gate: INCONCLUSIVE (1 INCONCLUSIVE)",
        ]
    )


def test_accepting_it_says_so(gate: Gate, unsolved: Gate) -> None:
    gate.remove_baseline()
    result = unsolved.run("--circuit-accept=new", "--circuit-reason", "why")
    result.stdout.fnmatch_lines(["*solves 0 of 40 prompts (INCONCLUSIVE: *"])


def test_allowed_it_is_skipped_and_a_run_of_nothing_else_is_exit_code_5(unsolved: Gate) -> None:
    result = unsolved.run("--circuit-report", "--circuit-allow-inconclusive", "-rs")
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.assert_outcomes(skipped=4)
    result.stdout.fnmatch_lines(
        [
            "The reference does not solve any of these tasks, so no candidate was compared *",
            "SKIPPED*f16-ioi is INCONCLUSIVE: the reference solves 0 of 40 prompts*",
            "circuit gate: INCONCLUSIVE (1 INCONCLUSIVE)",
        ]
    )


@pytest.mark.parametrize("where", ["option", "setting"])
def test_allowed_beside_a_task_that_was_compared(unsolved: Gate, where: str) -> None:
    tasks = ["ioi.jsonl", "facts.jsonl"]
    unsolved.configure(tasks=tasks, allow_inconclusive=True if where == "setting" else None)
    options = ["--circuit-allow-inconclusive"] if where == "option" else []
    result = unsolved.run("--circuit-report", *options)
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=4, skipped=4)
    result.stdout.fnmatch_lines(["circuit gate: INCONCLUSIVE (1 PASS, 1 INCONCLUSIVE)"])


def test_an_interval_that_contains_the_limit_says_what_would_settle_it(gate: Gate) -> None:
    """The median drift of int8-sim here is 0.016, its interval reaches from 0.014 to 0.019."""
    gate.configure(candidates=["int8-sim"], limits={"drift_median": 0.0165})
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=3, failed=1)
    result.stdout.fnmatch_lines(
        [
            "int8-sim-ioi is INCONCLUSIVE: drift_median is 0.01* must be <= 0.0165: the interval contains the limit. *",
            "circuit gate: INCONCLUSIVE (1 INCONCLUSIVE)",
        ]
    )
    allowed = gate.run("--circuit-report", "--circuit-allow-inconclusive")
    assert allowed.ret == pytest.ExitCode.OK
    allowed.assert_outcomes(passed=3, skipped=1)
    allowed.stdout.fnmatch_lines(["circuit gate: INCONCLUSIVE (1 INCONCLUSIVE)"])
