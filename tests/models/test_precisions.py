"""The types that a model is loaded in, and what the report is told of them."""

from __future__ import annotations

import re

import model_directories
import pytest
import tiny_models
import torch
from torch import nn

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.runtimes.pytorch.forward import last_logits
from circuitcheck.runtimes.pytorch.loading.load import hook_module, load_model
from circuitcheck.runtimes.pytorch.loading.precision import precision_of

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}


@pytest.fixture(scope="module")
def directories(tmp_path_factory):
    """The same weights saved in each type."""
    root = tmp_path_factory.mktemp("models")
    return {name: model_directories.save_tiny(root / name, dtype=dtype) for name, dtype in TYPES.items()}


@pytest.mark.parametrize("precision", TYPES)
@pytest.mark.parametrize("saved", ["f32", "f16"])
def test_every_parameter_has_the_type_asked_for(directories, precision, saved):
    model = load_model(directories[saved], precision, device="cpu")
    assert {parameter.dtype for parameter in model.module.parameters()} == {TYPES[precision]}
    assert (model.precision, model.notes) == (precision, ())
    assert not any(part.training for part in model.module.modules())


@pytest.mark.parametrize("precision", TYPES)
def test_saved_says_what_the_directory_holds(directories, precision):
    model = load_model(directories[precision], "saved", device="cpu")
    assert {parameter.dtype for parameter in model.module.parameters()} == {TYPES[precision]}
    assert model.precision == precision


def test_saved_precision_is_that_of_most_parameters():
    module = nn.Sequential(nn.Linear(8, 8).half(), nn.LayerNorm(8))
    assert precision_of(module) == "f16"
    assert precision_of(nn.Sequential(nn.Linear(8, 8).double(), nn.LayerNorm(8))) == "float64"


def test_half_precision_values_are_the_float32_ones_rounded(directories):
    reference = load_model(directories["f32"], device="cpu").module.state_dict()
    half = load_model(directories["f32"], "f16", device="cpu").module.state_dict()
    assert all(torch.equal(half[name], tensor.half()) for name, tensor in reference.items())


def test_weights_are_what_was_saved(directories):
    """A loader that initializes instead of reading would give a model, too."""
    ids = tiny_models.token_ids(2, 5)
    with torch.no_grad():
        expected = last_logits(tiny_models.tiny_model("gpt_neox"), ids)
        assert torch.equal(last_logits(load_model(directories["f32"], device="cpu"), ids), expected)
        assert not torch.equal(last_logits(tiny_models.tiny_model("gpt_neox", seed=1), ids), expected)


@pytest.mark.parametrize("precision", ["f32", "f16", "int8-sim", "saved"])
def test_attention_is_eager_on_both_sides(directories, precision):
    assert load_model(directories["f32"], precision, device="cpu").module.config._attn_implementation == "eager"


def test_reference_and_candidate_have_one_architecture(directories):
    expected = {"class": "GPTNeoXForCausalLM", "n_layers": 2, "n_heads": 4, "d_head": 8}
    for precision in ("f32", "bf16", "int8-sim"):
        assert load_model(directories["f32"], precision, device="cpu").facts.architecture == expected


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_refused(directories, device):
    with pytest.raises(ConfigurationError, match=re.escape(f"device {device!r} cannot be used here: ")):
        load_model(directories["f32"], device=device)


def test_the_device_asked_for_is_the_one_it_runs_on(directories):
    assert load_model(directories["f32"], device="cpu").device == torch.device("cpu")
    usual = "cuda" if torch.cuda.is_available() else "cpu"
    assert load_model(directories["f32"]).device.type == usual


def test_a_model_in_memory_that_runs_another_attention_kernel_says_so():
    module = tiny_models.tiny_module("gpt_neox")
    module.set_attn_implementation("eager")
    assert hook_module(module).notes == ()
    module.set_attn_implementation("sdpa")
    (note,) = hook_module(module, name="mine").notes
    assert note == "mine runs sdpa attention, and models that circuitcheck loads run eager attention."
