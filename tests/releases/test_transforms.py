"""Releases that carry compressed-tensors' transforms: accepted where the weights hold them, else refused by name."""

from __future__ import annotations

import json
import shutil

import model_directories
import pytest
import releases
import tiny_models
import torch
from safetensors.torch import load_file, save_file

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.loading.claims import require_transforms
from circuitcheck.runtimes.pytorch.loading.load import load_model
from circuitcheck.runtimes.pytorch.loading.source import Source
from circuitcheck.runtimes.pytorch.quiet import quiet, quiet_quantizers

R2 = (("R2", "re:.*v_proj$", "weight_output", "8", False), ("R2", "re:.*o_proj$", "weight_input", "8", True))
V = (("v", "Linear", "input", "8", False), ("v", "Linear", "weight_input", "8", True))
U = (("u", "re:.*o_proj$", "weight_output", "8", False), ("u", "re:.*o_proj$", "output", "8", True))
R3 = (("R3", "re:.*self_attn$", "q_attn", "8", False), ("R3", "re:.*self_attn$", "k_cache", "8", False))
MATRICES = ("_input.weight", "_output.weight", "_attn.weight")
IDS = tiny_models.token_ids(2, 7)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return model_directories.save_tiny(tmp_path_factory.mktemp("reference") / "llama", "llama")


def transformed(reference, directory, *groups):
    with quiet_quantizers(), quiet():
        return releases.save_transformed(reference, directory, *groups)


def logits(model):
    with torch.no_grad():
        return model.module(IDS).logits


def refusal(directory) -> str:
    with pytest.raises(ModelError) as refused:
        load_model(directory, "saved")
    return str(refused.value)


def test_a_rotated_float_release_is_taken_as_what_it_is(reference, tmp_path):
    """It says `quant_method: compressed-tensors`, and nothing in it is quantized."""
    plain = load_model(reference, "f32")
    model = load_model(transformed(reference, tmp_path / "r2", *R2), "saved")
    torch.testing.assert_close(logits(model), logits(plain), rtol=0, atol=1e-4)
    projection = model.structure.layers[0].projection
    rotated, own = (one.module.get_submodule(projection).weight for one in (model, plain))
    assert (rotated - own).abs().max() > 0.1
    assert model.precision == "f32"
    assert model.census.claim is None
    assert model.notes == (
        "Its quantization_config (compressed-tensors) quantizes nothing; transforms that its weights hold: 'R2'. It is "
        "measured as the float release that it is.",
    )
    assert load_model(tmp_path / "r2", "int8-rtn").precision == "int8-rtn", "it was not quantized before"


@pytest.mark.parametrize(
    "claim",
    [
        {},
        {"format": "dense", "config_groups": {}},
        {"format": "dense", "config_groups": {}, "quantization_status": "compressed", "transform_config": {}},
        {"transform_config": {"config_groups": [1]}},
        {"transform_config": {"config_groups": {"a": 1, "b": {"apply": [2, {"location": 3}]}, "c": {"apply": 4}}}},
    ],
)
def test_a_config_that_quantizes_nothing_is_no_claim(reference, tmp_path, claim):
    directory = shutil.copytree(reference, tmp_path / "release")
    model_directories.change_config(directory, quantization_config={"quant_method": "compressed-tensors", **claim})
    model = load_model(directory, "saved")
    assert torch.equal(logits(model), logits(load_model(reference, "f32")))
    assert model.notes == (
        "Its quantization_config (compressed-tensors) quantizes nothing. It is measured as the float release that it "
        "is.",
    )


@pytest.mark.parametrize(
    ("groups", "named"),
    [
        (V, "'v' at 'input'"),
        (U, "'u' at 'output'"),
        ((*V, *U), "'v' at 'input', 'u' at 'output'"),
        ((*R2, *R3), "'R3' at 'q_attn', 'R3' at 'k_cache'"),
    ],
    ids=["quip-v", "quip-u", "quip-vu", "r3"],
)
@pytest.mark.parametrize("with_weights", [True, False])
def test_transforms_of_activations_are_refused_by_name(reference, tmp_path, groups, named, with_weights):
    """Also where the file lacks the matrices: it then has every key that it should, and computes something else."""
    directory = transformed(reference, tmp_path / "release", *groups)
    if not with_weights:
        file = directory / "model.safetensors"
        tensors = load_file(file)
        kept = {name: tensor for name, tensor in tensors.items() if not name.endswith(MATRICES)}
        assert len(kept) < len(tensors)
        save_file(kept, file, metadata={"format": "pt"})
    message = refusal(directory)
    assert sorted(named.split(", ")) == sorted(message.partition("transform_config: ")[2].partition(")")[0].split(", "))
    assert "transforms activations while it runs" in message
    assert "hook_module(model)" in message


def test_a_quantized_release_with_transforms_of_activations_is_refused_by_name(reference, tmp_path):
    directory = releases.save_release(reference, tmp_path / "release", "compressed-w8a8")
    file = directory / "config.json"
    config = json.loads(file.read_text())
    apply = [{"targets": ["Linear"], "location": "input", "inverse": False, "ignore": ["lm_head"]}]
    config["quantization_config"]["transform_config"] = {"config_groups": {"v": {"type": "hadamard", "apply": apply}}}
    file.write_text(json.dumps(config))
    assert "transforms activations while it runs (transform_config: 'v' at 'input')" in refusal(directory)
    apply[0]["location"] = "weight_input"
    file.write_text(json.dumps(config))
    assert load_model(directory, "saved").precision == "8-bit"


def test_transforms_that_a_newer_transformers_applies_are_no_reason_to_refuse(reference, tmp_path):
    from compressed_tensors.transform import TransformConfig, apply_transform_config

    directory = transformed(reference, tmp_path / "release", *V)
    found = json.loads((directory / "config.json").read_text())["quantization_config"]["transform_config"]
    module = releases.load_float(reference)
    with pytest.raises(ModelError, match="transforms activations"):
        require_transforms(Source(directory), module)
    with torch.no_grad(), quiet_quantizers(), quiet():
        apply_transform_config(module, TransformConfig.model_validate(found))
    require_transforms(Source(directory), module)
