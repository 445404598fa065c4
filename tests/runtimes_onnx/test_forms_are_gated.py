"""Releases of every form that ONNX Runtime makes are gated from disk, and damaged ones fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_graphs
import onnx_releases
import pytest
import tiny_circuits
import tiny_models
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16
from quick_recording import record

from circuitcheck import judge, measure
from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.choose import load_candidate
from circuitcheck.runtimes.onnx.earlier_positions import ANY
from circuitcheck.runtimes.onnx.from_onnx import load_onnx
from circuitcheck.runtimes.onnx.graph import Graph
from circuitcheck.runtimes.onnx.ort_session import Weights, make_session
from circuitcheck.runtimes.onnx.weights import dense, products
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.verdict.limits import limits_for

WIDTHS = {"hidden_size": 64, "intermediate_size": 128}
PROMPTS = 40

FORMS = {
    "float32": ("f32", 32.0),
    "float16": ("f16", 16.0),
    "dynamic": ("8-bit", 8.0),
    "qdq": ("8-bit-static", 8.0),
    "qoperator": ("8-bit-static", 8.0),
    "int8-blocks": ("8-bit", 8.0),
    "int4-blocks": ("4-bit", 4.0),
    "int4-qdq": ("4-bit", 4.0),
    "fp4": ("4-bit", 4.0),
    "nf4": ("4-bit", 4.0),
}
"""Form to the precision and the bits that must be found."""

KERNELS = {
    "dynamic": "MatMulInteger",
    "qdq": "QLinearMatMul",
    "qoperator": "QLinearMatMul",
    "int8-blocks": "MatMulNBits",
    "int4-blocks": "MatMulNBits",
    "int4-qdq": "MatMulNBits",
    "fp4": "MatMulBnb4",
    "nf4": "MatMulBnb4",
}
"""Form to the kernel that must still run behind the cut."""

EIGHT = ("float32", "float16", "dynamic", "qdq", "qoperator", "int8-blocks")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The module, its baseline, and the folder of its releases."""
    module = tiny_models.tiny_module("llama", **WIDTHS)
    with torch.no_grad():  # words tell more than what the layers add, as in a trained model
        module.get_input_embeddings().weight.mul_(4)
    reference = hook_module(module, name="tiny")
    task = tiny_circuits.solvable_task(reference, PROMPTS)
    baseline = record(reference, task)
    folder = tmp_path_factory.mktemp("releases")
    onnx_releases.export(module, folder / "float32.onnx")
    return module, baseline, folder


def released(world, form):
    _, baseline, folder = world
    file = folder / f"{form}.onnx"
    if not file.exists():
        prompts = [pair.clean for pair in baseline.task.pairs]
        onnx_releases.quantize(folder / "float32.onnx", file, form, prompts)
    return file


def verdict_on(file, baseline):
    model = load_onnx(file)
    return judge(measure(model, baseline), limits_for(model.facts.precision, "tiny"))


@pytest.mark.parametrize("form", FORMS)
def test_a_form_is_gated(world, form):
    baseline = world[1]
    model = load_candidate(str(released(world, form)))
    precision, bits = FORMS[form]
    census = model.facts.census
    assert (model.facts.precision, census.bits) == (precision, bits)
    assert census.quantized == (census.projections if bits < 16 else 0)
    notes = " ".join(model.facts.notes)
    assert "and changes nothing else" in notes
    assert KERNELS.get(form, "") in notes
    measurement = measure(model, baseline)
    assert measurement.batch_size == (1 if form == "dynamic" else None)
    verdict = judge(measurement, limits_for(precision, "tiny"))
    assert measurement.circuit.behaviour_kept.value == 1.0
    assert verdict.word in ({"PASS"} if form in EIGHT else {"PASS", "INCONCLUSIVE"}), verdict.criteria


@pytest.mark.parametrize("form", ["dynamic", "qdq", "qoperator", "int8-blocks", "int4-blocks", "int4-qdq"])
def test_weights_are_unpacked_as_they_are_meant(world, form):
    """Each is the float weight of the reference, but for rounding: half a step of the largest in its block."""
    float_graph = load_onnx(released(world, "float32")).runner.network.graph
    graph = load_onnx(released(world, form)).runner.network.graph
    whole, rounded = products(float_graph), products(graph)
    assert len(whole) == len(rounded) == 15
    step = 2.0 ** -(FORMS[form][1] - 1)
    for ours, theirs in zip(whole, rounded, strict=True):
        exact = dense(float_graph, ours)
        # Zeros are whole numbers, too, which moves a weight by up to another half.
        assert np.abs(dense(graph, theirs) - exact).max() <= 1.1 * step * np.abs(exact).max()
        columns = [3, 0]
        np.testing.assert_array_equal(dense(graph, theirs, columns), dense(graph, theirs)[:, columns])


def pruned(module):
    """The most important head of the last layer writes nothing."""
    module.model.layers[1].self_attn.o_proj.weight.data[:, 32:48] = 0


def turned(module):
    """Rotary angles of another base."""
    rotary = module.model.rotary_emb
    rotary.inv_freq.data.copy_(rotary.inv_freq**0.3)


def coarse(module):
    """One layer at two bits."""
    for part in module.model.layers[1].modules():
        if isinstance(part, torch.nn.Linear):
            step = part.weight.data.abs().amax(1, keepdim=True) / 1.5
            part.weight.data.copy_(((part.weight / step - 0.5).round() + 0.5).clamp(-1.5, 1.5) * step)


def badly_wired(module):
    """The unembedding reads through the norm of another place, as a builder once made it."""
    module.model.norm.weight.data.copy_(torch.linspace(-1, 2, 64))


@pytest.mark.parametrize("damage", [pruned, turned, coarse, badly_wired])
def test_a_damaged_release_fails(world, tmp_path, damage):
    from copy import deepcopy

    module, baseline, _ = world
    faulty = deepcopy(module)
    with torch.no_grad():
        damage(faulty)
    verdict = verdict_on(onnx_releases.export(faulty, tmp_path / "faulty.onnx"), baseline)
    assert verdict.word == "FAIL"
    said = " ".join(criterion.message for criterion in verdict.criteria)
    assert ("does not compute the reference's logits" in said) == (damage is badly_wired), said


def test_a_model_with_a_past_is_gated(tmp_path):
    """GroupQueryAttention and a past of keys and values; the wrong norm in front of the output layer is said."""
    module = tiny_models.tiny_module("llama-wide-heads")
    with torch.no_grad():
        module.get_input_embeddings().weight.mul_(4)
    reference = hook_module(module, name="tiny")
    baseline = record(reference, tiny_circuits.solvable_task(reference, PROMPTS))
    file = onnx_graphs.llama_with_past(module, tmp_path / "model.onnx")
    assert verdict_on(file, baseline).word == "PASS"
    model = onnx.load(file)
    scales = {tensor.name: tensor for tensor in model.graph.initializer}
    scales["model.layers.1.end"].CopyFrom(
        onnx.numpy_helper.from_array(np.linspace(-1, 2, 32, dtype=np.float32), "model.layers.1.end")
    )
    onnx.save(model, tmp_path / "wrong.onnx")
    verdict = verdict_on(tmp_path / "wrong.onnx", baseline)
    assert verdict.word == "FAIL"
    assert any("does not compute the reference's logits" in criterion.message for criterion in verdict.criteria)


@pytest.mark.parametrize("form", ["dynamic", "int4-blocks", "nf4"])
def test_what_is_kept_is_the_references(world, form):
    """With every product kept, heads are the reference's again; the words are names of the float graph's nodes."""
    module, baseline, _ = world
    reference = hook_module(module, name="tiny")
    model = load_onnx(released(world, form))
    found = model.replaceable(reference)
    assert [len(layer) for layer in found.layers] == [7, 7]
    names = {node.name for node in onnx.load(released(world, "float32")).graph.node}
    assert {name for found_in in found.nodes.values() for name in found_in} <= names
    prompts = baseline.task.prompts(range(4))
    exact = reference.activations(prompts, "head").groups
    with model.keeping(reference, found.modules) as mended:
        kept = mended.probed(prompts).activations(prompts, "head").groups
    own = model.activations(prompts, "head").groups
    for ours, before, theirs in zip(kept, own, exact, strict=True):
        # Embeddings are still rounded in the dynamic form.
        share = 0.95 if form == "dynamic" else 1e-4
        assert np.abs(ours - theirs).max() < share * np.abs(before - theirs).max() + 1e-5


def test_four_bits_beside_half_precision_behind_a_past_are_gated(world, tmp_path):
    """Float16 with float32 at its ends, as browsers are given it."""
    module, baseline, _ = world
    whole = onnx_releases.export_with_past(module, tmp_path / "whole.onnx")
    rounded = onnx.load(onnx_releases.quantize(whole, tmp_path / "rounded.onnx", "int4-blocks"))
    onnx.save(convert_float_to_float16(rounded, keep_io_types=True), tmp_path / "q4f16.onnx")
    model = load_onnx(tmp_path / "q4f16.onnx").probed(baseline.task.prompts())
    assert (model.facts.precision, model.behind) == ("4-bit", ANY)
    verdict = judge(measure(model, baseline), limits_for("4-bit", "tiny"))
    assert verdict.word in ("PASS", "INCONCLUSIVE")
    assert verdict.measurement.circuit.behaviour_kept.value == 1.0


@pytest.mark.parametrize("kind", [0, 1])
def test_floats_of_four_bits_are_what_the_kernel_takes_them_for(kind):
    """All sixteen codes, an odd number of inputs, and a last block that is not full; the kernel multiplies by ones."""
    rows, width, size = 5, 7, 16
    packed = np.arange(18, dtype=np.uint8) * 37 + 11
    scales = np.array([0.5, 2.0, 3.0], np.float32)
    make, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    node = make("MatMulBnb4", ["x", "w", "s"], ["y"], domain="com.microsoft", K=rows, N=width, block_size=size)
    node.attribute.append(onnx.helper.make_attribute("quant_type", kind))
    constants = [onnx.numpy_helper.from_array(packed, "w"), onnx.numpy_helper.from_array(scales, "s")]
    values = [info(name, onnx.TensorProto.FLOAT, ["rows", size]) for name, size in (("x", rows), ("y", width))]
    graph = onnx.helper.make_graph([node], "product", values[:1], values[1:], constants)
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (made,) = make_session(model, Weights(Path())).run(None, {"x": np.eye(rows, dtype=np.float32)})
    graph = Graph(model, Weights(Path()))
    np.testing.assert_array_equal(dense(graph, products(graph)[0]), made)
    np.testing.assert_array_equal(dense(graph, products(graph)[0], [6, 2]), made[:, [6, 2]])
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(packed[:-1], "w"))
    short = Graph(model, Weights(Path()))
    with pytest.raises(ModelError, match="5 x 7, and holds less"):
        dense(short, products(short)[0])
