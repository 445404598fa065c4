"""No green run in which something else was compared than what was named."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from gate_folder import random_model, save_model
from gate_runner import Gate

from circuitcheck import load_model, load_task, record_reference


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


# --- limits that are not the ones that somebody thinks of ---

STRICT = '[tool.circuitcheck]\nmodel = "model"\ncandidates = ["f16"]\ntasks = ["ioi.jsonl"]\n'


@pytest.mark.parametrize(
    "table",
    [
        "tool.CircuitCheck.limits",
        "tool.circuitcheck-limits",
        "tool.circuit-check",
        "tool.circuitchek.limits",
        "circuitcheck.limits",
        "Tool.circuitcheck.limits",
    ],
)
def test_tables_that_look_like_ours_are_errors(gate: Gate, table: str) -> None:
    gate.write_pyproject(f"{STRICT}[{table}]\ndrift_median = 1e-5\n")
    place = ".".join(table.split(".")[: 1 if table.startswith("circuit") else 2])
    assert_refused(gate, message=f"{gate.path}/pyproject.toml: [[]{place}[]] looks like a table of circuitcheck; *")


@pytest.mark.parametrize("section", ["tool.circuitcheck.limits", "tool:circuitcheck", "circuitcheck"])
def test_a_table_in_pytests_own_file_is_an_error(gate: Gate, section: str) -> None:
    (gate.path / "pytest.ini").write_text(f"[pytest]\n[{section}]\ndrift_median = 1e-5\n")
    assert_refused(gate, message=f"{gate.path}/pytest.ini: [[]{section}[]] is never read; move it to *")


def test_a_nearer_file_without_a_table_does_not_hide_the_limits_above_it(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.configure(limits={"drift_median": 1e-5})
    below = gate.path / "below"
    below.mkdir()
    (below / "pyproject.toml").write_text("[tool.pytest.ini_options]\n[project]\nname = 'x'\nversion = '1'\n")
    (gate.path / "test_gate.py").rename(below / "test_gate.py")
    monkeypatch.chdir(below)
    result = gate.run("--circuit-report-dir=out")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*drift_median is *must be <= 1e-05*", "settings: ../pyproject.toml"])
    assert gate.report("below/out")["settings"] == "../pyproject.toml"
    for kind in ("md", "html"):
        assert "../pyproject.toml" in (below / "out" / f"report.{kind}").read_text("utf-8").replace("&#45;", "-")


@pytest.mark.parametrize("limits", [{"drift_median": 1e300, "drift_largest": 1e300}, {"behaviour_kept": 0.0}])
def test_loosened_limits_stand_beside_the_verdict_in_every_report(gate: Gate, limits: dict[str, float]) -> None:
    gate.configure(limits=limits)
    result = gate.run("--circuit-report-dir=out")
    assert result.ret == pytest.ExitCode.OK
    assert result.outlines[-1] == "circuit gate: PASS (1 PASS, 1 by loosened limits)"
    (run,) = gate.report()["runs"]
    assert {row["name"]: row["limit"] for row in run["loosened"]} == limits
    (name, *_) = limits
    result.stdout.fnmatch_lines(
        ["*f16*PASS*", "*loosened*", "*limits*", f"limits: Loosened limits: {name} *instead of*"]
    )
    markdown, page = ((gate.path / "out" / f"report.{kind}").read_text("utf-8") for kind in ("md", "html"))
    assert "✅ PASS, loosened limits |" in markdown
    assert "### Loosened limits" in markdown
    assert "</a><small>loosened limits</small>" in page
    assert f"Loosened limits: {name}" in page


def test_stricter_limits_are_not_called_loosened(gate: Gate) -> None:
    gate.configure(limits={"drift_median": 0.004})
    result = gate.run("--circuit-report-dir=out")
    assert gate.report()["runs"][0]["loosened"] == []
    result.stdout.no_fnmatch_line("*oosened limits*")


# --- the reference that is named, and a candidate that is one ---


@pytest.fixture
def release(gate: Gate) -> Gate:
    """A saved candidate, which is compared without its reference."""
    save_model(random_model().half(), gate.path / "release")
    gate.configure(candidates=["release"])
    return gate


def notes(gate: Gate) -> str:
    return "\n".join(note for run in gate.report()["runs"] for note in run["notes"])


def test_a_wrong_reference_of_the_same_name_is_refused(release: Gate) -> None:
    save_model(random_model(seed=1), release.path / "elsewhere" / "model")
    result = release.run("--circuit-report", "--circuit-model=elsewhere/model")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*the reference elsewhere/model is not the one that was accepted for 'ioi': its *"])
    (release.path / "empty" / "model").mkdir(parents=True)
    result = release.run("--circuit-report", "--circuit-model=empty/model")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["*model directory empty/model has no config.json*"])


def test_an_absent_reference_is_said(release: Gate) -> None:
    assert release.run("--circuit-report-dir=out").ret == pytest.ExitCode.OK
    assert "not on this machine" not in notes(release)
    release.model.rename(release.path / "moved")
    release.configure(candidates=["release"], model="models/model")
    assert release.run("--circuit-report-dir=out").ret == pytest.ExitCode.OK
    assert "The reference models/model is not on this machine, so that the golden baseline is" in notes(release)


def test_a_baseline_of_another_owners_model_is_refused(release: Gate) -> None:
    reference = load_model(release.model)
    task = load_task(str(release.path / "ioi.jsonl"), vocabulary=50)
    of_owner = replace(record_reference(reference, task, reason="of the hub"), model="someone/model")
    of_owner.save(release.baselines)
    release.model.rename(release.path / "moved")
    release.configure(candidates=["release"], model="someone/model")
    assert release.run("--circuit-report").ret == pytest.ExitCode.OK
    for other in ("another/model", "model"):
        result = release.run("--circuit-report", f"--circuit-model={other}")
        assert result.ret == pytest.ExitCode.TESTS_FAILED
        result.stdout.fnmatch_lines([f"*was recorded of someone/model, and this run names {other}, so nothing *"])


def test_a_candidate_that_is_the_reference_is_called_so(gate: Gate) -> None:
    shutil.copytree(gate.model, gate.path / "copy")
    save_model(random_model().double(), gate.path / "double")
    gate.configure(candidates=["f32", "f16", "copy", "double"])
    assert gate.run("--circuit-report-dir=out").ret == pytest.ExitCode.OK
    said = {run["candidate"]: " ".join(run["notes"]) for run in gate.report()["runs"]}
    for name in ("f32", "copy"):
        assert "This candidate is the reference itself" in said[name]
    assert "reference itself" not in said["f16"]
