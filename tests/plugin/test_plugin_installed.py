"""An installed copy runs outside this repository, in a folder that holds nothing of pytest's or circuitcheck's."""

from __future__ import annotations

from pathlib import Path

import pytest
from gate_runner import WITHOUT, files_below, without_hashes

SUITE = ("--pyargs", "circuitcheck.suite")


@pytest.fixture
def mine(pytester: pytest.Pytester, gate_source: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Arguments for a model and a task elsewhere; the folder of the run is empty."""
    monkeypatch.delenv("CI", raising=False)
    assert files_below(pytester.path) == []
    return (f"--circuit-model={gate_source}/model", f"--circuit-task={gate_source}/ioi.jsonl")


def test_record_and_compare(pytester: pytest.Pytester, mine: tuple[str, ...]) -> None:
    accepted = pytester.runpytest_inprocess(
        *SUITE, *mine, *WITHOUT, "-pno:cacheprovider", "--circuit-accept=new", "--circuit-reason=first"
    )
    accepted.assert_outcomes(skipped=16)
    assert without_hashes(files_below(pytester.path)) == ["baselines/model/ioi.json", "baselines/model/ioi.safetensors"]
    result = pytester.runpytest_subprocess(
        *SUITE, *mine, *WITHOUT, "-Werror", "--circuit-candidate=f16", "--circuit-report"
    )
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["circuit gate: PASS (1 PASS)"])


@pytest.mark.parametrize("mode", ["prepend", "append", "importlib"])
def test_import_modes(pytester: pytest.Pytester, mine: tuple[str, ...], gate_source: Path, mode: str) -> None:
    result = pytester.runpytest_inprocess(
        *SUITE,
        *mine,
        *WITHOUT,
        f"--import-mode={mode}",
        f"--circuit-baselines={gate_source}/baselines",
        "--circuit-candidate=f16",
        "--circuit-report",
    )
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=4)


def test_the_command_that_accepts_runs_the_installed_suite(pytester: pytest.Pytester, mine: tuple[str, ...]) -> None:
    result = pytester.runpytest_inprocess(*SUITE, *mine, *WITHOUT, "--circuit-candidate=f16")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(
        [
            "  To accept the present reference instead: pytest --pyargs circuitcheck.suite --circuit-model=*/model "
            "--circuit-task=*/ioi.jsonl --circuit-accept=new --circuit-reason 'why'"
        ]
    )
