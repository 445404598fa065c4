"""In every architecture that llama.cpp and transformers share, units are found, and are PyTorch's."""

from __future__ import annotations

import numpy as np
import pytest
from llama_pairs import make_pair

from circuitcheck.core.errors import SiteError
from circuitcheck.core.patch import Patch

CLOSE = 5e-5
"""Two libraries sum in other orders, and approximate exponentials otherwise; 2e-5 was seen."""

TABLED = 1e-2
"""llama.cpp looks GELU up in a table of float16, whose steps are 5e-4 of a value; 4.6e-3 was seen, of values of 5."""

EXPERTS = "blk.0.ffn_down_exps.weight"

ARCHITECTURES = {
    "llama": ({}, CLOSE),
    "llama-wide-heads": ({}, CLOSE),
    "mistral": ({"sliding_window": None}, CLOSE),
    "mixtral-routed": ({}, CLOSE),
    "qwen2": ({}, CLOSE),
    "qwen3": ({}, CLOSE),
    "olmo2": ({}, CLOSE),
    "phi3": ({}, CLOSE),
    "stablelm": ({}, CLOSE),
    "gpt2": ({}, TABLED),
    "gpt_neox": ({}, TABLED),
    "gemma": ({}, TABLED),
    "gemma2": ({"query_pre_attn_scalar": 16}, TABLED),
    "starcoder2": ({"sliding_window": None}, TABLED),
}
"""Name to settings (llama.cpp knows no window in these) and how close everything behind the first MLP is."""


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request, tmp_path_factory):
    settings, close = ARCHITECTURES[request.param]
    pair = make_pair(tmp_path_factory.mktemp(request.param), request.param, **settings)
    candidate = pair.load(pair.write("F32")).probed(pair.task.prompts())
    return pair.reference, candidate, pair.task.prompts(), close


def test_the_metric_is_the_same(pair):
    reference, candidate, prompts, close = pair
    assert candidate.facts.batch_size is None
    np.testing.assert_allclose(candidate.metric(prompts), reference.metric(prompts), rtol=0, atol=close)


@pytest.mark.parametrize("kind", ["head", "block", "neuron"])
def test_units_are_the_same(pair, kind):
    reference, candidate, prompts, close = pair
    if kind == "neuron" and candidate.weights.has(EXPERTS):
        with pytest.raises(SiteError, match="are head, block, not 'neuron'"):
            candidate.layout(kind)
        return
    candidate.prove(prompts, kind)
    assert candidate.layout(kind) == reference.layout(kind)
    found, expected = (model.activations(prompts, kind).groups for model in (candidate, reference))
    np.testing.assert_allclose(found[0], expected[0], rtol=0, atol=close if kind == "neuron" else CLOSE)
    for ours, theirs in zip(found[1:], expected[1:], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=close)
    patch = Patch(kind, tuple((unit,) for unit in reference.layout(kind).units), "resample")
    ours, theirs = (model.patched(prompts, patch) for model in (candidate, reference))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=close)
    tokens = range(0, 50, 3)
    maps = (model.reading(kind, tokens).maps for model in (candidate, reference))
    for ours, theirs in zip(*maps, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=CLOSE)
