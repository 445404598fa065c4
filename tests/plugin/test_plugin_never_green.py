"""There is no way to a green run in which nothing was compared."""

from __future__ import annotations

import pytest
from gate_folder import SUITE
from gate_runner import Gate

FAILING = {"candidates": ["int8-sim"], "limits": {"drift_median": 0.001}}
"""int8-sim rounds to 1 part in 127, and its median drift here is above 0.01."""

NOTHING_COMPARED = "No candidate was compared with its golden baseline, so this run says nothing.*"

DESELECT = [f"--deselect=test_gate.py::test_{test}[f16-ioi]" for test in SUITE]


@pytest.fixture
def other(gate: Gate) -> Gate:
    """With a test that has nothing to do with the gate."""
    (gate.path / "test_other.py").write_text("def test_other():\n    pass\n")
    return gate


@pytest.mark.parametrize(
    "selection",
    [("-k", "nothing"), ("-m", "nothing"), ("--lf", "--lfnf=none"), tuple(DESELECT)],
    ids=["-k", "-m", "--lf", "--deselect"],
)
@pytest.mark.parametrize("report", [(), ("--circuit-report",)], ids=["plain", "report"])
def test_selecting_nothing_is_pytests_own_exit_code_5(
    gate: Gate, selection: tuple[str, ...], report: tuple[str, ...]
) -> None:
    if "-m" in selection:
        (gate.path / "conftest.py").write_text(
            "def pytest_configure(config):\n    config.addinivalue_line('markers', 'nothing: no test has it')\n"
        )
    result = gate.run(*selection, *report)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    if report:
        result.stdout.fnmatch_lines([NOTHING_COMPARED])
    result.stdout.no_fnmatch_line("*PASS*")


def test_last_failed_after_a_green_run_repeats_the_gate(gate: Gate) -> None:
    """pytest's own default: no failures, so everything."""
    gate.run("--circuit-report")
    gate.count_measurements()
    result = gate.run("--lf", "--circuit-report")
    assert result.ret == pytest.ExitCode.OK
    assert gate.measured == ["f16-ioi"]


def test_last_failed_after_a_red_run_is_red_again(gate: Gate) -> None:
    gate.configure(**FAILING)
    gate.run("--circuit-report")
    result = gate.run("--lf", "--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=1)


@pytest.mark.parametrize("workers", [(), ("-n1",)], ids=["serial", "xdist"])
@pytest.mark.parametrize("selection", [("test_other.py",), ("-k", "other")], ids=["path", "-k"])
def test_report_without_the_gates_tests_is_exit_code_5_and_says_why(
    other: Gate, selection: tuple[str, ...], workers: tuple[str, ...]
) -> None:
    result = other.run("--circuit-report", *selection, *workers)
    assert result.ret == pytest.ExitCode.NO_TESTS_COLLECTED
    result.assert_outcomes(passed=1, deselected=0 if selection[0] == "test_other.py" or workers else 4)
    result.stdout.fnmatch_lines([NOTHING_COMPARED])
    assert result.outlines[-1] == "circuit gate: NONE (nothing was compared)"


def test_a_failure_elsewhere_keeps_its_exit_code(gate: Gate) -> None:
    (gate.path / "test_other.py").write_text("def test_other():\n    raise ValueError\n")
    assert gate.run("--circuit-report", "test_other.py").ret == pytest.ExitCode.TESTS_FAILED
    assert gate.run("--circuit-report").ret == pytest.ExitCode.TESTS_FAILED


def test_a_module_that_cannot_be_collected_keeps_pytests_exit_code(gate: Gate) -> None:
    (gate.path / "test_other.py").write_text("raise ValueError\n")
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.no_fnmatch_line("*circuit gate: PASS*")


def test_a_path_that_does_not_exist_keeps_pytests_exit_code(gate: Gate) -> None:
    assert gate.run("--circuit-report", "test_nowhere.py").ret == pytest.ExitCode.USAGE_ERROR


def test_stopping_at_the_first_failure_is_red(gate: Gate) -> None:
    gate.configure(**FAILING, tasks=["ioi.jsonl", "facts.jsonl"])
    result = gate.run("-x", "--circuit-report-dir", "out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["circuit gate: FAIL (1 FAIL, 1 of 2 not compared)"])
    assert gate.report()["complete"] is False


@pytest.mark.parametrize("stop", ["raise KeyboardInterrupt", "pytest.exit('enough')"])
def test_interruption_keeps_its_exit_code_and_is_no_pass(gate: Gate, stop: str) -> None:
    """Even where everything that was asked for has been compared already."""
    (gate.path / "test_other.py").write_text(
        f"import pytest\n\n\ndef test_stops():\n    {stop}\n\n\ndef test_never_reached():\n    pass\n"
    )
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["circuit gate: INTERRUPTED (1 PASS)"])


def test_interrupted_before_anything_was_compared(gate: Gate) -> None:
    (gate.path / "test_a_first.py").write_text("def test_stops():\n    raise KeyboardInterrupt\n")
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.INTERRUPTED
    result.stdout.fnmatch_lines([NOTHING_COMPARED])


def test_a_part_of_the_cases_is_incomplete(gate: Gate) -> None:
    gate.configure(candidates=["f16", "bf16"], tasks=["ioi.jsonl", "facts.jsonl"])
    result = gate.run("--circuit-report-dir", "out", "-k", "bf16 and facts")
    assert result.ret == pytest.ExitCode.OK
    result.stdout.fnmatch_lines(["circuit gate: INCOMPLETE (1 PASS, 3 of 4 not compared)"])
    report = gate.report()
    assert (report["complete"], report["expected_runs"], len(report["runs"])) == (False, 4, 1)


def test_one_test_of_each_case_is_the_whole_gate(gate: Gate) -> None:
    """Because every case is measured whole."""
    result = gate.run("--circuit-report-dir", "out", "-k", "drift")
    result.stdout.fnmatch_lines(["circuit gate: PASS (1 PASS)"])
    assert gate.report()["complete"] is True


@pytest.mark.parametrize("in_ci", [False, True], ids=["at a desk", "in CI"])
def test_a_missing_baseline_fails_and_is_never_written(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, in_ci: bool
) -> None:
    gate.remove_baseline()
    before = gate.stored()
    if in_ci:
        monkeypatch.setenv("CI", "true")
    for _ in ("first run", "retry"):
        result = gate.run("--circuit-report")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.assert_outcomes(failed=4)
        result.stdout.fnmatch_lines(
            [
                "*baselines/model/ioi.json is missing*",
                "  To accept the present reference instead: pytest --circuit-accept=new --circuit-reason 'why'",
                "circuit gate: FAIL (1 FAIL)",
            ]
        )
        assert gate.stored() == before


@pytest.mark.parametrize("ending", ["json", "safetensors"])
def test_half_a_baseline_fails_and_names_the_command_that_replaces_it(gate: Gate, ending: str) -> None:
    file, kind = gate.baseline_file(ending), {"json": "new", "safetensors": "changed"}[ending]
    file.unlink()
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            f"*baselines/model/{file.name} is missing*",
            f"  To accept the present reference instead: pytest --circuit-accept={kind} --circuit-reason 'why'",
        ]
    )
    accepted = gate.run(f"--circuit-accept={kind}", "--circuit-reason", "why")
    assert accepted.ret == pytest.ExitCode.OK
    assert gate.run("--circuit-report").ret == pytest.ExitCode.OK


def test_an_unexpected_error_is_red_and_the_case_not_compared(gate: Gate) -> None:
    """What circuitcheck does not know of is a test's failure like any other, with its traceback."""
    (gate.path / "conftest.py").write_text(
        "import pytest\n\n\n"
        "@pytest.fixture(scope='session', autouse=True)\n"
        "def broken():\n"
        "    def measure(*arguments, **options):\n"
        "        raise RuntimeError('out of memory')\n\n"
        "    with pytest.MonkeyPatch.context() as patch:\n"
        "        patch.setattr('circuitcheck.gate.decide.measure', measure)\n"
        "        yield\n"
    )
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["E*RuntimeError: out of memory", NOTHING_COMPARED])
