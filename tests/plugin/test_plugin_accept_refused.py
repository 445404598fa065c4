"""Where `--circuit-accept` is refused, and what a refused or failed one leaves: everything as it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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


@pytest.mark.parametrize("reason", [(), ("--circuit-reason", ""), ("--circuit-reason", "  ")])
def test_a_reason_is_needed(gate: Gate, reason: tuple[str, ...]) -> None:
    assert_refused(gate, "--circuit-accept=all", *reason, message="--circuit-accept needs --circuit-reason TEXT*")


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
        [f"{name}: could not be accepted, nothing was written" for name in ("ioi", "ioi-block", "facts", "facts-block")]
    )


def full_disk(*arguments: object) -> None:
    raise OSError(28, "No space left on device")


def full_disk_at(ending: str) -> Callable[[Path, Path], Path]:
    """A `Path.replace` that fails for such targets; the run keeps notes of its own with it."""
    real = Path.replace
    return lambda file, target: full_disk() if str(target).endswith(ending) else real(file, target)


@pytest.mark.parametrize("broken", ["os.fsync", "pathlib.Path.replace"])
def test_an_interrupted_write_leaves_the_old_files_and_no_half_written_one(gate: Gate, broken: str) -> None:
    save_model(random_model(seed=1), gate.model)
    before = gate.stored()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broken, full_disk if broken == "os.fsync" else full_disk_at(".safetensors"))
        result = gate.run(*ACCEPT)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(failed=8)
    result.stdout.fnmatch_lines(["*nothing was written: golden baseline *cannot be written: No space left on device*"])
    result.stdout.no_fnmatch_line("*exception*")
    assert gate.stored() == before


def test_two_files_half_replaced_are_refused_and_not_compared(gate: Gate) -> None:
    """Two renames are not one: between them the JSON still names the old arrays, which are gone."""
    save_model(random_model(seed=1), gate.model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "replace", full_disk_at("ioi.json"))
        gate.run(*ACCEPT)
    assert not [name for name in gate.stored() if name.startswith("model/.")]
    result = gate.run("--circuit-report")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*ioi.json: the safetensors file beside it is corrupt, or belongs to another*"])
