"""No green run in which something else was compared than what was named."""

from __future__ import annotations

import pytest
import torch
from gate_folder import random_model, save_model
from gate_runner import Gate


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_weights_that_fail_as_float32_fail_as_float64(gate: Gate, dtype: torch.dtype) -> None:
    """Both are judged by the limits of float32, and here drift alone is beyond them."""
    module = random_model()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1 + 2e-3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    save_model(module.to(dtype), gate.path / "worn")
    result = gate.run("--circuit-report-dir=out", "--circuit-candidate=worn")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (run,) = gate.report()["runs"]
    assert run["precision"] in ("f32", "float64")
    limits = {row["name"]: row["limit"] for row in run["criteria"] if row["verdict"] == "FAIL"}
    assert limits["drift_median"] == 1e-4


def assert_refused(gate: Gate, *arguments: str, message: str) -> None:
    """Before anything runs."""
    result = gate.run("--circuit-report", *arguments)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: circuitcheck: {message}"])


NO_CANDIDATE = "a model is given and no candidate, so it would be compared with copies of itself. Name what is to be *"


def test_a_model_without_a_candidate_is_never_compared_with_copies_of_itself(gate: Gate) -> None:
    gate.configure(model=None, candidates=None)
    assert_refused(gate, "--circuit-model=model", message=NO_CANDIDATE)
    gate.configure(candidates=None)
    gate.write_pyproject('[tool.circuitcheck]\nmodel = "model"\ntasks = ["ioi.jsonl"]\n')
    assert_refused(gate, message=NO_CANDIDATE)
    assert gate.run("--circuit-report", "--circuit-candidate=f16").ret == pytest.ExitCode.OK


def test_accepting_and_calibrating_a_model_need_no_candidate(gate: Gate) -> None:
    gate.configure(candidates=None)
    assert gate.run("--circuit-accept=new", "--circuit-reason=first").ret == pytest.ExitCode.OK
    assert gate.run("--circuit-calibrate").ret == pytest.ExitCode.OK


@pytest.mark.parametrize("value", ["", "  "])
@pytest.mark.parametrize("name", ["candidate", "task", "model", "report-dir", "baselines", "metric", "memory"])
def test_empty_values_on_the_command_line_are_errors(gate: Gate, name: str, value: str) -> None:
    key = name + "s" if name in ("candidate", "task") else name
    assert_refused(gate, f"--circuit-{name}={value}", message=f"{key} is given and empty. Give a value, or leave it *")


@pytest.mark.parametrize(
    "settings", [{"candidates": [""]}, {"candidates": ["f16", " "]}, {"model": ""}, {"baselines": ""}, {"metric": ""}]
)
def test_empty_values_among_the_settings_are_errors(gate: Gate, settings: dict[str, object]) -> None:
    gate.configure(**settings)
    (name,) = settings
    assert_refused(gate, message=f"{name} is given and empty. *")
