"""Changes of basis that leave the function as it is, on every architecture, and edits that only look like one."""

from __future__ import annotations

from copy import deepcopy

import pytest
import tiny_models
import torch
from detection import bases
from detection.anatomy import head_maps
from detection.bases import KINDS, WIDE_KINDS, change_basis, changed, keeping_ones, logits_of, rotation
from detection.lookalikes import LOOK_ALIKES, plant, targets
from detection.rounding import round_to

from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_module
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.ports.ports import reading

ARCHITECTURES = ("gpt_neox", "gpt2", "llama", "mistral", "phi3", "opt")
ALL_KINDS = (*KINDS, *WIDE_KINDS)


@torch.no_grad()
def z_of(module) -> list[torch.Tensor]:
    """Layer to `[rows, seq, heads, d_head]`."""
    model: HookedModel = hook_module(module)
    with reading(module, model.ports("head")) as z:
        module(tiny_models.token_ids(4, 8))
    return list(z.values())


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("kind", ALL_KINDS)
def test_the_function_stays_and_the_weights_do_not(name, kind):
    module = tiny_models.tiny_module(name)
    before = fingerprint_module(module)
    copy = changed(module, kind, seed=1)
    assert fingerprint_module(module) == before != fingerprint_module(copy)
    assert type(copy) is type(module)
    # float32 rounding: some units in the seventh digit, a few of them added up
    assert apart(logits_of(module), logits_of(copy)) < 1e-5
    for ours, theirs in zip(z_of(module), z_of(copy), strict=True):
        if kind == "stream rotated":
            assert apart(ours, theirs) < 1e-5
        else:
            assert apart(ours, theirs) > 0.1


@pytest.mark.parametrize("kind", ["heads rotated", "stream rotated", "all together"])
def test_a_model_that_was_trained(reference, kind):
    before = logits_of(reference.module)
    copy = changed(reference.module, kind)
    assert float((logits_of(copy) - before).abs().max() / before.abs().max()) < bases.TOLERANCE / 10


def test_a_seed_gives_one_basis():
    module = tiny_models.tiny_module("llama")
    one, again, other = (fingerprint_module(changed(module, "all together", seed)) for seed in (1, 1, 2))
    assert one == again != other


def test_what_is_no_change_of_basis_is_refused(monkeypatch):
    module = tiny_models.tiny_module("llama")
    monkeypatch.setitem(KINDS, "scaled", lambda module, _: head_maps(module, 0).outputs[0].mul_(2))
    with pytest.raises(AssertionError, match="scaled: logits of LlamaForCausalLM differ by"):
        change_basis(module, "scaled")


def test_rotations():
    generator = torch.Generator().manual_seed(0)
    for turn in (rotation(8, generator), keeping_ones(8, generator)):
        assert torch.allclose(turn @ turn.T, torch.eye(8, dtype=torch.float64), atol=1e-12)
        assert float(torch.linalg.det(turn)) == pytest.approx(1)
    assert torch.allclose(turn.sum(1), torch.ones(8, dtype=torch.float64), atol=1e-12)


def test_norms_are_folded_and_writers_centred():
    module = changed(tiny_models.tiny_module("gpt2"), "stream rotated")
    assert module.lm_head.weight is not module.transformer.wte.weight
    for norm in (module.transformer.h[1].ln_1, module.transformer.ln_f):
        assert torch.equal(norm.weight, torch.ones(32))
    # float32 sums of 32 numbers below 1
    assert module.transformer.wte.weight.mean(1).abs().max() < 1e-6
    assert module.transformer.h[0].mlp.c_proj.weight.mean(1).abs().max() < 1e-6


def test_renumbered_heads_move_in_their_groups():
    module = tiny_models.tiny_module("llama")
    before, after = (z_of(model)[0] for model in (module, changed(module, "heads renumbered")))
    places = [
        next(here for here in range(4) if apart(before[:, :, here], after[:, :, there]) < 1e-5) for there in range(4)
    ]
    assert sorted(places) == [0, 1, 2, 3]
    assert {place // 2 for place in places[:2]} == {1}, "the two key/value groups changed places"


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("fault", LOOK_ALIKES)
def test_a_look_alike_changes_what_one_head_writes(name, fault):
    module = tiny_models.tiny_module(name)
    faulty = deepcopy(module)
    plant(faulty, fault, (0, 1), (0, 2))
    # of random heads, any one of which moves the logits by some percent
    assert float((logits_of(faulty) - logits_of(module)).abs().max() / logits_of(module).abs().max()) > 0.01
    written = []
    for model in (module, faulty):
        maps, z = head_maps(model, 0), z_of(model)[0]
        written.append([z[:, :, head] @ output.T for head, output in enumerate(maps.outputs)])
    moved = {head for head in range(4) if apart(written[0][head], written[1][head]) > 1e-3}
    group = {1} if head_maps(module, 0).per_group == 1 else {0, 1}
    shared = fault in ("values doubled", "values flipped", "values swapped")
    other = ({2} if len(group) == 1 else {2, 3}) if fault == "values swapped" else {2} if "swapped" in fault else set()
    assert moved == (group if shared else {1}) | other


def test_the_most_important_head_is_the_target():
    importance = {(0, 0): 0.1, (0, 1): -2.0, (1, 0): 0.5, (1, 1): -3.0, (1, 2): 0.0, (1, 3): 0.2}
    assert targets(importance, per_group=1) == ((1, 1), (1, 0))
    assert targets(importance, per_group=2) == ((1, 1), (1, 3))


@pytest.mark.parametrize(("precision", "levels"), [("f32", 1000), ("int8-rtn", 255), ("int4-rtn", 15)])
def test_rounding_leaves_as_many_values_as_it_says(precision, levels):
    module = tiny_models.tiny_module("llama")
    round_to(module, precision)
    # symmetric codes, and 32 inputs in one group
    assert len(torch.unique(module.model.layers[0].self_attn.q_proj.weight[0])) <= min(levels, 32)
    assert module.dtype == torch.float32


def test_half_precision():
    module = tiny_models.tiny_module("llama")
    round_to(module, "f16")
    assert module.dtype == torch.float16
