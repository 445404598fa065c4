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
        if theirs is not None and path in found.tensors and not path.endswith("experts"):
            assert found.tensors[path] == (f"{theirs}.weight",)
            checked += 1
    assert checked >= len(found.modules) / 2


def exported(name, *, by_tracing):
    onnx = pytest.importorskip("onnx")
    module, ids, content = tiny_models.tiny_module(name, use_cache=False), tiny_models.token_ids(1, 5), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both exporters warn of what becomes of them
        if not by_tracing:
            pytest.importorskip("onnxscript")
            return torch.onnx.export(module, (ids,), dynamo=True, verbose=False).model_proto
        torch.onnx.export(module, (ids,), content, dynamo=False, opset_version=17)
    return onnx.load_from_string(content.getvalue())


@pytest.mark.parametrize(("name", "by_tracing"), [("llama", False), ("opt", True)])
def test_nodes_of_an_exported_graph_are_found(name, by_tracing):
    model, found = exported(name, by_tracing=by_tracing), replaceable(name)
    for path in found.modules:
        written = KeepList((path,), "PASS", 1, nodes=found.nodes[path]).onnxruntime
        chosen = eval(written.removeprefix("nodes_to_exclude="), {"model": model})
        products = [node for node in model.graph.node if node.name in chosen and node.op_type in ("MatMul", "Gemm")]
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
