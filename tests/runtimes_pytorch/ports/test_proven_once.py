"""A loaded model is proven once for each kind of unit, length of prompts and metric, and again where it has changed."""

from __future__ import annotations

from dataclasses import replace

import metric_functions
import pytest
import tiny_circuits
import tiny_models
import torch
from quick_recording import record
from torch import Tensor

from circuitcheck.core.errors import SiteError
from circuitcheck.core.metric import as_metric
from circuitcheck.core.prompts import PromptPair, Prompts, Task
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.gate.measure import measure
from circuitcheck.runtimes.pytorch import hooked
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.ports import proofs
from circuitcheck.runtimes.pytorch.transplant import kept_modules


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(kind, length) of every proof that is made."""
    made: list[tuple[str, int]] = []

    def prove(model: HookedModel, ids: Tensor, kind: str = "head") -> None:
        made.append((kind, ids.shape[1]))
        proofs.prove(model, ids, kind)

    monkeypatch.setattr(hooked, "prove", prove)
    return made


@pytest.fixture
def model() -> HookedModel:
    return tiny_models.tiny_model("llama")


def prompts_of(*lengths: int, seed: int = 0) -> Prompts:
    pairs = []
    for number, length in enumerate(lengths):
        clean, other = tiny_models.token_ids(2, length, seed=seed + number).tolist()
        pairs.append(PromptPair(tuple(clean), tuple(other), 3, 5, "one"))
    return Task(f"seed {seed}", tuple(pairs)).prompts()


def test_once_for_a_kind_and_a_length(model: HookedModel, proven: list[tuple[str, int]]) -> None:
    for seed in range(3):
        model.prove(prompts_of(7, 5, seed=seed), "head")
    assert proven == [("head", 5)]
    model.prove(prompts_of(6), "head")
    model.prove(prompts_of(6), "block")
    model.prove(prompts_of(5), "head")
    assert proven == [("head", 5), ("head", 6), ("block", 6)]


def test_once_for_all_copies_of_a_model(model: HookedModel, proven: list[tuple[str, int]]) -> None:
    model.prove(prompts_of(5), "head")
    replace(model, batch_size=1).prove(prompts_of(5), "head")
    model.measured_by("logit_difference").prove(prompts_of(5), "head")
    assert len(proven) == 1
    tiny_models.tiny_model("llama").prove(prompts_of(5), "head")
    assert len(proven) == 2, "another module is another model"


def test_again_for_another_metric(proven: list[tuple[str, int]]) -> None:
    """A function is not read from the unembedding, so that its proof says nothing about that."""
    module = tiny_models.tiny_module("llama")
    model = hooked_with_scaled_logits(module)
    model.measured_by(as_metric(metric_functions.last_difference)).prove(prompts_of(5), "head")
    with pytest.raises(SiteError, match="check 'readout'"):
        model.prove(prompts_of(5), "head")
    assert len(proven) == 2


def hooked_with_scaled_logits(module: torch.nn.Module) -> HookedModel:
    kind = type(module)

    class Scaled(kind):  # type: ignore[misc, valid-type]
        def forward(self, *arguments: object, **keywords: object) -> object:
            output = super().forward(*arguments, **keywords)
            output.logits = output.logits * 0.5
            return output

    module.__class__ = Scaled
    return hook_module(module)


def test_a_failed_proof_is_made_again(model: HookedModel, proven: list[tuple[str, int]]) -> None:
    projection = model.module.get_submodule(model.structure.layers[0].projection)
    weight = projection.weight.detach().clone()
    projection.weight.data.zero_()
    for _ in range(2):
        with pytest.raises(SiteError, match="ablation matters"):
            model.prove(prompts_of(5), "head")
    projection.weight.data.copy_(weight)
    model.prove(prompts_of(5), "head")
    assert len(proven) == 3


def test_again_where_modules_were_replaced(model: HookedModel, proven: list[tuple[str, int]]) -> None:
    candidate = tiny_models.tiny_model("llama", seed=1)
    candidate.prove(prompts_of(5), "head")
    with kept_modules(model, candidate, [candidate.structure.layers[0].projection]) as kept:
        for _ in range(2):
            kept.prove(prompts_of(5), "head")
        assert len(proven) == 2
        with candidate.keeping(model, [candidate.structure.layers[1].projection]) as more:
            more.prove(prompts_of(5), "head")
        assert len(proven) == 3
    candidate.prove(prompts_of(5), "head")
    assert len(proven) == 3, "its own modules are back, and were proven"


def test_a_replaced_module_that_does_not_matter_is_found(model: HookedModel) -> None:
    candidate = tiny_models.tiny_model("llama", seed=1)
    path = candidate.structure.layers[0].projection
    candidate.prove(prompts_of(5), "head")
    model.module.get_submodule(path).weight.data.zero_()
    with candidate.keeping(model, [path]) as kept, pytest.raises(SiteError, match=r"layer 0, .*ablation matters"):
        kept.prove(prompts_of(5), "head")


def test_the_gate_proves_a_model_once_for_all_of_its_tasks(proven: list[tuple[str, int]]) -> None:
    reference, candidate = tiny_models.tiny_model("llama"), tiny_models.tiny_model("llama", seed=1)
    spec = MeasurementSpec(draws=100)
    tasks = [tiny_circuits.solvable_task(reference, name=name) for name in ("one", "two")]
    baselines = [record(reference, task, spec) for task in tasks]
    assert proven == [("head", 5), ("block", 5)], "whole modules are recorded beside heads"
    for baseline in baselines:
        measure(candidate, baseline)
    assert proven == [("head", 5), ("block", 5)] * 2
