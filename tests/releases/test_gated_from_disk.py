"""Saved releases in every format are gated end to end from disk, against a baseline whose reference is gone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record
from releases import save_release

from circuitcheck import Baseline, judge, load_model, measure
from circuitcheck.verdict.limits import limits_for

WIDTHS = {"hidden_size": 64, "intermediate_size": 128}
SETTINGS = {"gpt2": {"n_embd": 64}}
PROMPTS = 40

BITS = {
    "f16": ("f16", None, 16.0),
    "bf16": ("bf16", None, 16.0),
    "torchao-int8": ("8-bit", "torchao", 8.0),
    "torchao-int8-weight": ("8-bit", "torchao", 8.0),
    "torchao-float8-weight": ("float8", "torchao", 8.0),
    "torchao-int4": ("4-bit", "torchao", 4.0),
    "compressed-w8a8": ("8-bit", "compressed-tensors", 8.0),
    "compressed-w4a16": ("4-bit", "compressed-tensors", 4.0),
    "compressed-fp8": ("float8", "compressed-tensors", 8.0),
    "bnb-int8": ("8-bit", "bitsandbytes", 8.0),
    "bnb-nf4": ("4-bit", "bitsandbytes", 4.0),
    "gguf-q8_0": ("8-bit", "gguf", 8.0),
    "gguf-q4_0": ("4-bit", "gguf", 4.0),
    "gguf-f16": ("f16", None, 16.0),
    "gguf-bf16": ("bf16", None, 16.0),
}
"""Form to the precision, the claim and the bits that must be found."""

ARCHITECTURES = {
    "llama": list(BITS),
    "gpt_neox": ["f16", "torchao-int8", "compressed-w8a8", "compressed-w4a16", "bnb-nf4"],
    "gpt2": ["bf16", "bnb-int8", "bnb-nf4", "gguf-q8_0", "gguf-q4_0"],
    "qwen2": ["torchao-int4", "compressed-w4a16", "gguf-q8_0", "gguf-f16"],
    "mistral": ["torchao-int8-weight", "compressed-fp8", "bnb-int8"],
}
CASES = [(name, form) for name, forms in ARCHITECTURES.items() for form in forms]

COARSE = ("float8-weight", "compressed-fp8", "int4", "w4a16", "nf4", "q4_0")
PASSING = [form for form in BITS if not form.endswith(COARSE)]
"""A random model is much more sensitive than a trained one: the coarser formats leave verdicts open on 40 prompts."""

SEEN = {"f16": 0.002, "bf16": 0.02, "8-bit": 0.06, "float8": 0.15, "4-bit": 0.5}
"""Largest median drift: what was seen, with room for other machines. float8 has 3 bits of mantissa, so steps of up to
1/16 of a weight; 4 bits with one scale for 64 inputs move weights by 1/15 of the largest, about a fifth of a typical
one."""


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Name to (directory, baseline file), made once each."""
    made: dict[str, tuple[Path, Path]] = {}

    def reference(name: str) -> tuple[Path, Path]:
        if name not in made:
            root = tmp_path_factory.mktemp(name)
            module = tiny_models.tiny_module(name, **SETTINGS.get(name, WIDTHS))
            with torch.no_grad():  # words tell more than what the layers add, as in a trained model
                module.get_input_embeddings().weight.mul_(4)
            module.save_pretrained(root / "reference")
            model = load_model(root / "reference")
            task = tiny_circuits.solvable_task(model, PROMPTS)
            record(model, task).save(root / "baselines")
            made[name] = root / "reference", root / "baselines" / f"{task.name}.json"
        return made[name]

    return reference


@pytest.mark.parametrize(("name", "form"), CASES, ids=[f"{form}-{name}" for name, form in CASES])
def test_a_saved_release_is_gated(references, tmp_path, name, form):
    source, baseline = references(name)
    release = save_release(source, tmp_path / "release", form)
    precision, claim, bits = BITS[form]
    candidate = load_model(release, "saved", reference=source)
    assert (candidate.precision, candidate.census.claim, candidate.census.bits) == (precision, claim, bits)
    assert candidate.census.quantized == (candidate.census.projections if claim else 0)
    assert any("limits follow the" in note for note in candidate.notes) == (claim is not None)

    measurement = measure(candidate, Baseline.load(baseline))
    circuit = measurement.circuit
    assert np.isfinite([unit.drift for unit in circuit.units]).all()
    assert 0 < circuit.drift_median.value < SEEN[precision]
    assert circuit.behaviour_kept.value == 1.0
    verdict = judge(measurement, limits_for(precision, "tiny"))
    assert verdict.criteria
    assert verdict.word in ({"PASS"} if form in PASSING else {"PASS", "INCONCLUSIVE"}), verdict


def test_the_reference_may_be_gone(references, tmp_path):
    """Its directory is renamed away before the candidate is loaded."""
    source, baseline = references("llama")
    copy = shutil.copytree(source, tmp_path / "reference")
    release = save_release(copy, tmp_path / "release", "compressed-w8a8")
    shutil.rmtree(copy)
    measurement = measure(load_model(release, "saved", reference=copy), Baseline.load(baseline))
    assert measurement.circuit.drift_median.value < SEEN["8-bit"]


def test_another_models_release_fails(references, tmp_path):
    """The gate does not pass whatever loads."""
    _, baseline = references("llama")
    tiny_models.tiny_module("llama", seed=5, **WIDTHS).save_pretrained(tmp_path / "other")
    release = save_release(tmp_path / "other", tmp_path / "release", "torchao-int8")
    verdict = judge(measure(load_model(release, "saved"), Baseline.load(baseline)), limits_for("8-bit", "tiny"))
    assert verdict.word == "FAIL"
