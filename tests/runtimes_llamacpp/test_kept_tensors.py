"""Keep lists of GGUF files: the reference's linear maps in a copy of the file, in the order in which it keeps them."""

from __future__ import annotations

import numpy as np
import pytest
from llama_pairs import make_pair
from llama_quantizer import requantized

from circuitcheck import judge, measure
from circuitcheck.core.errors import CandidateError
from circuitcheck.diagnostics.keep_list import Keepable, find_keep_list
from circuitcheck.runtimes.llamacpp.kept_tensors import kept_maps
from circuitcheck.verdict.limits import limits_for


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gpt_neox", "phi3"])
def test_maps_are_found_in_whatever_order_a_file_keeps_them(tmp_path, name):
    """What is put into a file of four bits is bit by bit what a file of 32 has."""
    pair = make_pair(tmp_path, name)
    exact, coarse = (pair.load(pair.write(kind)) for kind in ("F32", "Q4_0"))
    with pytest.raises(CandidateError, match="no linear map inside its layers differs"):
        kept_maps(pair.reference, exact.weights)
    maps = kept_maps(pair.reference, coarse.weights)
    assert maps
    for kept in maps.values():
        np.testing.assert_array_equal(kept.matrix, exact.weights.matrix(kept.tensor))


def test_a_file_with_everything_kept_computes_as_the_float_one(wide):
    exact, coarse = wide.load(wide.write("F32")), wide.load(wide.write("Q4_0"))
    assert isinstance(coarse, Keepable)
    prompts, replaceable = wide.task.prompts(), coarse.replaceable(wide.reference)
    assert [len(layer) for layer in replaceable.layers] == [7, 7]
    assert replaceable.output_layer is None
    assert len(replaceable.blocks["attention 1"]) == 4
    assert replaceable.tensors["model.layers.1.mlp.down_proj"] == ("blk.1.ffn_down.weight",)
    before = coarse.metric(prompts)
    with coarse.keeping(wide.reference, replaceable.modules) as kept:
        assert kept.facts == coarse.facts
        moved = np.abs(kept.metric(prompts) - exact.metric(prompts)).max()
    assert moved < 0.02 * np.abs(before - exact.metric(prompts)).max(), "embeddings are float16"
    assert np.array_equal(coarse.metric(prompts), before)


def test_the_layer_that_was_damaged_is_kept(wide, wide_baseline):
    file = requantized(wide.write("F32"), "Q8_0", "damaged", {r"blk\.0\.(attn_output|attn_v)\.weight": "Q2_K"})
    candidate = wide.load(file, "")
    limits = limits_for(candidate.facts.precision, "tiny")

    def judged(model):
        return [judge(measure(model, wide_baseline, curves=False), limits)]

    assert judged(candidate)[0].word != "PASS"
    found = find_keep_list(wide.reference, candidate, judged)
    assert found.verdict == "PASS"
    assert set(found.modules) <= {"model.layers.0.self_attn.o_proj", "model.layers.0.self_attn.v_proj"}
    assert set(found.tensors) <= {"blk.0.attn_output.weight", "blk.0.attn_v.weight"}
    assert found.llama_cpp.startswith("--tensor-type 'blk")
