"""A real model's releases, saved in every format that can, are gated by path."""

from __future__ import annotations

import shutil
from statistics import median

import pytest
import releases
import torch
from safetensors.torch import load_file, save_file

from circuitcheck import Baseline

pytestmark = pytest.mark.realmodel

DRIFT = {
    "f16": ("f16", 0.005),
    "bf16": ("bf16", 0.04),
    "torchao-int8": ("8-bit", 0.06),
    "torchao-int4": ("4-bit", 0.45),
    "compressed-w8a8": ("8-bit", 0.06),
    "gguf-q8_0": ("8-bit", 0.03),
    "gguf-q4_0": ("4-bit", 0.4),
}
"""Form to the precision that must be found, and the largest median drift: what was seen, with room."""

EXACT = ("f16", "bf16", "torchao-int8", "compressed-w8a8", "gguf-q8_0")
"""These compute the same way. Four bits are much for a model of 0.26 million weights: they may be left open."""


@pytest.fixture(scope="module")
def gated(desk, real_model):
    """The process that gated all releases, and what its report says of each."""
    paths = {form: releases.save_release(real_model, desk.folder / "releases" / form, form) for form in DRIFT}
    paths["broken"] = without_head(paths["f16"], desk.folder / "releases" / "broken")
    arguments = [f"--circuit-candidate={path.relative_to(desk.folder)}" for path in paths.values()]
    process = desk.gate("--circuit-report", "--circuit-report-dir=out", "--circuit-runtime=pytorch", *arguments)
    report = {name.removesuffix(".gguf"): entry for name, entry in desk.report().items()}
    return process, report


def without_head(release, target):
    """The release with the most important head's output weights set to zero."""
    shutil.copytree(release, target)
    tensors = load_file(target / "model.safetensors")
    weight = tensors["model.layers.2.self_attn.o_proj.weight"]
    weight[:, 6 * 8 : 7 * 8] = 0
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_the_task_is_solved_by_two_heads(desk):
    """87 of 96 prompts; each template's first line asks for `Tim` in front of `girl`, where the model is unsure."""
    baseline = Baseline.load(desk.folder / "baselines" / desk.model.name / "names.json")
    assert len(baseline.solved) >= 80
    order = abs(torch.tensor(baseline.importance("resample"))).argsort(descending=True)
    assert {baseline.measured[place] for place in order[:2].tolist()} == {(2, 6), (4, 0)}


@pytest.mark.parametrize("form", DRIFT)
def test_a_release_is_gated_by_path(gated, form):
    process, report = gated
    assert form in report, process.stdout
    entry = report[form]
    precision, largest = DRIFT[form]
    criteria = {criterion["name"]: criterion for criterion in entry["criteria"]}
    assert entry["precision"] == precision
    assert 0 < median(unit["drift"] for unit in entry["units"]) < largest
    assert 0 < criteria["excess"]["value"]["value"] < 1.2
    assert entry["verdict"] in (["PASS"] if form in EXACT else ["PASS", "INCONCLUSIVE"]), entry["message"]


def test_the_circuit_that_was_cut_is_found(gated):
    _, report = gated
    assert report["broken"]["verdict"] == "FAIL"
    failed = {criterion["name"] for criterion in report["broken"]["criteria"] if criterion["verdict"] == "FAIL"}
    assert "profile_distance" in failed


def test_the_run_is_not_green(gated):
    process, _ = gated
    assert process.returncode == 1
    assert "limits follow the 8 bits that its census found in 35 of 35 projections" in " ".join(process.stdout.split())
