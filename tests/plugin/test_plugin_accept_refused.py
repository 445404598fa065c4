"""Where `--circuit-accept` is refused, and what a refused or failed one leaves: everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gate_folder import random_model, save_model
from gate_runner import Gate

from circuitcheck import MeasurementSpec, Task
from circuitcheck.core.errors import ModelError

ACCEPT = ("--circuit-accept=all", "--circuit-reason", "why")


def assert_refused(gate: Gate, *arguments: str, message: str) -> None:
    before = gate.stored()
    result = gate.run(*arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: circuitcheck: {message}"])
    assert gate.stored() == before


@pytest.fixture(autouse=True)
def missing(gate: Gate) -> None:
    """So that an accepting run would have something to write."""
    gate.remove_baseline("facts")
    gate.configure(tasks=["ioi.jsonl", "facts.jsonl"])


def test_without_it_nothing_is_refused(gate: Gate) -> None:
    """The other tests here could not fail if this one did."""
    before = gate.stored()
    assert gate.run(*ACCEPT).ret == pytest.ExitCode.OK
    assert gate.stored() != before


def test_a_reason_is_needed(gate: Gate) -> None:
    assert_refused(gate, "--circuit-accept=all", message="--circuit-accept needs --circuit-reason TEXT*")
    for empty in ("", "  "):
        assert_refused(gate, "--circuit-accept=all", "--circuit-reason", empty, message="reason is given and empty. *")


def test_a_reason_alone_accepts_nothing(gate: Gate) -> None:
    assert_refused(gate, "--circuit-reason", "why", message="--circuit-reason is for --circuit-accept only.")


@pytest.mark.parametrize("workers", [("-n2",), ("-n1",), ("--dist=each", "--tx", "2*popen")])
def test_never_in_parallel(gate: Gate, workers: tuple[str, ...]) -> None:
    assert_refused(gate, *ACCEPT, *workers, message="*never runs in parallel: leave out -n.")


def test_no_workers_are_not_parallel(gate: Gate) -> None:
    assert gate.run(*ACCEPT, "-n0").ret == pytest.ExitCode.OK


def test_never_in_ci(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    assert_refused(gate, *ACCEPT, message="*where the environment variable CI is set*--circuit-accept-in-ci.")


def test_in_ci_where_that_is_said(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    result = gate.run(*ACCEPT, "--circuit-accept-in-ci")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(skipped=8)
    assert "model/facts.json" in gate.stored()


@pytest.mark.parametrize("value", ["", "0", "false", "False"])
def test_a_ci_variable_that_says_no_is_no_ci(gate: Gate, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("CI", value)
    assert gate.run(*ACCEPT).ret == pytest.ExitCode.OK


def test_an_unknown_kind(gate: Gate) -> None:
    before = gate.stored()
    result = gate.run("--circuit-accept=everything", "--circuit-reason", "why")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--circuit-accept: invalid choice: 'everything'*new*changed*all*"])
    assert gate.stored() == before


def test_accepting_is_no_setting(gate: Gate) -> None:
    """A setting would accept in every run."""
    gate.configure(accept="all")
    assert_refused(gate, "--circuit-report", message="*unknown key(s) accept*on the command line only.")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_reference_is_not_accepted(gate: Gate, value: float) -> None:
    module = random_model()
    with torch.no_grad():
        module.gpt_neox.layers[1].mlp.dense_4h_to_h.bias[0] = value
    save_model(module, gate.model)
    before = gate.stored()
    result = gate.run(*ACCEPT)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=8)
    result.stdout.re_match_lines(
        [
            "ioi could not be accepted, nothing was written: .*model: ",
            ".*(not finite|NaN or infinite)",
            "ioi: could not be accepted, nothing was written",
            "facts: could not be accepted, nothing was written",
        ]
    )
    assert gate.stored() == before


def test_a_task_that_cannot_be_accepted_is_recorded_once(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not again for every test of it: recording takes long."""
    calls = []

    def record(model: object, task: object, *arguments: object, **options: object) -> None:
        calls.append(task)
        raise ModelError("broken")

    monkeypatch.setattr("circuitcheck.gate.accept.record_reference", record)
    gate.run(*ACCEPT).assert_outcomes(failed=8)
    assert len(calls) == 2


def test_each_kind_of_unit_is_accepted_for_itself(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def record(model: object, task: Task, spec: MeasurementSpec, **options: object) -> None:
        asked.append((task.name, spec.unit))
        raise ModelError("broken")

    monkeypatch.setattr("circuitcheck.gate.accept.record_reference", record)
    result = gate.run(*ACCEPT, "--circuit-unit=head", "--circuit-unit=block")
    result.assert_outcomes(failed=16)
    assert sorted(asked) == [(task, unit) for task in ("facts", "ioi") for unit in ("block", "head")]
    result.stdout.fnmatch_lines_random(
        [
            f"{name}: could not be accepted, nothing was written: broken"
            for name in ("ioi", "ioi-block", "facts", "facts-block")
        ]
    )


def full_disk(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def full_disk_at(ending: str) -> Callable[[Path, Path], Path]:
    """A `Path.replace` that fails for such targets; the run keeps notes of its own with it."""
    real = Path.replace
    return lambda file, target: full_disk() if str(target).endswith(ending) else real(file, target)


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_is_red_and_leaves_the_old_files(gate: Gate, broken: str) -> None:
    save_model(random_model(seed=1), gate.model)
    before = gate.stored()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broken, full_disk if broken == "os.fsync" else full_disk_at(".safetensors"))
        result = gate.run(*ACCEPT)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(skipped=8)
    result.stdout.fnmatch_lines(
        [f"{task}: could not be accepted, nothing was written: *No space left on device." for task in ("ioi", "facts")]
    )
    result.stdout.no_fnmatch_line("*exception*")
    assert gate.stored() == before


def only_ioi(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Every other task fails to be recorded."""
    from circuitcheck.gate import accept as module

    real = module.record_reference

    def record(model: Any, task: Task, *arguments: Any, **options: Any) -> Any:
        if task.name != "ioi":
            raise error
        return real(model, task, *arguments, **options)

    monkeypatch.setattr(module, "record_reference", record)


@pytest.mark.parametrize("error", [ModelError("broken"), RuntimeError("unheard of"), KeyboardInterrupt()])
def test_tasks_are_accepted_together_or_not_at_all(
    gate: Gate, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    save_model(random_model(seed=1), gate.model)
    before = gate.stored()
    only_ioi(monkeypatch, error)
    result = gate.run(*ACCEPT)
    assert result.ret in (pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED)
    result.stdout.fnmatch_lines(
        ["ioi: could not be accepted, nothing was written: facts could not be, and tasks are *"]
    )
    assert gate.stored() == before


def test_a_run_that_is_cut_short_accepts_nothing(gate: Gate) -> None:
    save_model(random_model(seed=1), gate.model)
    before = gate.stored()
    (gate.path / "test_aa.py").write_text("def test_red():\n    assert False\n")
    result = gate.run(*ACCEPT, "test_gate.py::test_behaviour", "test_aa.py", "test_gate.py::test_drift", "-x")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*: could not be accepted, nothing was written: the run was stopped, and tasks are *"])
    assert gate.stored() == before
