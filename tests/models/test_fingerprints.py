"""Fingerprints say the same of the same, and another thing of anything else."""

from __future__ import annotations

import hashlib
import json
import shutil

import micro_model
import model_directories
import pytest
import tiny_models
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from circuitcheck.runtimes.pytorch.loading.fingerprint import (
    _canonical_config,
    fingerprint_directory,
    fingerprint_file,
    fingerprint_module,
    fingerprint_tokenizer,
)
from circuitcheck.runtimes.pytorch.loading.load import hook_module, load_model


@pytest.fixture
def directory(tmp_path):
    return model_directories.save_tiny(tmp_path / "tiny")


def of_weights(directory):
    if not (directory / "config.json").exists():
        (directory / "config.json").write_text("{}")
    return fingerprint_directory(directory)


@pytest.mark.parametrize(
    ("key", "value", "counts"),
    [
        ("rotary_pct", 0.5, True),
        ("rope_theta", 5e5, True),
        ("transformers_version", "0.0", False),
        ("dtype", "x", False),
    ],
)
def test_the_configuration_counts_as_far_as_it_is_the_model(directory, key, value, counts):
    before = of_weights(directory)
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    assert (of_weights(directory) != before) == counts


def test_files_give_a_stable_sha256(directory, tmp_path):
    first = of_weights(directory)
    assert len(bytes.fromhex(first)) == 32
    shutil.copytree(directory, tmp_path / "another name")
    assert of_weights(tmp_path / "another name") == first
    assert load_model(directory).fingerprints["weights"] == first
    assert load_model(directory, "f16").fingerprints["weights"] == first


@pytest.mark.parametrize("place", [-1, -1000])
def test_one_byte_of_the_weights_counts(directory, place):
    before = of_weights(directory)
    file = directory / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    assert load_model(directory).fingerprints["weights"] != before


def test_every_shard_counts_and_so_does_their_order(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"one")
    (tmp_path / "b.safetensors").write_bytes(b"two")
    both = of_weights(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"two")
    (tmp_path / "b.safetensors").write_bytes(b"one")
    swapped = of_weights(tmp_path)
    (tmp_path / "b.safetensors").unlink()
    assert len({both, swapped, of_weights(tmp_path)}) == 3


def test_where_a_file_ends_counts(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"on")
    (tmp_path / "b.safetensors").write_bytes(b"etwo")
    first = of_weights(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(b"one")
    (tmp_path / "b.safetensors").write_bytes(b"two")
    assert of_weights(tmp_path) != first


def test_the_configuration_beside_a_gguf_file_counts(tmp_path):
    file = tmp_path / "tiny.gguf"
    file.write_bytes(b"weights")
    found = {fingerprint_file(file)}
    for theta in (1e4, 5e5):
        (tmp_path / "config.json").write_text(json.dumps({"rope_theta": theta}))
        found.add(fingerprint_file(file))
    assert len(found) == 3


def test_models_in_memory_give_a_stable_sha256():
    first = fingerprint_module(tiny_models.tiny_module("llama"))
    assert len(bytes.fromhex(first)) == 32
    assert fingerprint_module(tiny_models.tiny_module("llama")) == first
    assert fingerprint_module(tiny_models.tiny_module("llama", seed=1)) != first
    assert hook_module(tiny_models.tiny_module("llama")).fingerprints == {"weights": first, "tokenizer": "none"}


def changed(module, change):
    change(module)
    return fingerprint_module(module)


def test_every_part_of_a_model_in_memory_counts():
    def with_buffer(value):
        return lambda module: module.register_buffer("scale", torch.tensor(value))

    def least_bit(module):
        module.unembed.bias.data[3] = 1e-45

    def rename(module):
        module.renamed = module.unembed
        del module.unembed

    def reshape(module):
        module.unembed.bias = torch.nn.Parameter(module.unembed.bias[:, None])

    def retype(module):
        module.unembed.bias = torch.nn.Parameter(module.unembed.bias.view(torch.int32), requires_grad=False)

    changes = [
        lambda _: None,
        least_bit,
        rename,
        reshape,
        retype,
        with_buffer(1.0),
        with_buffer(2.0),
        with_buffer(True),
    ]
    found = [changed(micro_model.MicroModel(micro_model.FIRST_LAYER), change) for change in changes]
    assert len(set(found)) == len(changes)


def test_a_fingerprint_is_that_of_the_state_dict_which_is_never_asked_for(monkeypatch):
    """Some quantized models change when they are asked. Names, order and bytes are those of all committed baselines."""
    tied = tiny_models.tiny_module("llama", tie_word_embeddings=True)
    tied.tie_weights()
    tied.model.layers[1] = tied.model.layers[0]  # one layer under two names
    tied.register_buffer("saved", torch.ones(2))
    tied.register_buffer("not_saved", torch.ones(3), persistent=False)
    total = hashlib.sha256(_canonical_config(tied.config.to_diff_dict()))
    for name, tensor in sorted(tied.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + tensor.numpy().tobytes())
    monkeypatch.setattr(torch.nn.Module, "state_dict", lambda *_, **__: pytest.fail("it was asked for"))
    assert fingerprint_module(tied) == total.hexdigest()
    assert hook_module(tied).fingerprints["weights"] == total.hexdigest()


@pytest.mark.filterwarnings("ignore:.*deprecated")
@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16])
def test_weights_that_pytorch_packs_count_too(dtype):
    """They are no parameters: modules of `quantize_dynamic` save them as a tuple of weight and bias."""
    found = {
        fingerprint_module(torch.ao.quantization.quantize_dynamic(tiny_models.tiny_module("llama", seed), dtype=dtype))
        for seed in (0, 0, 1)
    }
    assert len(found) == 2
    plain = tiny_models.tiny_module("llama")
    with torch.no_grad():
        plain.model.layers[1].mlp.down_proj.weight[3, 5] += 0.3
    changed = torch.ao.quantization.quantize_dynamic(plain, dtype=dtype)
    assert fingerprint_module(changed) not in found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_every_float_type_can_be_fingerprinted(dtype):
    module = micro_model.MicroModel(micro_model.FIRST_LAYER)
    before = fingerprint_module(module)
    assert fingerprint_module(module.to(dtype)) != before


def tokenizer(words):
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[0]))
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=words[0])


def test_tokenizers_differ_by_what_splits_a_text():
    first = fingerprint_tokenizer(tokenizer(["<unk>", "one", "two"]))
    assert len(bytes.fromhex(first)) == 32
    assert fingerprint_tokenizer(tokenizer(["<unk>", "one", "two"])) == first
    assert fingerprint_tokenizer(tokenizer(["<unk>", "two", "one"])) != first
    assert fingerprint_tokenizer(tokenizer(["<unk>", "one"])) != first
    assert fingerprint_tokenizer(None) == "none"


def test_a_tokenizer_without_a_fast_backend_is_told_by_its_vocabulary():
    class Slow:
        def __init__(self, words):
            self.words = words

        def get_vocab(self):
            return self.words

    first = fingerprint_tokenizer(Slow({"one": 0, "two": 1}))
    assert fingerprint_tokenizer(Slow({"two": 1, "one": 0})) == first
    assert fingerprint_tokenizer(Slow({"one": 1, "two": 0})) != first


def test_a_saved_tokenizer_keeps_its_fingerprint(directory):
    model_directories.save_word_tokenizer(directory)
    first, second = load_model(directory), load_model(directory)
    assert first.fingerprints == second.fingerprints
    assert first.fingerprints["tokenizer"] != "none"
