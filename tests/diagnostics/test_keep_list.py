"""The fewest modules to keep: found, verified, printed for those that quantize, and the candidate left as it was."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TorchAoConfig

from circuitcheck.core.errors import CandidateError, ConfigurationError
from circuitcheck.core.results import Estimate, Judgement, Verdict
from circuitcheck.core.runtime import Replaceable
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.diagnostics.keep_list import KeepList, find_keep_list
from circuitcheck.gate.judge import judge
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch.loading.fingerprint import fingerprint_module
from circuitcheck.runtimes.pytorch.quantizers.rtn import quantize_rtn
from circuitcheck.runtimes.pytorch.quiet import quiet_quantizers
from circuitcheck.verdict.limits import Limits

NOT_READ: Any = None
"""The measurement behind a verdict, which the search does not look at."""

DENSE = "gpt_neox.layers.{}.attention.dense"
QKV = "gpt_neox.layers.{}.attention.query_key_value"
DOWN = "gpt_neox.layers.{}.mlp.dense_4h_to_h"


@pytest.fixture(scope="module")
def reference():
    return tiny_models.tiny_model()


@pytest.fixture
def candidate(reference):
    """Rounded to two bits in every linear map."""
    coarse = tiny_circuits.copy_of(reference)
    quantize_rtn(coarse.module, coarse.structure, 2)
    return coarse


def verdict_of(miss: float, word: str | None = None) -> Verdict:
    """A verdict whose only criterion misses its limit of 1 by so much."""
    word = word or ("PASS" if miss <= 0 else "FAIL")
    value = Estimate(1 + miss, 1 + miss, 1 + miss)
    criterion = Judgement("profile_distance", value, "<=", 1.0, "", "PASS" if miss <= 0 else "FAIL", "")
    return Verdict(NOT_READ, word, (criterion,))


class Needs:
    """Passes where the weights of all these modules are the reference's; each of them mends its share."""

    def __init__(self, reference, weight_of: dict[str, float]):
        self.reference, self.weight_of, self.calls = reference, weight_of, []

    def __call__(self, candidate):
        kept = {path for path in ALL if torch.equal(weight(candidate, path), weight(self.reference, path))}
        self.calls.append(kept)
        return [verdict_of(sum(share for path, share in self.weight_of.items() if path not in kept))]


def weight(model, path: str) -> torch.Tensor:
    return model.module.get_submodule(path).weight.detach()


ALL = tuple(
    f"gpt_neox.layers.{layer}.{name}"
    for layer in range(2)
    for name in ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
)


def test_modules_are_the_linear_maps_inside_layers(reference, candidate):
    assert candidate.replaceable(reference) == Replaceable((ALL[:4], ALL[4:]), "lm_head")
    assert candidate.replaceable(reference).modules == ALL


def test_modules_with_the_references_weights_are_none(reference):
    faulty = tiny_circuits.scale_head(reference, 1, 2, 0.0)
    assert faulty.replaceable(reference) == Replaceable(((), (DENSE.format(1),)), "lm_head")
    with pytest.raises(CandidateError, match=r"no linear map .* differs"):
        tiny_circuits.copy_of(reference).replaceable(reference)


@pytest.mark.parametrize(
    "needed",
    [{QKV.format(0): 1.0}, {DENSE.format(1): 3.0, DOWN.format(0): 0.5}, dict.fromkeys(ALL, 1.0)],
    ids=["one", "two", "all"],
)
def test_exactly_what_is_needed_is_found_and_was_measured(reference, candidate, needed):
    judge_candidate = Needs(reference, needed)
    keep = find_keep_list(reference, candidate, judge_candidate)
    assert set(keep.modules) == set(needed)
    assert (keep.verdict, keep.message) == ("PASS", "")
    assert set(needed) in judge_candidate.calls
    assert keep.measured == len(judge_candidate.calls)
    # Once as it is, once with everything, once for each module, a bisection of eight and up to eight attempts to drop.
    assert keep.measured <= 2 + 8 + 3 + 8


def test_modules_that_help_most_come_first(reference, candidate):
    needed = {QKV.format(0): 1.0, DENSE.format(1): 5.0, DOWN.format(1): 3.0}
    keep = find_keep_list(reference, candidate, Needs(reference, needed))
    assert keep.modules == (DENSE.format(1), DOWN.format(1), QKV.format(0))


def test_modules_that_damage_is_said_to_come_from_are_tried_first(reference, candidate):
    needed = Needs(reference, {DOWN.format(1): 1.0})
    found = find_keep_list(reference, candidate, needed, suggested=["mlp 1", "attention 0", "mlp of nothing"])
    assert found.modules == (DOWN.format(1),)
    # As it is, with everything, a bisection of four blocks, and two modules that are tried to be given up.
    assert found.measured <= 2 + 2 + 2 < find_keep_list(reference, candidate, needed).measured


def test_a_suggestion_that_is_wrong_costs_measurements_and_nothing_else(reference, candidate):
    needed = {QKV.format(0): 1.0, DOWN.format(1): 1.0}
    keep = find_keep_list(reference, candidate, Needs(reference, needed), suggested=["attention 1", "mlp 0"])
    assert set(keep.modules) == set(needed)
    assert keep.verdict == "PASS"


def test_candidate_that_passes_keeps_nothing(reference, candidate):
    assert find_keep_list(reference, candidate, Needs(reference, {})) == KeepList((), "PASS", 1, "lm_head")


def test_fault_elsewhere_is_said_and_nothing_is_to_be_written(reference, candidate):
    keep = find_keep_list(reference, candidate, lambda _: [verdict_of(1.0)])
    assert (keep.modules, keep.verdict, keep.measured) == ((), "FAIL", 2)
    assert keep.message.startswith(
        "not even with all 8 projections in high precision does it pass (FAIL): the damage lies elsewhere"
    )
    assert {keep.torchao, keep.compressed_tensors, keep.bitsandbytes} == {""}


def test_inconclusive_is_no_pass(reference, candidate):
    keep = find_keep_list(reference, candidate, lambda _: [verdict_of(0.0), verdict_of(0.0, "INCONCLUSIVE")])
    assert (keep.modules, keep.verdict) == ((), "INCONCLUSIVE")
    assert "does it pass (INCONCLUSIVE)" in keep.message


def test_tasks_that_the_reference_does_not_solve_say_nothing(reference, candidate):
    unsolved = Verdict(NOT_READ, "INCONCLUSIVE", (), "not solved")
    assert find_keep_list(reference, candidate, lambda _: [unsolved, verdict_of(0.0)]).verdict == "PASS"
    with pytest.raises(ConfigurationError, match="solves none"):
        find_keep_list(reference, candidate, lambda _: [unsolved])


def test_values_that_are_not_finite_count_as_the_worst(reference, candidate):
    needs = Needs(reference, {DENSE.format(0): 1.0})

    def judge_candidate(model):
        if not torch.equal(weight(model, DENSE.format(0)), weight(reference, DENSE.format(0))):
            raise CandidateError("not finite")
        return needs(model)

    assert find_keep_list(reference, candidate, judge_candidate).modules == (DENSE.format(0),)


@pytest.mark.parametrize("budget", [2, 3, 5, 9])
def test_budget_is_kept_and_what_is_returned_passes(reference, candidate, budget):
    judge_candidate = Needs(reference, {DENSE.format(1): 1.0})
    keep = find_keep_list(reference, candidate, judge_candidate, budget=budget)
    assert keep.measured == len(judge_candidate.calls) <= budget
    assert keep.verdict == "PASS"
    assert DENSE.format(1) in keep.modules
    assert set(keep.modules) in judge_candidate.calls


def test_too_small_a_budget_is_refused(reference, candidate):
    with pytest.raises(ConfigurationError, match="at least 2"):
        find_keep_list(reference, candidate, lambda _: [verdict_of(0.0)], budget=1)


def test_modules_are_put_back_also_after_an_error(reference, candidate):
    candidate.module.half()
    before = fingerprint_module(candidate.module)
    own = candidate.module.get_submodule(DENSE.format(0))

    def look_and_fail() -> None:
        swapped = candidate.module.get_submodule(DENSE.format(0))
        assert swapped is not reference.module.get_submodule(DENSE.format(0))
        assert swapped.weight.dtype is torch.float16
        torch.testing.assert_close(swapped.weight.float(), weight(reference, DENSE.format(0)), rtol=1e-3, atol=1e-6)
        raise RuntimeError("midway")

    with candidate.keeping(reference, ALL), pytest.raises(RuntimeError, match="midway"):
        look_and_fail()
    with pytest.raises(RuntimeError, match="midway"), candidate.keeping(reference, [DENSE.format(0)]):
        look_and_fail()
    assert candidate.module.get_submodule(DENSE.format(0)) is own
    assert fingerprint_module(candidate.module) == before


def test_gpt2_whose_linear_maps_are_no_linear_modules():
    reference = tiny_models.tiny_model("gpt2")
    coarse = tiny_circuits.copy_of(reference)
    quantize_rtn(coarse.module, coarse.structure, 2)
    found = coarse.replaceable(reference).modules
    assert "transformer.h.0.attn.c_attn" in found
    assert not any(isinstance(coarse.module.get_submodule(path), nn.Linear) for path in found)
    with coarse.keeping(reference, found):
        assert torch.equal(weight(coarse, found[0]), weight(reference, found[0]))


def test_planted_fault_is_found_by_measuring(reference):
    task = tiny_circuits.solvable_task(reference)
    baseline = record(reference, task, MeasurementSpec(draws=100))
    faulty = tiny_circuits.scale_head(tiny_circuits.scale_head(reference, 1, 2, -4.0), 1, 1, 5.0)
    quantized = replace(faulty, precision="int8-rtn")
    quantize_rtn(quantized.module, quantized.structure, 8)
    # Eight prompts tell little: limits are such that the reference passes and the fault does not.
    wide = Limits(
        behaviour_kept=0.5,
        metric_change=1,
        drift_median=1,
        drift_largest=2,
        ranking_agreement=0.3,
        profile_distance=3,
        unrepaired=1,
        recovery=0.1,
    )

    def judge_candidate(model):
        return [judge(measure(model, baseline, curves=False), wide)]

    assert judge_candidate(quantized)[0].word != "PASS"
    keep = find_keep_list(reference, quantized, judge_candidate)
    assert (keep.modules, keep.verdict) == ((DENSE.format(1),), "PASS")


@pytest.mark.parametrize("library", ["torchao", "bitsandbytes"])
def test_library_skips_what_it_is_told_to_and_nothing_else(reference, tmp_path, library):
    """Through transformers, from the printed argument, on a saved model."""
    pytest.importorskip(library)
    keep = KeepList((DENSE.format(1), DOWN.format(0)), "PASS", 9, "lm_head")
    name, _, value = getattr(keep, library).partition("=")
    reference.module.save_pretrained(tmp_path)
    if library == "torchao":
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig(), **{name: json.loads(value)})
    else:
        config = BitsAndBytesConfig(load_in_8bit=True, **{name: json.loads(value)})
    with quiet_quantizers():
        module = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config, device_map="cpu")
    untouched = {
        path
        for path, part in module.named_modules()
        if isinstance(part, nn.Linear) and type(part.weight) in (torch.Tensor, nn.Parameter)
    }
    assert untouched == {DENSE.format(1), DOWN.format(0), "lm_head"}


def test_lists_are_printed_as_the_libraries_take_them():
    keep = KeepList(("layers.0.dense", "layers.1.dense"), "PASS", 9, "lm_head")
    skipped = '["lm_head", "layers.0.dense", "layers.1.dense"]'
    assert keep.torchao == f"modules_to_not_convert={skipped}"
    assert keep.compressed_tensors == f"ignore={skipped}"
    assert keep.bitsandbytes == f"llm_int8_skip_modules={skipped}"
    assert KeepList((), "PASS", 1).torchao == "modules_to_not_convert=[]"
    assert json.loads(keep.torchao.partition("=")[2]) == ["lm_head", *keep.modules]
