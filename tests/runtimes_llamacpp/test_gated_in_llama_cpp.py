"""Releases of every form are gated end to end from disk, by llama.cpp, against a baseline of PyTorch's."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from llama_quantizer import requantized

from circuitcheck import judge, measure
from circuitcheck.verdict.limits import limits_for

FORMS = {
    "F32": ("f16", None),
    "F16": ("f16", None),
    "Q8_0": ("8-bit", 8.0),
    "Q6_K": ("4-bit", 6.0),
    "Q5_0": ("4-bit", 5.0),
    "Q4_K_M": ("4-bit", 4.0),
    "Q4_0": ("4-bit", 4.0),
    "IQ4_NL": ("4-bit", 4.0),
    "F32@kv=f32": ("f32", None),
    "F32@kv=q8_0": ("8-bit", None),
    "Q8_0@kv=q8_0": ("8-bit", 8.0),
    "Q8_0@kv=q4_0": ("4-bit", 8.0),
}
"""File and cache to the precision and at least how many bits must be found."""

FINE = ("F32", "F16", "Q8_0", "F32@kv=f32", "F32@kv=q8_0")
"""A random model is much more sensitive than a trained one: coarser forms may be left open on few prompts."""


@pytest.fixture(scope="module")
def float_file(wide):
    return wide.write("F32")


def gated(wide, wide_baseline, file, variant=""):
    candidate = wide.load(file, variant)
    return candidate, judge(measure(candidate, wide_baseline), limits_for(candidate.facts.precision, "tiny"))


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_gated(wide, wide_baseline, float_file, name):
    form, _, variant = name.partition("@")
    file = float_file if form == "F32" else requantized(float_file, form)
    candidate, verdict = gated(wide, wide_baseline, file, variant)
    precision, bits = FORMS[name]
    census = candidate.facts.census
    assert (candidate.facts.precision, census.claim) == (precision, bits and "gguf")
    assert bits is None or bits <= census.bits < bits + 2
    assert sum(kind.modules for kind in census.before) == len(candidate.weights._tensors)
    assert verdict.criteria
    assert verdict.word in ({"PASS"} if name in FINE else {"PASS", "INCONCLUSIVE"}), verdict
    assert verdict.measurement.environment["libraries"]["llama-cpp-python"]


def test_the_census_counts_types_as_the_quantizer_mixes_them(wide, float_file):
    candidate = wide.load(requantized(float_file, "Q4_K_M"), "")
    kinds = Counter({kind.weight: kind.modules for kind in candidate.facts.census.before})
    assert kinds["Q4_K"] > 0
    assert kinds["Q6_K"] > 0
    assert any("limits follow the coarser of the" in note for note in candidate.facts.notes)


@pytest.fixture(scope="module")
def faults(wide, wide_baseline, float_file):
    """A pruned head, a wrong base of the rotation, and a layer at two bits, all else at eight."""
    layer, head = wide_baseline.measured[np.abs(wide_baseline.importance("resample")).argmax()]
    weight = wide.module.get_parameter(f"model.layers.{layer}.self_attn.o_proj.weight")
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[:, 32 * head : 32 * head + 32] = 0
        pruned = wide.write("Q8_0", "pruned")
        weight.copy_(kept)
    return {
        "pruned head": pruned,
        "rope base": wide.write("Q8_0", "rope", changed={"rope.freq_base": 10.0}),
        "two bits": requantized(float_file, "Q8_0", "two", {r"blk\.0\.(attn|ffn)_.*\.weight": "Q2_K"}),
    }


@pytest.mark.parametrize(
    ("name", "precision"), [("pruned head", "8-bit"), ("rope base", "8-bit"), ("two bits", "4-bit")]
)
def test_a_fault_fails(wide, wide_baseline, faults, name, precision):
    """Two bits in one layer of two are 5 on average, and more damage than 4 bits in both."""
    candidate, verdict = gated(wide, wide_baseline, faults[name])
    assert candidate.facts.precision == precision
    assert verdict.word == "FAIL", verdict
