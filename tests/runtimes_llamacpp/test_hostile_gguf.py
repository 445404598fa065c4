"""Files that are not what they say: an error of ours in this process, also where llama.cpp ends its own."""

from __future__ import annotations

import shutil

import gguf_writer
import model_directories
import numpy as np
import pytest

from circuitcheck import load_candidate
from circuitcheck.core.errors import CandidateError, CircuitcheckError, ModelError, SiteError
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.llamacpp.trial import try_file

ABORTS = {
    "epsilon below zero": ({"attention.layer_norm_rms_epsilon": -1.0}, r"SIGABRT.*GGML_ASSERT\(eps >= 0"),
    "experts without a choice": ({"expert_count": 8}, r"SIGABRT.*GGML_ASSERT\(n_expert"),
}
REFUSED = {
    "fewer layers": ({"block_count": 1}, "wrong number of tensors"),
    "more layers": ({"block_count": 3}, r"no attention output projection blk\.2"),
    "no layers": ({"block_count": 0}, "does not say one number of layers"),
    "no heads": ({"attention.head_count": 0}, "does not say one number of layers and one of heads"),
    "other heads": ({"attention.head_count": 8}, "invalid n_rot"),
    "other keys": ({"attention.head_count_kv": 3}, "attn_k.weight' has wrong shape"),
    "other width": ({"embedding_length": 32}, "invalid n_rot"),
    "absurd experts": ({"expert_count": 10**6}, "expert_count is 1000000"),
}


@pytest.mark.parametrize("name", ABORTS)
def test_what_ends_the_library_is_an_error_here(llama, name):
    changed, message = ABORTS[name]
    with pytest.raises(ModelError, match=f"(?s)ends the process that reads it .*{message}"):
        llama.load(llama.write("F32", name, changed=changed))


@pytest.mark.parametrize("name", REFUSED)
def test_sizes_that_do_not_fit(llama, name):
    changed, message = REFUSED[name]
    with pytest.raises((ModelError, SiteError), match=message):
        llama.load(llama.write("F32", name, changed=changed))


@pytest.mark.parametrize("left_out", ["blk.1.attn_q.weight", "output_norm.weight", "token_embd.weight"])
def test_tensors_that_are_not_there(llama, left_out):
    with pytest.raises(CircuitcheckError, match=left_out):
        llama.load(llama.write("F32", f"without {left_out}", leave_out=(left_out,)))


@pytest.mark.parametrize("size", [0, 3, 50, 0.5, -1])
def test_a_file_that_ends_too_early(llama, tmp_path, size):
    content = llama.write("Q8_0").read_bytes()
    file = tmp_path / "cut.gguf"
    file.write_bytes(content[: int(size * len(content)) if isinstance(size, float) else size])
    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        llama.load(file)


def test_damage_that_only_llama_cpp_sees(llama, tmp_path):
    """Where our own walk through the header would let it pass."""
    file = tmp_path / "noise.gguf"
    file.write_bytes(b"GGUF" + np.random.default_rng(0).bytes(4096))
    with pytest.raises(ModelError, match=r"cannot be loaded by llama\.cpp"):
        try_file(file, llama.load(llama.write("F32")).passes.cache, "model file noise")


def test_numbers_that_are_not_finite_fail_the_gate(llama, wide_baseline, wide):
    """A rotation by base 0 is no number."""
    candidate = wide.load(wide.write("F32", "no base", changed={"rope.freq_base": 0.0}))
    with pytest.raises(CandidateError, match="logit differences are NaN or infinite"):
        measure(candidate, wide_baseline)


def test_another_tokenizer_is_refused(llama, tmp_path):
    shutil.copytree(llama.directory, tmp_path / "reference")
    model_directories.save_word_tokenizer(tmp_path / "reference")
    words = [f"w{number}" for number in range(50)]
    file = gguf_writer.write_gguf(llama.module, tmp_path / "other.gguf", "F32", tokens=words)
    with pytest.raises(ModelError, match="has another tokenizer"):
        load_candidate(str(file), "llamacpp", reference=str(tmp_path / "reference"))
