"""The census counts every weight once, and finds what is quantized whatever it is called."""

from __future__ import annotations

import model_directories
import pytest
import tiny_models
from torch import nn

from circuitcheck.core.candidates import BITSANDBYTES, RTN, TORCHAO
from circuitcheck.core.census import Census, WeightKind
from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.loading.claims import claimed_bits
from circuitcheck.runtimes.pytorch.loading.find_weights import find_weights, take_census
from circuitcheck.runtimes.pytorch.loading.load import hook_module, load_model
from circuitcheck.runtimes.pytorch.ports.structure import resolve
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn

LAYER = 2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32
"""Weights of the tiny Llama's layer: query and output, key and value of half the heads, and the MLP's three maps."""


def test_a_llama_is_counted_by_hand():
    census = hook_module(tiny_models.tiny_module("llama")).census
    assert census == Census(
        before=(
            WeightKind("Linear", "float32", 32.0, 2 * 7 + 1, 2 * LAYER + 50 * 32),
            WeightKind("Embedding", "float32", 32.0, 1, 50 * 32),
            WeightKind("LlamaRMSNorm", "float32", 32.0, 2 * 2 + 1, 5 * 32),
        ),
        after=census.before,
        projections=14,
        quantized=0,
        bits=32.0,
        claim=None,
    )


def test_a_tied_unembedding_counts_once():
    module = tiny_models.tiny_module("llama", tie_word_embeddings=True)
    module.tie_weights()
    found = find_weights(module, resolve(module))
    assert sum(weight.parameters for weight in found) == sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "projections"), [("gpt2", 2 * 4), ("gpt_neox", 2 * 4), ("mixtral", 2 * (4 + 2))])
def test_projections_are_the_linear_maps_of_the_layers(name, projections):
    """`Conv1D` is one; a mixture's experts are two stacks a layer, and its router, a vector of scores, is none."""
    module = tiny_models.tiny_module(name)
    census = take_census(module, resolve(module))
    assert (census.projections, census.quantized) == (projections, 0)


def test_weights_that_were_rounded_are_found():
    module = tiny_models.tiny_module("gpt2")
    structure = resolve(module)
    quantize_rtn(module, structure, bits=3)
    census = take_census(module, structure, "int3-rtn")
    assert (census.projections, census.quantized, census.bits, census.level) == (8, 8, 3.0, "3-bit")


def test_bits_are_those_of_the_quantized_projections_alone():
    """Half of a model in 4 bits would otherwise look like 18 bits and be held to limits that no 4 bits can keep."""
    module = tiny_models.tiny_module("llama")
    structure = resolve(module)
    first = type(structure)(structure.layers[:1], structure.embedding, structure.final_norm, structure.output_layer)
    quantize_rtn(module, first, bits=4)
    census = take_census(module, structure, "some")
    assert (census.projections, census.quantized, census.bits) == (14, 7, 4.0)


@pytest.mark.parametrize(
    ("bits", "level"),
    [(8.0, "8-bit"), (8.5, "8-bit"), (7.5, "4-bit"), (5.0, "4-bit"), (4.0, "4-bit"), (3.4, "3-bit"), (1.58, "2-bit")],
)
def test_limits_are_those_of_the_most_bits_that_are_reached(bits, level):
    assert Census((), (), 4, 4, bits, "some").level == level


def test_nothing_quantized_has_no_level():
    assert Census((), (), 4, 0, 16.0, None).level is None


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return model_directories.save_tiny(tmp_path_factory.mktemp("models") / "llama", "llama")


BITS = {"int4": 4, "int3": 3, "int2": 2, "bnb-nf4": 4}


@pytest.mark.parametrize("spec", [*RTN, *TORCHAO, *BITSANDBYTES])
def test_what_is_made_in_memory_is_proven_too(directory, spec):
    model = load_model(directory, spec)
    census = model.census
    expected = next((bits for start, bits in BITS.items() if spec.startswith(start)), 8)
    assert (model.precision, census.claim, census.bits) == (spec, spec, expected)
    assert (census.projections, census.quantized) == (14, 14)


@pytest.mark.parametrize("spec", TORCHAO)
def test_what_torchao_leaves_alone_is_refused(tmp_path, spec):
    with pytest.raises(ModelError, match="skips Conv1D"):
        load_model(model_directories.save_tiny(tmp_path / "gpt2", "gpt2"), spec)


@pytest.mark.parametrize("precision", ["f32", "f16", "bf16", "int8-sim"])
def test_float_candidates_claim_nothing(directory, precision):
    census = load_model(directory, precision).census
    assert (census.claim, census.quantized, census.bits) == (
        None,
        0,
        32.0 if precision in ("f32", "int8-sim") else 16.0,
    )


def test_a_module_without_weights_is_no_obstacle():
    class Odd(nn.Module):
        in_features = out_features = 4

    module = tiny_models.tiny_module("llama")
    module.model.layers[0].odd = Odd()
    assert take_census(module, resolve(module)).projections == 14


@pytest.mark.parametrize(
    ("config", "bits"),
    [
        ({}, None),
        ({"load_in_4bit": True}, 4),
        ({"_load_in_8bit": True}, 8),
        ({"bits": 3}, 3),
        ({"w_bit": 4}, 4),
        ({"config_groups": {"a": {"weights": {"num_bits": 4}}, "b": {"weights": None}}}, 4),
        ({"config_groups": {"a": {"weights": {"num_bits": 4}}, "b": {"weights": {"num_bits": 8}}}}, None),
        ({"config_groups": [], "bits": "four"}, None),
    ],
)
def test_bits_are_claimed_in_many_words(config, bits):
    assert claimed_bits(config) == bits
