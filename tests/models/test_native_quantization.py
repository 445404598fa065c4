"""torchao's and bitsandbytes' candidates: really quantized, provable, independent of batch mates, or refused."""

from __future__ import annotations

import logging
import sys

import pytest
import tiny_models
import torch
from torch import nn

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.forward import last_logits
from circuitcheck.runtimes.pytorch.hooks import pre_hook
from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_module
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.ports.proofs import float_matrix, prove
from circuitcheck.runtimes.pytorch.quantizers.native import PACKS, PORTABLE_NOTE, settle
from circuitcheck.runtimes.pytorch.quantizers.recipes import RECIPES
from circuitcheck.runtimes.pytorch.unchanged import unchanged

TORCHAO = ["int8", "int8-weight", "int4-weight", "float8-weight"]
BITSANDBYTES = ["bnb-int8", "bnb-nf4"]
WEIGHTS = {
    "int8": "Int8Tensor",
    "int8-weight": "Int8Tensor",
    "int4-weight": "IntxUnpackedToInt8Tensor",
    "float8-weight": "Float8Tensor",
    "bnb-int8": "Int8Params",
    "bnb-nf4": "Params4bit",
}
MOVED = {"int8": 0.06, "int8-weight": 0.04, "float8-weight": 0.2, "bnb-int8": 0.06, "int4-weight": 1.0, "bnb-nf4": 1.0}
"""How far logits of two random layers may move, relative to their norm: 8 bits little (0.013 to 0.035 were seen, 0.09
for the three bits of e4m3's mantissa), 4 bits less than the logits themselves."""


@pytest.fixture(params=[*TORCHAO, *BITSANDBYTES])
def spec(request):
    pytest.importorskip("torchao" if request.param in TORCHAO else "bitsandbytes")
    return request.param


WIDE = {"hidden_size": 64, "intermediate_size": 128}
"""Inputs that are whole blocks of `bnb-nf4`; bitsandbytes unpacks others wrongly on many a CPU."""


def quantized(spec, name="gpt_neox", **settings):
    model = tiny_models.tiny_model(name, **settings)
    return model, RECIPES[spec](model.module, model.structure)


def logits(model, ids):
    with torch.no_grad():
        return last_logits(model, ids)


def maps(model):
    """Path to module of the linear maps inside the layers."""
    return {
        path: part
        for site in model.structure.layers
        for path, part in model.module.get_submodule(site.path).named_modules(prefix=site.path)
        if isinstance(part, nn.Linear)
    }


@pytest.mark.parametrize("name", ["gpt_neox", "llama"])
def test_hooks_are_proven_and_every_linear_map_of_the_layers_is_quantized(spec, name):
    plain = tiny_models.tiny_model(name, **WIDE)
    model, _ = quantized(spec, name, **WIDE)
    ids = tiny_models.token_ids(4, 6)
    prove(model, ids)
    assert {type(part.weight).__name__ for part in maps(model).values()} == {WEIGHTS[spec]}
    assert maps(model).keys() == maps(plain).keys()
    assert all(float_matrix(part) is None for part in maps(model).values())
    assert type(model.module.get_submodule(model.structure.embedding).weight) is nn.Parameter
    assert type(model.module.get_submodule(model.structure.output_layer).weight) is nn.Parameter
    expected, found = logits(plain, ids), logits(model, ids)
    assert 0 < ((found - expected).norm() / expected.norm()).item() < MOVED[spec]


def test_it_measures_without_a_trace_from_the_first_pass_on(spec):
    model, _ = quantized(spec)
    with unchanged(model):
        logits(model, tiny_models.token_ids(2, 6))


def test_a_prompts_logits_do_not_depend_on_its_batch_mates(spec):
    """Its mate's activations are a hundred times as large; with one scale for the batch little of it would be left."""
    model = tiny_models.tiny_model("llama")
    quiet, loud = tiny_models.token_ids(2, 6)
    loud[:] = 2
    quiet[quiet == 2] = 3
    model.module.get_submodule(model.structure.embedding).weight.data[2] *= 100
    RECIPES[spec](model.module, model.structure)
    # the same kernels on the same shapes, so that even the last bit is the same
    assert torch.equal(logits(model, torch.stack([quiet, quiet]))[0], logits(model, torch.stack([quiet, loud]))[0])


def test_the_quantized_model_has_a_fingerprint_of_its_own_and_keeps_it(spec):
    model, _ = quantized(spec)
    ids = tiny_models.token_ids(2, 6)
    before, first = logits(model, ids), fingerprint_module(model.module)
    assert first != fingerprint_module(tiny_models.tiny_module("gpt_neox"))
    assert first != fingerprint_module(quantized(spec, seed=1)[0].module)
    assert hook_module(model.module).fingerprints["weights"] == first
    assert torch.equal(logits(model, ids), before)


@pytest.mark.parametrize("spec", TORCHAO)
def test_torchao_skips_conv1d_and_is_refused(spec):
    pytest.importorskip("torchao")
    with pytest.raises(ModelError, match=rf"{spec}, GPT2LMHeadModel: no projection was quantized: .*use int8-rtn"):
        quantized(spec, "gpt2")


@pytest.mark.parametrize("spec", BITSANDBYTES)
def test_bitsandbytes_takes_conv1d_transposed(spec):
    pytest.importorskip("bitsandbytes")
    plain = tiny_models.tiny_model("gpt2", n_embd=64)
    model, notes = quantized(spec, "gpt2", n_embd=64)
    assert all(note == PORTABLE_NOTE for note in notes)
    ids = tiny_models.token_ids(4, 6)
    prove(model, ids)
    expected = logits(plain, ids)
    assert 0 < ((logits(model, ids) - expected).norm() / expected.norm()).item() < MOVED[spec]


def test_stacked_experts_stay_float_and_are_named(spec):
    model, notes = quantized(spec, "mixtral")
    assert any(
        note.startswith("Inside the layers these weights stay float: ")
        and "model.layers.0.mlp.experts.down_proj" in note
        for note in notes
    )
    prove(model, tiny_models.token_ids(2, 6))


def test_widths_that_no_group_fits(spec):
    """4-bit kernels are particular: 72 is no multiple of 32, nor of 64."""
    model, notes = quantized(spec, "llama", intermediate_size=72)
    prove(model, tiny_models.token_ids(2, 6))
    assert any("Groups of 32 do not divide the inputs of 2 linear maps" in note for note in notes) == (
        spec == "int4-weight"
    )
    assert {type(part.weight).__name__ for part in maps(model).values()} == {WEIGHTS[spec]}


@pytest.mark.parametrize(("spec", "extra"), [("int8", "torchao"), ("bnb-nf4", "bitsandbytes")])
def test_a_missing_extra_is_named(spec, extra, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == extra]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(ModelError) as refused:
        quantized(spec)
    assert str(refused.value) == f'candidate {spec} needs {extra}: pip install "circuitcheck[{extra}]".'


def test_what_was_made_is_what_transformers_would_load(tmp_path):
    """A release by `BitsAndBytesConfig` has, bit for bit, the logits of the candidate that is made in memory."""
    pytest.importorskip("bitsandbytes")
    pytest.importorskip("accelerate")
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    configs = {
        "bnb-int8": BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0),
        "bnb-nf4": BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    }
    ids = tiny_models.token_ids(4, 6)
    tiny_models.tiny_module("gpt_neox").save_pretrained(tmp_path)
    for spec, config in configs.items():
        loaded = AutoModelForCausalLM.from_pretrained(
            tmp_path, quantization_config=config, attn_implementation="eager", dtype=torch.float32
        )
        settle({path: part for path, part in loaded.named_modules() if type(part).__name__ == "Linear4bit"})
        assert torch.equal(logits(hook_module(loaded.eval()), ids), logits(quantized(spec)[0], ids))


def test_four_bit_modules_run_the_kernel_of_every_cpu():
    """What repacks its weight in the first pass does not any more, and the report says so."""
    pytest.importorskip("bitsandbytes")
    model, _ = quantized("bnb-nf4", **WIDE)
    parts = maps(model)
    assert not any(getattr(part, PACKS, False) for part in parts.values())
    assert settle(parts) == []
    for part in parts.values():
        setattr(part, PACKS, True)
    assert settle(parts) == [PORTABLE_NOTE]
    assert not any(getattr(part, PACKS) for part in parts.values())


def test_a_four_bit_model_that_has_run_is_not_changed_by_hooking_it():
    """Its `state_dict()` unpacks what its first pass packed on CPUs with AVX512-BF16, and mixes up the scales."""
    pytest.importorskip("bitsandbytes")
    model, _ = quantized("bnb-nf4", **WIDE)
    ids = tiny_models.token_ids(4, 6)
    for part in maps(model).values():
        setattr(part, PACKS, torch.cpu._is_avx512_bf16_supported())
    expected = logits(model, ids)
    first = hook_module(model.module).fingerprints["weights"]
    assert torch.equal(logits(model, ids), expected)
    assert hook_module(model.module).fingerprints["weights"] == first


@pytest.mark.parametrize("spec", BITSANDBYTES)
def test_equal_codes_with_other_scales_are_another_model(spec):
    """bitsandbytes keeps scales outside of all parameters and buffers."""
    pytest.importorskip("bitsandbytes")
    model, _ = quantized(spec, **WIDE)
    first = fingerprint_module(model.module)
    part = next(iter(maps(model).values()))
    scales = part.weight.quant_state.absmax if spec == "bnb-nf4" else part.weight.SCB
    scales[-1] *= 2
    assert fingerprint_module(model.module) != first


def by_hand(part):
    """A 4-bit weight from its codes and scales: the high half of a byte comes first, blocks run across rows."""
    state, packed = part.weight.quant_state, part.weight.flatten().tolist()
    codes = [code for byte in packed for code in (byte // 16, byte % 16)]
    weight = [state.code[code] * state.absmax[number // 64] for number, code in enumerate(codes)]
    return torch.tensor(weight).reshape(part.out_features, part.in_features)


@pytest.mark.parametrize("width", [32, 64, 72, 96])
@pytest.mark.parametrize("nested", [False, True])
def test_a_weight_that_is_unpacked_wrongly_is_said(width, nested):
    """bitsandbytes 0.50 is wrong at 32 and 96 on CPUs with AVX-512; elsewhere there is nothing to say."""
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit, Params4bit

    torch.manual_seed(0)
    weight = torch.randn(32, width)
    part = Linear4bit(width, 32, False, torch.float32, nested, "nf4")
    part.weight = Params4bit(weight, compress_statistics=nested, quant_type="nf4", module=part).to("cpu")
    found = dequantize_4bit(part.weight.detach(), part.weight.quant_state)
    # rounding to 4 bits in blocks of 64 normal weights is off by 0.09, scales of other blocks by 0.25 up
    wrong = ((found - weight).norm() / weight.norm()).item() > 0.15
    said = [note for note in settle({"here": part}) if note != PORTABLE_NOTE]
    assert ["unpacks 1 4-bit weights wrongly on this CPU" in note and "that of here" in note for note in said] == (
        [True] if wrong else []
    )
    if not nested:
        assert torch.allclose(found, by_hand(part), rtol=0.01) == (not wrong)


def test_eight_bit_passes_are_quiet(caplog):
    pytest.importorskip("bitsandbytes")
    model, _ = quantized("bnb-int8")
    with caplog.at_level(logging.DEBUG):
        logits(model, tiny_models.token_ids(2, 6))
    assert caplog.records == []


def test_int8_gives_no_gradient():
    """Why gradients are taken from the reference alone: this kernel stops them without an error."""
    pytest.importorskip("torchao")
    probes = []

    def probe(_, arguments):
        probes.append(torch.zeros_like(arguments[0], requires_grad=True))
        return (arguments[0] + probes[-1], *arguments[1:])

    found = []
    for model in (tiny_models.tiny_model(), quantized("int8")[0]):
        with pre_hook(model.module.get_submodule(model.structure.layers[0].projection), probe):
            logit = last_logits(model, tiny_models.token_ids(1, 6)).sum()
        found.append(torch.autograd.grad(logit, probes[-1], allow_unused=True)[0] is not None)
    assert found == [True, False]


def test_all_native_specs_are_tested():
    assert {spec for spec in RECIPES if not spec.endswith("-rtn")} == set(WEIGHTS) == {*TORCHAO, *BITSANDBYTES}
