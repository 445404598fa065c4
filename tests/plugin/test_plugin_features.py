"""`--circuit-unit feature:PATH`, from the option to the last line."""

from __future__ import annotations

import json

import pytest
from dictionary_folder import write_signs
from gate_runner import Gate

WIDTH = 16


def accept(gate: Gate) -> None:
    write_signs(gate.path / "signs", WIDTH)
    gate.configure(units=["head", "feature:signs"])
    result = gate.run("--circuit-accept=new", "--circuit-reason", "features")
    result.stdout.fnmatch_lines(["*ioi-feature: accepted: *ioi.feature.json*"])
    assert (gate.baselines / "ioi.feature.json").is_file()


def test_from_recording_to_the_verdict(gate: Gate) -> None:
    accept(gate)
    result = gate.run("--circuit-report-dir", "out", "--circuit-candidate", "f16", "--circuit-figures", "figures")
    result.stdout.fnmatch_lines(["Features, what dictionaries explain*", "*f16*ioi*feature 0 100% -> 100%*"])
    runs = {run["unit"]: run for run in gate.report()["runs"]}
    assert set(runs) == {"head", "feature"}
    assert runs["head"]["features"] is None
    found = runs["feature"]["features"]
    assert found["dictionaries"][0]["latents"] == 2 * WIDTH
    assert found["surviving"]["value"] == 1
    assert len(runs["feature"]["units"]) == found["dictionaries"][0]["active"]
    names = [criterion["name"] for criterion in runs["feature"]["criteria"]]
    assert "features_surviving" in names
    assert result.ret == (0 if all(run["verdict"] == "PASS" for run in runs.values()) else 1)
    page = (gate.path / "out" / "report.html").read_text("utf-8")
    assert "Explained of the reference" in page
    assert "Features" in (gate.path / "out" / "report.md").read_text("utf-8")
    # Another dictionary at the same place is another baseline.
    write_signs(gate.path / "signs", WIDTH, scale=0.1)
    result = gate.run("--circuit-report", "--circuit-unit", "feature:signs")
    result.stdout.fnmatch_lines(["*was recorded with other dictionaries*"])
    assert result.ret == 1


def test_under_every_specification(gate: Gate) -> None:
    """Each is recorded and judged with the same dictionary; none is refused."""
    write_signs(gate.path / "signs", WIDTH)
    gate.configure(units=["feature:signs"])
    gate.run("--circuit-accept=new", "--circuit-reason", "features")
    gate.run("--circuit-multiverse", "--circuit-report-dir", "out", "--circuit-candidate", "f16")
    (run,) = gate.report()["runs"]
    assert run["unit"] == "feature"
    assert len(run["multiverse"]["specifications"]) == 12
    assert [row["message"] for row in run["multiverse"]["specifications"] if row["message"]] == []
    assert run["multiverse"]["flips"] < 12


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("feature:nowhere", "*nowhere does not exist. Give the directory that it was saved to."),
        ("feature:", "*dictionary * is none that is known*"),
        ("features", "*must be one of head, block, neuron, or feature:PATH."),
    ],
)
def test_refused_before_anything_runs(gate: Gate, unit: str, said: str) -> None:
    result = gate.run("--circuit-report", "--circuit-unit", unit)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines([f"ERROR: circuitcheck: {said}"])


def test_a_pickled_dictionary_is_refused_before_anything_runs(gate: Gate) -> None:
    folder = write_signs(gate.path / "signs", WIDTH)
    (folder / "sae_weights.safetensors").rename(folder / "sae_weights.pt")
    result = gate.run("--circuit-report", "--circuit-unit", "feature:signs")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["ERROR: circuitcheck: *pickled weights are never read*"])


def test_a_dictionary_of_another_model(gate: Gate) -> None:
    write_signs(gate.path / "signs", WIDTH + 1)
    result = gate.run("--circuit-report-dir", "out", "--circuit-unit", "feature:signs")
    assert result.ret == 1
    (run,) = json.loads((gate.path / "out" / "report.json").read_text())["runs"]
    assert run["verdict"] == "FAIL"
    assert "missing; record the reference first" in run["message"] or "17 numbers" in run["message"]
    result = gate.run("--circuit-accept=new", "--circuit-reason", "features", "--circuit-unit", "feature:signs")
    result.stdout.fnmatch_lines(["*reads 17 numbers at resid_post of layer 0, and the model has 16 there*"])
