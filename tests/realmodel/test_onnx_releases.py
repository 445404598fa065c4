"""A real model's releases in the ONNX format are gated by path, in ONNX Runtime."""

from __future__ import annotations

import json
import shutil
from statistics import median

import pytest
from releases import load_float

pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
pytest.importorskip("onnx", reason="onnx is not installed")

import onnx_releases

pytestmark = pytest.mark.realmodel

DRIFT = {
    "float32": ("f32", 1e-4),
    "float16": ("f16", 0.005),
    "dynamic": ("8-bit", 0.1),
    "qdq-a16": ("8-bit", 0.06),
    "int8-blocks": ("8-bit", 0.06),
    "int4-blocks": ("4-bit", 0.45),
}
"""Form to the precision that must be found, and the largest median drift: what was seen, with room."""

EXACT = ("float32", "float16", "dynamic", "qdq-a16", "int8-blocks")


@pytest.fixture(scope="module")
def gated(desk, real_model):
    """The process that gated all releases, and what its report says of each."""
    from transformers import AutoTokenizer

    folder = desk.folder / "onnx"
    whole = onnx_releases.export(load_float(real_model), folder / "float32.onnx")
    tokenizer = AutoTokenizer.from_pretrained(real_model)
    lines = [json.loads(line) for line in (desk.folder / desk.task).read_text().splitlines()]
    prompts = [tokenizer(line["clean"])["input_ids"] for line in lines[::4]]
    for form in DRIFT:
        if form != "float32":
            onnx_releases.quantize(whole, folder / f"{form}.onnx", form, prompts)
    # A file has the tokenizer beside it; a directory without one has the reference's.
    shutil.copyfile(real_model / "tokenizer.json", folder / "tokenizer.json")
    shutil.copyfile(real_model / "tokenizer_config.json", folder / "tokenizer_config.json")
    (desk.folder / "alone").mkdir()
    shutil.move(folder / "float16.onnx", desk.folder / "alone" / "model.onnx")
    candidates = ["alone" if form == "float16" else f"onnx/{form}.onnx" for form in DRIFT]
    arguments = [f"--circuit-candidate={path}" for path in candidates]
    process = desk.gate("--circuit-report", "--circuit-report-dir=out-onnx", *arguments)
    report = desk.report("out-onnx")
    return process, {form: report.get("alone" if form == "float16" else form) for form in DRIFT}


@pytest.mark.parametrize("form", DRIFT)
def test_a_release_is_gated_by_path(gated, form):
    process, report = gated
    entry = report[form]
    assert entry is not None, process.stdout
    precision, largest = DRIFT[form]
    assert entry["precision"] == precision
    assert 0 < median(unit["drift"] for unit in entry["units"]) < largest
    assert any(note.startswith("Executed by ONNX Runtime") for note in entry["notes"])
    assert entry["verdict"] in (["PASS"] if form in EXACT else ["PASS", "INCONCLUSIVE"]), entry["message"]
