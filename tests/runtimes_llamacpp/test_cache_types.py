"""The type of llama.cpp's cache is a choice of the release."""

from __future__ import annotations

import numpy as np
import pytest

from circuitcheck.core.errors import ConfigurationError, ModelError
from circuitcheck.runtimes.llamacpp.binding import load_binding
from circuitcheck.runtimes.llamacpp.cache_types import NUMBERS, CacheType, cache_type


def test_the_default_is_llama_cpps():
    assert cache_type("", "mine.gguf") == CacheType("f16")
    parameters = load_binding().llama.llama_context_default_params()
    assert {parameters.type_k, parameters.type_v} == {CacheType().number}


def test_numbers_are_ggmls():
    binding = load_binding()
    assert {name: binding.type_name(number) for name, number in NUMBERS.items()} == {name: name for name in NUMBERS}


@pytest.mark.parametrize("variant", ["kv=q9", "kv=", "ctx=4", "kv=Q8_0"])
def test_an_unknown_variant_is_refused(variant):
    with pytest.raises(ConfigurationError, match=r"mine\.gguf@kv=q8_0; known types are f32, f16, bf16, q8_0"):
        cache_type(variant, "mine.gguf")


@pytest.mark.parametrize(
    ("weights", "cache", "precision"),
    [
        ("f32", "f32", "f32"),
        ("f32", "f16", "f16"),
        ("bf16", "f16", "bf16"),
        ("8-bit", "f16", "8-bit"),
        ("f16", "q8_0", "8-bit"),
        ("8-bit", "q4_0", "4-bit"),
        ("8-bit", "q5_1", "4-bit"),
        ("2-bit", "q4_0", "2-bit"),
    ],
)
def test_limits_follow_the_coarser(weights, cache, precision):
    assert CacheType(cache).beside(weights) == precision


def test_heads_too_narrow_for_a_block_are_refused_by_name(llama):
    with pytest.raises(ModelError, match=r"(?s)a q8_0 cache.*K cache type q8_0 with block size 32 .* n_embd_head_k=16"):
        llama.load(llama.write("F32"), "kv=q8_0")


def test_coarser_caches_change_more(wide):
    """Of heads that are 32 wide, which all of its types take."""
    prompts = wide.task.prompts()
    file = wide.write("F32")
    exact = wide.load(file, "kv=f32").metric(prompts)
    moved = [np.abs(wide.load(file, f"kv={name}").metric(prompts) - exact).max() for name in ("f16", "q8_0", "q4_0")]
    assert 0 < moved[0] < moved[1] < moved[2]
    assert moved[0] < 0.02 * moved[2]
