"""What was really loaded is proven: what lost something, exists twice or claims too much is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import model_directories
import pytest
import releases
import tiny_models
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.loading.load import load_model
from circuitcheck.runtimes.pytorch.quiet import quiet_quantizers


@pytest.fixture(scope="module")
def references(tmp_path_factory):
    """Architecture to the directory of a tiny reference."""
    root = tmp_path_factory.mktemp("references")
    return {name: model_directories.save_tiny(root / name, name) for name in ("llama", "gpt2", "gpt_neox")}


@pytest.fixture(scope="module")
def saved(references, tmp_path_factory):
    """Saves each form of the Llama once, and hands out copies to spoil."""
    root = tmp_path_factory.mktemp("saved")

    def copy(form: str, target: Path) -> Path:
        if not (root / form).exists():
            releases.save_release(references["llama"], root / form, form)
        return shutil.copytree(root / form, target)

    return copy


def refusal(source, precision: str = "saved", **options) -> str:
    with pytest.raises(ModelError) as refused:
        load_model(source, precision, **options)
    return str(refused.value)


def change_tensors(directory: Path, change) -> None:
    """With the metadata that torchao keeps in the file."""
    file = directory / "model.safetensors"
    with safe_open(file, "pt") as content:
        metadata = content.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata=metadata)


# --- keys ------------------------------------------------------------------------------------------------------------


def save_quanto(reference: Path, directory: Path) -> Path:
    """As optimum-quanto's own state dict, beside the claim that transformers knows."""
    quanto = pytest.importorskip("optimum.quanto")
    with quiet_quantizers():
        module = releases.load_float(reference)
        quanto.quantize(module, weights=quanto.qint8)
        quanto.freeze(module)
        shutil.copytree(reference, directory)
        tensors = {name: tensor.contiguous().clone() for name, tensor in module.state_dict().items()}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    model_directories.change_config(directory, quantization_config={"quant_method": "quanto", "weights": "int8"})
    return directory


def test_a_saved_quanto_release_is_refused(references, tmp_path):
    """Transformers loads it with random weights and raises nothing."""
    directory = save_quanto(references["llama"], tmp_path / "quanto")
    with quiet_quantizers():
        module = releases.load_float(directory)
        ids = tiny_models.token_ids(1, 5)
        with torch.no_grad():
            assert not torch.allclose(module(ids).logits, releases.load_float(references["llama"])(ids).logits, atol=1)
    message = refusal(directory)
    assert "does not fit its config.json: missing keys: " in message
    assert "unexpected keys: " in message


FORMS = ["torchao-int8", "torchao-int4", "compressed-w8a8", "compressed-w4a16", "bnb-int8", "bnb-nf4"]


@pytest.mark.parametrize("form", FORMS)
def test_a_missing_norm_is_refused_by_name(saved, tmp_path, form):
    directory = saved(form, tmp_path / "release")
    change_tensors(directory, lambda tensors: tensors.pop("model.norm.weight"))
    assert "does not fit its config.json: missing keys: model.norm.weight" in refusal(directory)


@pytest.mark.parametrize("form", FORMS)
def test_an_unexpected_tensor_is_refused_by_name(saved, tmp_path, form):
    directory = saved(form, tmp_path / "release")
    change_tensors(directory, lambda tensors: tensors.update({"model.extra.weight": torch.zeros(2)}))
    assert "does not fit its config.json: unexpected keys: model.extra.weight" in refusal(directory)


@pytest.mark.parametrize(
    ("form", "part"),
    [
        ("torchao-int8", "_weight_qdata"),
        ("torchao-int8", "_weight_scale"),
        ("compressed-w8a8", "weight"),
        ("compressed-w8a8", "weight_scale"),
        ("compressed-w4a16", "weight_packed"),
        ("bnb-int8", "weight"),
        ("bnb-int8", "SCB"),
        ("bnb-nf4", "weight.absmax"),
        ("bnb-nf4", "weight.quant_state.bitsandbytes__nf4"),
    ],
)
def test_no_part_of_a_quantized_weight_may_be_missing(saved, tmp_path, form, part):
    directory = saved(form, tmp_path / "release")
    change_tensors(directory, lambda tensors: tensors.pop(f"model.layers.1.self_attn.q_proj.{part}"))
    assert f"model in {directory}" in refusal(directory)


# --- claims ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["torchao-int8", "torchao-int4"])
def test_gpt2_that_torchao_left_alone_is_refused(references, tmp_path, form):
    """Its `Conv1D` is no `Linear`; the release claims to be quantized, and every weight in it is float32."""
    directory = releases.save_release(references["gpt2"], tmp_path / "release", form)
    assert "claims to be quantized by torchao, but its files hold F32 weights only" in refusal(directory)


def test_gpt2_whose_unembedding_alone_is_quantized_is_refused(saved, references, tmp_path):
    """Its files do hold int8, but in no layer."""
    directory = shutil.copytree(references["gpt2"], tmp_path / "release")
    group = {
        "targets": ["re:.*lm_head"],
        "format": "int-quantized",
        "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
    }
    config = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": [],
    }
    model_directories.change_config(directory, quantization_config=config, tie_word_embeddings=False)
    scale = torch.full((tiny_models.VOCABULARY, 1), 0.01)
    codes = torch.ones(tiny_models.VOCABULARY, 32, dtype=torch.int8)
    change_tensors(directory, lambda tensors: tensors.update({"lm_head.weight": codes, "lm_head.weight_scale": scale}))
    message = refusal(directory)
    assert "claims to be quantized by compressed-tensors, but none of its 8 projections is" in message
    assert "Conv1D in float32" in message


def test_a_claim_beside_float_weights_is_refused(references, tmp_path):
    """bitsandbytes would quantize them while it loads, and something that nobody released would be measured."""
    directory = shutil.copytree(references["llama"], tmp_path / "release")
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    model_directories.change_config(directory, quantization_config=config)
    assert "claims to be quantized by bitsandbytes, but its files hold F32 weights only" in refusal(directory)


def test_a_claim_of_other_bits_is_refused(saved, tmp_path):
    directory = saved("bnb-int8", tmp_path / "release")
    file = directory / "config.json"
    config = json.loads(file.read_text())
    config["quantization_config"] |= {"load_in_8bit": True, "bits": 4}
    file.write_text(json.dumps(config))
    load_model(directory, "saved")
    config["quantization_config"] |= {"quant_method": "unheard-of", "load_in_8bit": False}
    file.write_text(json.dumps(config))
    assert f"model in {directory}" in refusal(directory)


def test_a_method_that_transformers_does_not_know_is_refused(references, tmp_path):
    """It is loaded as if it claimed nothing."""
    directory = shutil.copytree(references["llama"], tmp_path / "release")
    model_directories.change_config(directory, quantization_config={"quant_method": "unheard-of"})
    assert "claims to be quantized by unheard-of, but its files hold F32 weights only" in refusal(directory)


@pytest.mark.parametrize("precision", ["int8-rtn", "int8-sim", "bnb-nf4"])
def test_a_quantized_release_is_not_quantized_again(saved, tmp_path, precision):
    directory = saved("torchao-int8", tmp_path / "release")
    assert f"is already quantized (torchao), so {precision} cannot be made from it" in refusal(directory, precision)


# --- loaders that are missing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "package", "extra"),
    [
        ("torchao-int8", "torchao", "torchao"),
        ("compressed-w8a8", "compressed_tensors", "compressed-tensors"),
        ("bnb-nf4", "bitsandbytes", "bitsandbytes"),
        ("bnb-nf4", "accelerate", "bitsandbytes"),
        ("gguf-q8_0", "accelerate", "gguf"),
    ],
)
def test_a_missing_loader_is_named_with_its_extra(saved, tmp_path, monkeypatch, form, package, extra):
    directory = saved(form, tmp_path / "release")
    found = __import__("importlib.util").util.find_spec
    module = "circuitcheck.runtimes.pytorch.loading.transformers_loader.find_spec"
    monkeypatch.setattr(module, lambda name: None if name == package else found(name))
    assert refusal(directory).endswith(f'needs {extra}: pip install "circuitcheck[{extra}]".')


def test_a_loader_that_cannot_be_imported_is_named_with_its_error(saved, tmp_path, monkeypatch):
    def fails(name):
        raise OSError(f"lib{name}.so is of another version")

    directory = saved("compressed-w8a8", tmp_path / "release")
    monkeypatch.setattr("circuitcheck.runtimes.pytorch.loading.transformers_loader.import_module", fails)
    assert refusal(directory).endswith(
        "needs compressed-tensors, which fails here: libcompressed_tensors.so is of another version"
    )


@pytest.mark.parametrize(("method", "needed"), [("gptq", "gptq"), ("awq", "gptqmodel|autoawq|awq")])
def test_other_loaders_are_named_as_transformers_names_them(references, tmp_path, method, needed):
    directory = shutil.copytree(references["llama"], tmp_path / "release")
    model_directories.change_config(
        directory, quantization_config={"quant_method": method, "bits": 4, "group_size": 32}
    )
    packed = torch.zeros(4, 32, dtype=torch.int32)
    change_tensors(directory, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.codes": packed}))
    message = refusal(directory)
    assert f"({method}) needs a package that is not installed" in message
    assert any(name in message for name in needed.split("|"))


# --- weights that exist twice ----------------------------------------------------------------------------------------


def test_one_file_beside_shards_is_refused(references, tmp_path):
    """Transformers takes the one file, and says nothing of the shards."""
    directory = shutil.copytree(references["llama"], tmp_path / "release")
    module = tiny_models.tiny_module("llama", seed=1)
    module.save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    for file in (tmp_path / "shards").glob("model*"):
        shutil.copy(file, directory)
    message = refusal(directory)
    assert "holds weights twice" in message
    assert "(in model-00001-of-" in message


def test_shards_alone_are_loaded(tmp_path):
    tiny_models.tiny_module("llama").save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert load_model(tmp_path / "shards", "saved").precision == "f32"


def test_one_tensor_in_two_shards_is_refused(tmp_path):
    directory = tmp_path / "shards"
    tiny_models.tiny_module("llama").save_pretrained(directory, max_shard_size="20KB")
    first, second, *_ = sorted(directory.glob("*.safetensors"))
    name, tensor = next(iter(load_file(first).items()))
    save_file(load_file(second) | {name: tensor * 2}, second, metadata={"format": "pt"})
    assert f"{name} (in {first.name} and {second.name})" in refusal(directory)


def test_a_plain_weight_beside_a_packed_one_is_refused(saved, tmp_path):
    directory = saved("compressed-w4a16", tmp_path / "release")
    name = "model.layers.0.self_attn.q_proj.weight"
    change_tensors(directory, lambda tensors: tensors.update({name: torch.zeros(32, 32)}))
    assert f"{name} (also as weight_packed)" in refusal(directory)


def test_a_gguf_file_beside_safetensors_is_refused(saved, references, tmp_path):
    directory = saved("gguf-q8_0", tmp_path / "release")
    shutil.copytree(references["llama"], directory, dirs_exist_ok=True)
    assert "holds its weights twice: as safetensors, and as gguf-q8_0.gguf" in refusal(directory)
    assert load_model(directory / "gguf-q8_0.gguf", "saved").precision == "8-bit"


# --- re-saved releases -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["compressed-w8a8", "compressed-w4a16", "compressed-fp8"])
@pytest.mark.parametrize("was_run", [False, True])
def test_a_release_that_was_saved_again_is_the_same_or_is_refused(saved, tmp_path, form, was_run):
    """The first pass unpacks compressed-tensors' weights; what is saved after that is float and claims not to be."""
    directory = saved(form, tmp_path / "release")
    ids = tiny_models.token_ids(1, 5)
    with quiet_quantizers(), torch.no_grad():
        module = releases.load_float(directory)
        if was_run:
            module(ids)
        module.save_pretrained(tmp_path / "again")
        expected = module(ids).logits
    if was_run:
        message = refusal(tmp_path / "again")
        assert "claims to be quantized by compressed-tensors, but its files hold F32" in message
        return
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "again", "saved").module(ids).logits, expected)
