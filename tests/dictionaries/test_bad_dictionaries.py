"""A dictionary that cannot be used is an error that names it and the way out, before anything runs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from circuitcheck.core.errors import DictionaryError
from circuitcheck.dictionaries import tensor_file
from circuitcheck.dictionaries.read import read_all, read_dictionaries

GOLDEN = Path(__file__).with_name("golden")


def copied(name: str, folder: Path, **config: Any) -> Path:
    """A golden dictionary with other settings; None takes one away."""
    target = folder / name
    shutil.copytree(GOLDEN / name, target)
    settings = json.loads((target / "cfg.json").read_text())
    for key, value in config.items():
        place = settings["metadata"] if key.startswith("hook_") and "metadata" in settings else settings
        place[key] = value
        if value is None:
            del place[key]
    (target / "cfg.json").write_text(json.dumps(settings))
    return target


def with_arrays(folder: Path, **changed: np.ndarray | None) -> Path:
    found = load_file(folder / "sae_weights.safetensors") | changed
    save_file({name: value for name, value in found.items() if value is not None}, folder / "sae_weights.safetensors")
    return folder


def refusal(path: Path) -> str:
    with pytest.raises(DictionaryError) as caught:
        read_dictionaries(path)
    assert path.name in str(caught.value)
    return " ".join(str(caught.value).split())


SETTINGS = {
    "unknown architecture": ("standard", {"architecture": "temporal"}, "known are standard, topk"),
    "no architecture": ("standard", {"architecture": 7}, "has the architecture '7'"),
    "another place": ("standard", {"hook_name": "blocks.1.mlp.hook_post"}, "cannot be read and written"),
    "between attention and MLP": ("standard", {"hook_name": "blocks.1.hook_resid_mid"}, "hook_resid_post"),
    "no place": ("standard", {"hook_name": None}, "hook point 'None'"),
    "one head": ("standard", {"hook_head_index": 3}, "single head '3'"),
    "width": ("standard", {"d_in": 13}, "W_enc is [12, 24] instead of [13, 24]"),
    "latents": ("standard", {"d_sae": 23}, "b_enc is [24] instead of [23]"),
    "no width": ("standard", {"d_in": None}, "d_in is 'None'"),
    "huge": ("standard", {"d_sae": 10**12}, "d_sae is '1000000000000', but must be a number from 1"),
    "true is no number": ("standard", {"d_in": True}, "d_in is 'True'"),
    "k": ("topk", {"k": 0}, "k is '0', but must be a number from 1 to 24"),
    "no k": ("topk", {"k": None}, "k is 'None'"),
    "normalization": ("standard", {"normalize_activations": "batch_norm"}, "known are none, constant_norm_rescale"),
    "reshaped": ("standard", {"reshape_activations": "hook_z"}, "belongs to heads' values"),
    "says autoencoder": ("transcoder", {"architecture": "standard"}, "is that of an autoencoder"),
    "writes nowhere": ("transcoder", {"hook_name_out": None}, "does not say where it writes"),
    "writes elsewhere": (
        "standard",
        {"hook_name_out": "blocks.1.hook_mlp_out"},
        "from resid_post of layer 1 to mlp_out",
    ),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings(case, tmp_path):
    name, config, said = SETTINGS[case]
    assert said in refusal(copied(name, tmp_path, **config))


def test_a_transcoder_of_two_widths_is_no_autoencoder(tmp_path):
    folder = copied("transcoder", tmp_path, architecture="standard", hook_name_out=None, d_out=None)
    assert "reads 12 numbers and writes 10: it is a transcoder" in refusal(folder)


def test_arrays_are_those_of_the_architecture(tmp_path):
    folder = with_arrays(copied("standard", tmp_path), b_enc=None)
    assert "has no b_enc; it holds 'W_dec', 'W_enc', 'b_dec'" in refusal(folder)
    folder = with_arrays(folder, b_enc=np.zeros(24, np.float32), threshold=np.ones(24, np.float32))
    assert "holds 'threshold', which no dictionary of its architecture has" in refusal(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_are_finite(value, tmp_path):
    folder = with_arrays(copied("standard", tmp_path), b_enc=np.full(24, value, np.float32))
    assert "b_enc holds values that are NaN or infinite" in refusal(folder)


def test_half_precision_is_read(tmp_path):
    folder = copied("standard", tmp_path)
    (whole,) = read_dictionaries(folder)
    with_arrays(folder, **{name: value.astype(np.float16) for name, value in weights(folder).items()})
    (half,) = read_dictionaries(folder)
    assert np.allclose(half.encoder, whole.encoder, atol=1e-3)


def test_bfloat16_is_read_as_torch_reads_it(tmp_path):
    import torch
    from safetensors.torch import load_file as load_torch
    from safetensors.torch import save_file as save_torch

    folder = copied("standard", tmp_path)
    file = folder / "sae_weights.safetensors"
    halved = {name: value.to(torch.bfloat16) for name, value in load_torch(file).items()}
    save_torch(halved, file)
    (found,) = read_dictionaries(folder)
    assert np.array_equal(found.encoder, halved["W_enc"].float().numpy())


def weights(folder: Path) -> dict[str, np.ndarray]:
    return load_file(folder / "sae_weights.safetensors")


def test_pickled_weights_are_never_read(tmp_path):
    folder = copied("standard", tmp_path)
    (folder / "sae_weights.safetensors").rename(folder / "sae_weights.pt")
    assert "pickled weights are never read" in refusal(folder)
    (folder / "cfg.json").unlink()
    assert "holds expected.safetensors" not in (said := refusal(folder))
    assert "sae_weights.pt" in said
    assert "sae.save_model" in said


def test_nothing_there(tmp_path):
    assert "does not exist" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "neither cfg.json with sae_weights.safetensors" in refusal(tmp_path / "empty")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "no table"),
        (b'{"d_in": 12, "d_in": 13}', "stands twice"),
        (b"{", "no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * (2**20 + 1), "at most"),
        (b"\xff\xfe", "no JSON"),
    ],
)
def test_a_configuration_that_is_none(content, said, tmp_path):
    folder = copied("standard", tmp_path)
    (folder / "cfg.json").write_bytes(content)
    assert said in refusal(folder)


def header_of(**entries: Any) -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


BROKEN = {
    "empty": b"",
    "cut": b"\x05\x00",
    "endless header": (2**62).to_bytes(8, "little") + b"{}",
    "no table": header_of()[:8] + b"[]",
    "beyond the file": header_of(a={"dtype": "F32", "shape": [2**33], "data_offsets": [0, 2**35]}),
    "overlapping": header_of(
        a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        b={"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
    )
    + bytes(12),
    "hidden bytes": header_of(a={"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}) + bytes(100),
    "strange type": header_of(a={"dtype": "I64", "shape": [1], "data_offsets": [0, 8]}) + bytes(8),
    "negative": header_of(a={"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]}),
    "no place": header_of(a={"dtype": "F32", "shape": [2]}) + bytes(8),
    "many axes": header_of(a={"dtype": "F32", "shape": [1] * 64, "data_offsets": [0, 4]}) + bytes(4),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_safetensors_file_that_is_none(case, tmp_path):
    folder = copied("standard", tmp_path)
    (folder / "sae_weights.safetensors").write_bytes(BROKEN[case])
    refusal(folder)


def test_no_pipe_and_no_device_is_read(tmp_path):
    for name in ("sae_weights.safetensors", "cfg.json"):
        folder = copied("standard", tmp_path / name)
        (folder / name).unlink()
        os.mkfifo(folder / name)
        refusal(folder)


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "MOST_BYTES", 100)
    assert "at most 100 bytes" in refusal(copied("standard", tmp_path))


def test_a_batchtopk_has_a_threshold(tmp_path):
    folder = with_arrays(copied("batchtopk", tmp_path), topk_threshold=None)
    assert "without a threshold" in refusal(folder)


def circuit_tracer(folder: Path, text: str | None = None) -> Path:
    target = folder / "circuit_tracer"
    shutil.copytree(GOLDEN / "circuit_tracer", target)
    if text is not None:
        (target / "config.yaml").write_text(text)
    return target


HOOKS = "feature_input_hook: mlp.hook_in\nfeature_output_hook: mlp.hook_out\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model_kind: cross_layer_transcoder\n" + HOOKS, "only transcoder_set"),
        (f"model_kind: transcoder_set\n{HOOKS}transcoders: ['hf://a/b/c.safetensors']\n", "nothing is fetched"),
        ("model_kind: transcoder_set\nfeature_input_hook: hook_resid_mid\n", "cannot be read and written"),
        ("model_kind: transcoder_set\nfeature_output_hook: mlp.hook_out\n", "hook point 'None'"),
        ("a: &x [1]\nb: *x\n", "anchors"),
        ("a: !!python/object/apply:os.system ['true']\n", "tags"),
        ("- a\n", "no table"),
        ("a: [\n", "no YAML"),
        ("#" * (2**16 + 1), "at most"),
    ],
)
def test_a_configuration_of_circuit_tracer(text, said, tmp_path):
    folder = circuit_tracer(tmp_path, text)
    assert said in refusal(folder)


def test_circuit_tracer_without_layers(tmp_path):
    folder = circuit_tracer(tmp_path)
    for file in folder.glob("layer_*"):
        file.unlink()
    assert "no layer_N.safetensors" in refusal(folder)


def test_one_dictionary_for_each_hook_point():
    paths = [GOLDEN / "standard", GOLDEN / "topk"]
    with pytest.raises(DictionaryError, match="write at one hook point") as caught:
        read_all(paths)
    assert "resid_post of layer 1" in str(caught.value)
    found = read_all([GOLDEN / "standard", GOLDEN / "circuit_tracer"])
    assert [one.writes.layer for one in found] == [0, 1, 1]


def test_names_of_strangers_command_nothing(tmp_path):
    folder = copied("standard", tmp_path, hook_name="::error::blocks.1\x1b[31m")
    assert "\x1b" not in refusal(folder)
    assert "::error" not in refusal(folder)
