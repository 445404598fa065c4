"""Files that the builder of onnxruntime-genai makes: their past leaves its width open, q, k and v are one product."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record

from circuitcheck import judge, load_model, measure
from circuitcheck.core.patch import Patch
from circuitcheck.runtimes.choose import load_candidate
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.verdict.limits import limits_for

pytest.importorskip("onnxruntime_genai", reason="onnxruntime-genai is not installed")

PROMPTS = 40
MODULE = "llama-wide-heads"
"""Fused attention takes heads whose width is a multiple of 16."""

# Logits of up to 20, in float32, summed in another order.
CLOSE = 5e-5


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The reference, its baseline, and where its builds go."""
    module = tiny_models.tiny_module(MODULE)
    with torch.no_grad():  # words tell more than what the layers add, as in a trained model
        module.get_input_embeddings().weight.mul_(4)
    reference = hook_module(module, name="tiny")
    folder = tmp_path_factory.mktemp("builds")
    module.save_pretrained(folder / "reference")
    load_model("embedded").tokenizer.save_pretrained(folder / "reference")
    return reference, record(reference, tiny_circuits.solvable_task(reference, PROMPTS)), folder


def built(world, precision):
    """The directory that the builder makes for the CPU."""
    folder = world[2]
    if not (folder / precision).exists():
        places = ["-i", folder / "reference", "-o", folder / precision, "-c", folder / "cache"]
        command = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-m", "none", *places]
        silent = {**os.environ, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run([*command, "-p", precision, "-e", "cpu"], env=silent, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    return load_candidate(str(folder / precision))


@pytest.mark.parametrize(("form", "precision"), [("fp32", "f32"), ("fp16", "f16"), ("int4", "4-bit")])
def test_a_build_is_gated(world, form, precision):
    baseline, model = world[1], built(world, form)
    assert model.facts.precision == precision
    verdict = judge(measure(model, baseline), limits_for(precision, "tiny"))
    assert verdict.word in ({"PASS", "INCONCLUSIVE"} if form == "int4" else {"PASS"}), verdict.criteria


def test_what_it_computes_is_the_references(world):
    reference, baseline, _ = world
    prompts = baseline.task.prompts()
    model = built(world, "fp32").probed(prompts)
    model.prove(prompts, "head")
    assert model.behind == 1
    for ours, theirs in zip(
        model.activations(prompts, "head").groups, reference.activations(prompts, "head").groups, strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=CLOSE, rtol=0)
    patch = Patch("head", tuple((unit,) for unit in model.layout("head").units), "resample", "answer")
    np.testing.assert_allclose(model.patched(prompts, patch), reference.patched(prompts, patch), atol=2 * CLOSE, rtol=0)


def test_a_graph_that_runs_on_whole_prompts_alone_does(world):
    """The mask of this one takes no position behind a past: the library says so when it is tried."""
    assert built(world, "fp16").probed(world[1].task.prompts()).behind == 0
