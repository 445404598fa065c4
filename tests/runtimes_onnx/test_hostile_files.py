"""Files of strangers: whatever they hold, an error that names the file, in the gate's own process."""

from __future__ import annotations

import shutil

import numpy as np
import onnx
import onnx_releases
import pytest
import tiny_models
from onnx import TensorProto, helper

from circuitcheck.core.errors import CircuitcheckError, ConfigurationError, ModelError, SiteError
from circuitcheck.runtimes.choose import Wanted, choose, load_candidate
from circuitcheck.runtimes.onnx.from_onnx import load_onnx


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound file; tests change copies of it."""
    return onnx_releases.export(tiny_models.tiny_module("llama"), tmp_path_factory.mktemp("sound") / "model.onnx")


def changed(sound, target, change):
    model = onnx.load(sound)
    change(model)
    onnx.save(model, target)
    return target


def small(nodes, target, initializers=(), output="logits"):
    """A graph of a few nodes between token ids and logits."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"])
    graph = helper.make_graph(nodes, "small", [ids], [onnx.ValueInfoProto(name=output)], list(initializers))
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), target)
    return target


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"not a model", b"\x08\x08\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_onnx_file_is_said(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.onnx cannot be read as ONNX"):
        load_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_said(sound, tmp_path, share):
    content = sound.read_bytes()
    (tmp_path / "model.onnx").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match=r"model\.onnx"):
        load_onnx(tmp_path / "model.onnx")


def external(model, location, offset="0", length=None):
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 1000)
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", str(size if length is None else length))):
        tensor.external_data.add(key=key, value=value)


@pytest.mark.parametrize("place", ["../secret", "/etc/passwd", "a/../../secret", "C:\\secret", "..\\secret", "", "\\a"])
def test_weights_outside_the_directory_are_refused(sound, tmp_path, place):
    (tmp_path / "secret").write_bytes(b"\x00" * 100_000)
    folder = tmp_path / "release"
    folder.mkdir()
    file = changed(sound, folder / "model.onnx", lambda model: external(model, place))
    with pytest.raises(ModelError, match="outside the model's directory"):
        load_onnx(file)


@pytest.mark.parametrize(
    ("place", "offset", "length", "said"),
    [
        ("gone", "0", None, "which is no file"),
        (".", "0", None, "which is no file"),
        ("data", "999999", None, "reaches beyond the end"),
        ("data", "-8", None, "reaches beyond the end"),
        ("data", "0", 10**15, "reaches beyond the end"),
        ("data", "0", 8, "has 8 bytes and needs"),
    ],
)
def test_weights_that_are_not_there_are_said(sound, tmp_path, place, offset, length, said):
    (tmp_path / "data").write_bytes(b"\x00" * 100_000)
    file = changed(sound, tmp_path / "model.onnx", lambda model: external(model, place, offset, length))
    with pytest.raises(ModelError, match=said):
        load_onnx(file)


@pytest.mark.parametrize("sizes", [(10**9, 10**9), (-1,), (3, 5)])
def test_a_tensor_that_says_another_size_is_refused(sound, tmp_path, sizes):
    def lie(model):
        tensor = next(tensor for tensor in model.graph.initializer if len(tensor.raw_data) > 1000)
        del tensor.dims[:]
        tensor.dims.extend(sizes)

    with pytest.raises(ModelError, match="bytes and needs"):
        load_onnx(changed(sound, tmp_path / "model.onnx", lie))


def test_a_graph_that_makes_huge_tensors_does_not_take_the_gates_memory(tmp_path):
    """Terabytes, from a shape of sixteen bytes."""
    shape = helper.make_tensor("shape", TensorProto.INT64, [2], [10**6, 10**6])
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"], keepdims=0),
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["floats", "sum"], ["logits"]),
    ]
    with pytest.raises(ModelError):
        load_onnx(small(nodes, tmp_path / "model.onnx", [shape]))


def test_a_cycle_is_said(tmp_path):
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["floats", "second"], ["first"]),
        helper.make_node("Softmax", ["first"], ["second"]),
        helper.make_node("Identity", ["second"], ["logits"]),
    ]
    with pytest.raises(ModelError, match="ONNX Runtime refuses the model"):
        load_onnx(small(nodes, tmp_path / "model.onnx"))


def test_an_operator_of_somebody_elses_is_not_looked_for(tmp_path):
    nodes = [helper.make_node("Evil", ["input_ids"], ["logits"], domain="com.somebody")]
    with pytest.raises(ModelError, match="ONNX Runtime refuses the model"):
        load_onnx(small(nodes, tmp_path / "model.onnx"))


def test_a_graph_without_attention_is_refused_by_name(tmp_path):
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Softmax", ["floats"], ["logits"]),
    ]
    with pytest.raises(SiteError, match="no attention that can be found"):
        load_onnx(small(nodes, tmp_path / "model.onnx"))


def test_inputs_that_are_not_known_are_named(sound, tmp_path):
    def rename(model):
        for node in model.graph.node:
            node.input[:] = ["mystery" if name == "attention_mask" else name for name in node.input]
        next(one for one in model.graph.input if one.name == "attention_mask").name = "mystery"

    with pytest.raises(ModelError, match="mystery"):
        load_onnx(changed(sound, tmp_path / "model.onnx", rename))


def test_a_fixed_length_is_said(sound, tmp_path):
    def fix(model):
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 5

    with pytest.raises(ModelError, match="dynamic axes"):
        load_onnx(changed(sound, tmp_path / "model.onnx", fix))


def test_a_file_that_was_cut_already_is_refused(sound, tmp_path):
    model = load_onnx(sound)
    cut = model.runner.cut("head")
    onnx.save(cut, tmp_path / "model.onnx")
    with pytest.raises(CircuitcheckError):
        load_onnx(tmp_path / "model.onnx")


def test_weights_in_another_file_are_read(sound, tmp_path):
    """As they are kept of models that are larger than a protobuf can be; they are part of the fingerprint."""
    model = onnx.load(sound)
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="model.onnx_data", size_threshold=0)
    found, whole = load_onnx(tmp_path), load_onnx(sound)
    ids = np.arange(12).reshape(2, 6) % 10
    np.testing.assert_array_equal(found.runner.probe(ids), whole.runner.probe(ids))
    tokens = [1, 5]
    np.testing.assert_array_equal(found.reading("head", tokens).maps[0], whole.reading("head", tokens).maps[0])
    before = found.facts.fingerprints["weights"]
    data = bytearray((tmp_path / "model.onnx_data").read_bytes())
    data[-1] ^= 1
    (tmp_path / "model.onnx_data").write_bytes(data)
    assert load_onnx(tmp_path).facts.fingerprints["weights"] != before


def test_a_directory_with_several_files_is_refused(sound, tmp_path):
    (tmp_path / "onnx").mkdir()
    for name in ("model.onnx", "model_q4.onnx"):
        shutil.copyfile(sound, tmp_path / "onnx" / name)
    with pytest.raises(ModelError, match=r"model\.onnx, onnx/model_q4\.onnx; name one of them"):
        load_candidate(str(tmp_path))
    (tmp_path / "onnx" / "model_q4.onnx").unlink()
    assert load_candidate(str(tmp_path)).facts.name == tmp_path.name


def test_it_runs_in_onnx_runtime_and_in_nothing_else(tmp_path):
    kind, notes = choose(Wanted(str(tmp_path / "model.onnx")))
    assert (kind.title, notes) == ("ONNX Runtime", ())
    with pytest.raises(ConfigurationError, match="nothing that PyTorch runs"):
        choose(Wanted(str(tmp_path / "model.onnx")), "pytorch")
    with pytest.raises(ModelError, match="no ONNX file"):
        load_candidate(str(tmp_path / "model.onnx"))
