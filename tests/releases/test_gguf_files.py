"""GGUF files: found, read back exactly, and completed only from where their makers would expect it."""

from __future__ import annotations

import json
import shutil
import struct

import gguf_writer
import model_directories
import numpy as np
import pytest
import tiny_models
import torch

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.loading.gguf import read_gguf
from circuitcheck.runtimes.pytorch.loading.load import load_model, model_name

WORDS = ["<unk>", "<eos>", *(f"w{number}" for number in range(2, tiny_models.VOCABULARY))]
"""Those of the tokenizer in model_directories."""


@pytest.fixture(scope="module")
def llama():
    return tiny_models.tiny_module("llama")


@pytest.fixture(scope="module")
def reference(llama, tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "reference"
    llama.save_pretrained(directory)
    model_directories.save_word_tokenizer(directory)
    return directory


def refusal(source, **options) -> str:
    with pytest.raises(ModelError) as refused:
        load_model(source, "saved", **options)
    return str(refused.value)


@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_a_float32_file_is_read_back_bit_by_bit(tmp_path, name):
    """So that a row that is stored in another order, or a matrix that is stored transposed, would show."""
    module = tiny_models.tiny_module(name)
    file = gguf_writer.write_gguf(module, tmp_path / "model.gguf", "F32", tokens=WORDS)
    module.save_pretrained(tmp_path / "reference")
    loaded = load_model(file, "saved", reference=tmp_path / "reference")
    expected = module.state_dict()
    found = loaded.module.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())
    assert (loaded.precision, loaded.census.claim) == ("f32", None)


@pytest.mark.parametrize(("kind", "bits"), [("Q8_0", 8), ("Q4_0", 4), ("Q5_0", 5), ("Q4_1", 4), ("F16", 16)])
def test_the_census_counts_what_the_file_stores(llama, tmp_path, kind, bits):
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", kind, tokens=WORDS)
    census = load_model(file, "saved").census
    assert (census.bits, census.projections) == (bits, 14)
    assert {(found.weight, found.bits) for found in census.before} >= {(kind, bits), ("F32", 32)}
    assert {found.weight for found in census.after} == {"float32"}


def test_limits_of_five_bits_are_those_of_four(llama, tmp_path):
    """The finest level that the weights reach would be too strict by one bit."""
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "Q5_0", tokens=WORDS)
    assert load_model(file, "saved").precision == "4-bit"


def test_a_directory_that_holds_only_one_is_a_release(llama, tmp_path):
    gguf_writer.write_gguf(llama, tmp_path / "release" / "model.gguf", "Q8_0", tokens=WORDS)
    assert load_model(tmp_path / "release", "saved").precision == "8-bit"
    gguf_writer.write_gguf(llama, tmp_path / "release" / "other.gguf", "Q4_0", tokens=WORDS)
    assert "holds several GGUF files (model.gguf, other.gguf); name one of them" in refusal(tmp_path / "release")
    assert load_model(tmp_path / "release" / "other.gguf", "saved").precision == "4-bit"


def test_it_is_called_by_its_name_without_the_ending():
    assert model_name("releases/tiny-Q4_0.gguf") == "tiny-Q4_0"


def test_a_file_that_is_not_there_is_never_taken_for_a_hub_id():
    assert refusal("some-owner/model.gguf") == "model file 'some-owner/model.gguf' does not exist."


def test_what_is_no_gguf_file_is_refused(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"not a model")
    assert "cannot be read as GGUF" in refusal(tmp_path / "model.gguf")


# --- configuration ---------------------------------------------------------------------------------------------------


def test_its_own_configuration_is_used(llama, tmp_path):
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "F16", tokens=WORDS)
    config = load_model(file, "saved").module.config
    assert (config.num_key_value_heads, config.rms_norm_eps) == (2, pytest.approx(1e-6))


@pytest.mark.parametrize("lacking", [("block_count",), ("vocab_size",)])
def test_the_references_configuration_completes_it(llama, reference, tmp_path, lacking):
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "F32", leave_out=lacking)
    assert "put the model's config.json beside it, or name the reference" in refusal(file)
    loaded = load_model(file, "saved", reference=reference)
    assert torch.equal(loaded.module.get_input_embeddings().weight, llama.get_input_embeddings().weight)


def test_a_configuration_beside_it_comes_first(llama, reference, tmp_path):
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "F32", leave_out=("block_count",))
    shutil.copy(reference / "config.json", tmp_path)
    model_directories.change_config(tmp_path, rms_norm_eps=0.5)
    assert load_model(file, "saved", reference=reference).module.config.rms_norm_eps == 0.5


def test_scaled_rotary_frequencies_need_a_configuration(llama, reference, tmp_path):
    """Transformers drops that tensor and would run the model unscaled."""
    extra = {"rope_freqs.weight": np.ones(4, np.float32)}
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "F32", tokens=WORDS, extra=extra)
    assert "put the model's config.json beside it" in refusal(file)
    assert load_model(file, "saved", reference=reference).precision == "f32"


def test_a_tensor_that_transformers_has_no_place_for_is_refused(llama, tmp_path):
    extra = {"blk.0.attn_q.bias": np.ones(32, np.float32)}
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "F32", tokens=WORDS, extra=extra)
    held = sum(parameter.numel() for parameter in llama.parameters())
    assert f"its tensors hold {held + 32} numbers, and the model {held}" in refusal(file)


def test_a_tensor_that_is_missing_is_refused(llama, tmp_path):
    file = gguf_writer.write_gguf(
        llama, tmp_path / "model.gguf", "F32", tokens=WORDS, leave_out=("blk.1.ffn_up.weight",)
    )
    assert "missing keys: model.layers.1.mlp.up_proj.weight" in refusal(file)


def test_an_architecture_that_transformers_cannot_read_is_refused(reference, llama, tmp_path):
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "F32", tokens=WORDS)
    file.write_bytes(file.read_bytes().replace(b"llama", b"osier"))
    assert "cannot be" in refusal(file)


# --- tokenizer -------------------------------------------------------------------------------------------------------


def test_the_tokenizer_is_the_references(llama, reference, tmp_path):
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "F16", tokens=WORDS)
    expected = load_model(reference).fingerprints["tokenizer"]
    assert load_model(file, "saved", reference=reference).fingerprints["tokenizer"] == expected


def test_the_tokenizer_beside_it_comes_first(llama, reference, tmp_path):
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "F16")
    model_directories.save_word_tokenizer(tmp_path)
    settings = tmp_path / "tokenizer.json"
    content = json.loads(settings.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["w2"], vocabulary["w3"] = vocabulary["w3"], vocabulary["w2"]
    settings.write_text(json.dumps(content))
    shutil.copy(reference / "config.json", tmp_path)
    assert load_model(file, "saved", reference=reference).tokenizer.convert_tokens_to_ids("w2") == 3


def test_other_words_than_the_references_are_refused(llama, reference, tmp_path):
    words = [*WORDS[:5], "w6", "w5", *WORDS[7:]]
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "F16", tokens=words)
    message = refusal(file, reference=reference)
    assert "another tokenizer than the one beside it or of the reference: token 5 is 'w6', not 'w5'" in message


def test_without_any_tokenizer_there_is_none(llama, tmp_path):
    model = tiny_models.tiny_module("llama")
    model.save_pretrained(tmp_path / "reference")
    file = gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "F16")
    assert load_model(file, "saved", reference=tmp_path / "reference").tokenizer is None


def test_types_and_shapes_are_read_without_loading(llama, tmp_path):
    content = read_gguf(gguf_writer.write_gguf(llama, tmp_path / "model.gguf", "Q4_0", tokens=WORDS))
    first = next(tensor for tensor in content.tensors if tensor.name == "blk.0.ffn_down.weight")
    assert (first.weight, first.shape, first.bits, first.is_projection) == ("Q4_0", (32, 64), 4.0, True)
    assert content.tokens == tuple(WORDS)
    assert not content.has_rope_factors


# --- a stranger's file -----------------------------------------------------------------------------------------------


def hostile(*parts: bytes, tensors: int = 0, entries: int = 1) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, entries) + b"".join(parts)


def text(content: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(content) if length is None else length) + content


HOSTILE = {
    "nothing": b"",
    "a device's zeros": b"\0" * 100,
    "tensors without end": hostile(tensors=2**63),
    "entries without end": hostile(entries=2**63),
    "a name without end": hostile(text(b"a", 2**62)),
    "a list of bytes without end": hostile(text(b"a"), struct.pack("<IIQ", 9, 0, 2**62)),
    "a list that ends behind the file": hostile(text(b"a"), struct.pack("<IIQ", 9, 0, 2**19)),
    "a list of texts without end": hostile(text(b"a"), struct.pack("<IIQ", 9, 8, 2**62)),
    "a list of lists": hostile(text(b"a"), struct.pack("<IIQ", 9, 9, 1)),
    "an unknown type": hostile(text(b"a"), struct.pack("<I", 77)),
    "a key twice": hostile(*2 * [text(b"a") + struct.pack("<IB", 0, 1)], entries=2),
    "a tensor of no dimensions": hostile(text(b"t"), struct.pack("<IIQ", 0, 0, 0), tensors=1, entries=0),
    "a tensor of 10**6 dimensions": hostile(text(b"t"), struct.pack("<IIQ", 10**6, 0, 0), tensors=1, entries=0),
    "a tensor of 2**80 numbers": hostile(
        text(b"t"), struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0), tensors=1, entries=0
    ),
    "a tensor far behind the file": hostile(text(b"t"), struct.pack("<IQIQ", 1, 1, 0, 2**60), tensors=1, entries=0),
    "a tensor of an unknown type": hostile(text(b"t"), struct.pack("<IQIQ", 1, 1, 777, 0), tensors=1, entries=0),
    "layers without end": hostile(text(b"llama.block_count"), struct.pack("<II", 4, 10**7)),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_header_is_read_no_further_than_the_file(tmp_path, content):
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    message = refusal(file)
    assert f"model file {file} " in message
    assert len(message) < 600
