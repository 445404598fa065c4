"""The shipped model's releases in the ONNX format are gated as a user gates them, by path, in their own process."""

from __future__ import annotations

import shutil
from pathlib import Path

import gate_process
import onnx_releases
import pytest

from circuitcheck import Baseline, load_model

BASELINES = Path(__file__).parents[2] / "baselines"
FORMS = {"float32": "f32", "int8-blocks": "8-bit"}


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """The process, and what its report says; of one release a directory is named, which has no tokenizer."""
    folder = tmp_path_factory.mktemp("desk")
    shutil.copytree(BASELINES, folder / "baselines")
    whole = onnx_releases.export(load_model("embedded").module, folder / "float32.onnx")
    onnx_releases.quantize(whole, folder / "int8-blocks" / "onnx" / "model.onnx", "int8-blocks")
    prompts = len(Baseline.load(folder / "baselines" / "embedded" / "ioi.json").task.pairs)
    desk = gate_process.Desk(folder, "embedded", "ioi")
    arguments = ["--circuit-candidate=float32.onnx", "--circuit-candidate=int8-blocks", f"--circuit-prompts={prompts}"]
    process = desk.gate("--circuit-report", "--circuit-report-dir=out", *arguments)
    return process, {name.removesuffix(".onnx"): entry for name, entry in desk.report().items()}


@pytest.mark.parametrize("form", FORMS)
def test_a_release_is_gated_by_path(gated, form):
    process, report = gated
    assert form in report, process.stdout
    entry = report[form]
    assert (entry["verdict"], entry["precision"]) == ("PASS", FORMS[form])
    assert any(note.startswith("Executed by ONNX Runtime") for note in entry["notes"])


def test_the_run_is_green(gated):
    assert gated[0].returncode == 0, gated[0].stdout
    assert gated[0].stdout.splitlines()[-1] == "circuit gate: PASS (2 PASS)"
