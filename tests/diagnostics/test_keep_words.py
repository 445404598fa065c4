"""What other programs call the projections to keep: held against llama.cpp's own names and against exported graphs."""

from __future__ import annotations

import io
import re
import warnings

import pytest
import tiny_circuits
import tiny_models
import torch

from circuitcheck.diagnostics.keep_list import KeepList
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn

ARCHITECTURES = {
    "gpt_neox": "GPTNEOX",
    "gpt2": "GPT2",
    "gptj": "GPTJ",
    "llama": "LLAMA",
    "qwen2_moe": "QWEN2MOE",
    "phi": "PHI2",
    "phi3": "PHI3",
    "opt": "OPT",
    "falcon": "FALCON",
    "bloom": "BLOOM",
    "mpt": "MPT",
    "stablelm": "STABLELM",
    "starcoder2": "STARCODER2",
    "gemma2": "GEMMA2",
    "olmo2": "OLMO2",
    "cohere": "COMMAND_R",
}
"""Tiny model to llama.cpp's name of its architecture."""


def replaceable(name):
    reference = tiny_models.tiny_model(name)
    coarse = tiny_circuits.copy_of(reference)
    quantize_rtn(coarse.module, coarse.structure, 2)
    return coarse.replaceable(reference)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_tensors_are_called_as_llama_cpp_calls_them(name):
    gguf = pytest.importorskip("gguf")
    architecture = getattr(gguf.MODEL_ARCH, ARCHITECTURES[name], None)
    if architecture is None:
        pytest.skip(f"this version of gguf does not know {ARCHITECTURES[name]}")
    known, found = gguf.get_tensor_name_map(architecture, 2), replaceable(name)
    checked = 0
    for path in found.modules:
        theirs = known.get_name(path)
        if theirs is not None:
            assert found.tensors[path] == (f"{theirs}.weight",)
            checked += 1
    assert checked >= len(found.modules) / 2


@pytest.mark.parametrize("name", ["llama", "gpt_neox", "opt"])
def test_nodes_of_an_exported_graph_are_found_by_what_their_names_hold(name):
    onnx = pytest.importorskip("onnx")
    module, found, content = tiny_models.tiny_module(name, use_cache=False), replaceable(name), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter by tracing, which optimum uses, is called old
        torch.onnx.export(module, (tiny_models.token_ids(1, 5),), content, dynamo=False)
    model = onnx.load_from_string(content.getvalue())
    for path in found.modules:
        written = KeepList((path,), "PASS", 1, nodes=(found.nodes[path],)).onnxruntime
        chosen = eval(written.removeprefix("nodes_to_exclude="), {"model": model})
        products = [
            node.name for node in model.graph.node if node.name in chosen and node.op_type in ("MatMul", "Gemm")
        ]
        assert len(products) == 1, path


def test_the_words_of_each_program():
    keep = KeepList(
        ("model.layers.3.mlp.down_proj",),
        "PASS",
        1,
        "lm_head",
        tensors=("blk.3.ffn_down.weight",),
        nodes=("/layers.3/mlp/down_proj/",),
    )
    assert keep.llama_cpp == r"--tensor-type 'blk\.3\.ffn_down\.weight=f16'"
    pattern = re.search("'(.*)=f16'", keep.llama_cpp)[1]
    assert re.search(pattern, "blk.3.ffn_down.weight")
    assert not re.search(pattern, "blk.13.ffn_down.weight")
    assert not re.search(pattern, "blk.3.ffn_down_exps.weight")
    assert keep.compressed_tensors == 'ignore=["lm_head", "model.layers.3.mlp.down_proj"]'
    assert KeepList((), "FAIL", 2, message="in vain").onnxruntime == ""
