"""In every architecture that llama.cpp and transformers share, heads are found, and are PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
from llama_pairs import make_pair

from circuitcheck.core.patch import Patch

CLOSE = 5e-5
"""Two libraries sum in other orders, and approximate exponentials otherwise; 2e-5 was seen."""

TABLED = 5e-3
"""llama.cpp looks GELU up in a table of float16, whose steps are 5e-4 of a value; 2e-3 was seen."""

ARCHITECTURES = {
    "llama": ({}, CLOSE),
    "llama-wide-heads": ({}, CLOSE),
    "mistral": ({"sliding_window": None}, CLOSE),
    "qwen2": ({}, CLOSE),
    "qwen3": ({}, CLOSE),
    "olmo2": ({}, CLOSE),
    "phi3": ({}, CLOSE),
    "stablelm": ({}, CLOSE),
    "gpt2": ({}, TABLED),
    "gpt_neox": ({}, TABLED),
    "gemma": ({}, TABLED),
    "starcoder2": ({"sliding_window": None}, TABLED),
}
"""Name to settings (llama.cpp knows no window in these) and how close everything behind the first MLP is."""


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_heads_are_the_same(tmp_path, name):
    settings, close = ARCHITECTURES[name]
    pair = make_pair(tmp_path, name, **settings)
    reference, prompts = pair.reference, pair.task.prompts()
    candidate = pair.load(pair.write("F32")).probed(prompts)
    assert candidate.facts.batch_size is None
    candidate.prove(prompts, "head")
    np.testing.assert_allclose(candidate.metric(prompts), reference.metric(prompts), rtol=0, atol=close)
    found, expected = (model.activations(prompts, "head").groups for model in (candidate, reference))
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=CLOSE)
    np.testing.assert_allclose(found[1], expected[1], rtol=0, atol=close)
    patch = Patch("head", tuple((unit,) for unit in reference.layout("head").units), "resample")
    ours, theirs = (model.patched(prompts, patch) for model in (candidate, reference))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=close)
    tokens = range(0, 50, 3)
    maps = (model.reading("head", tokens).maps for model in (candidate, reference))
    for ours, theirs in zip(*maps, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=CLOSE)
