"""Encoders, whose metric is a Python function of what they put out."""

from __future__ import annotations

from typing import Any

import patches
import pytest
import tiny_models
import torch
from torch import Tensor

from circuitcheck.core.errors import SiteError
from circuitcheck.core.metric import Function
from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.loading.load import hook_module
from circuitcheck.runtimes.pytorch.ports.proofs import prove

MASK = 4
"""The token that stands for the word to be told."""

SITE = "bert.encoder.layer.{}.attention.output.dense"


def at_the_mask(output: Any, ids: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """logit(answer) - logit(foil) where the mask is, as for a causal model at the last position."""
    rows = output.logits[ids == MASK].float()
    number = torch.arange(len(ids))
    return rows[number, answer] - rows[number, foil]


def between_classes(output: Any, ids: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """Answer and foil are classes here."""
    number = torch.arange(len(ids))
    return output.logits[number, answer].float() - output.logits[number, foil].float()


def mean_of_states(output: Any, ids: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """Of a model without any head."""
    return output.last_hidden_state.float()[:, :, :7].mean((1, 2))


ENCODERS: dict[str, tuple[str, Function]] = {
    "masked language model": ("bert", at_the_mask),
    "classifier": ("bert-classifier", between_classes),
    "no head at all": ("bert", mean_of_states),
}


def encoder(name: str) -> HookedModel:
    kind, metric = ENCODERS[name]
    module = tiny_models.tiny_module(kind)
    return hook_module(module.bert if metric is mean_of_states else module, name=name, metric=metric)


def prompts(count: int = 4) -> Task:
    """The mask stands in the middle, and answer and foil are two of the three classes."""
    pairs = []
    for number, row in enumerate(5 + tiny_models.token_ids(count, 7) % 40):
        clean = [*row[:3].tolist(), MASK, *row[3:].tolist()]
        other = [(clean[0] + 1) % 40 + 5, *clean[1:]]
        pairs.append(PromptPair(tuple(clean), tuple(other), 1 + number % 2, 0, f"cluster {number}"))
    return Task("encoded", tuple(pairs))


def test_where_their_heads_are() -> None:
    model = hook_module(tiny_models.tiny_module("bert"))
    assert [site.projection for site in model.structure.layers] == [SITE.format(0), SITE.format(1)]
    assert [site.attention for site in model.structure.layers] == [
        "bert.encoder.layer.0.attention",
        "bert.encoder.layer.1.attention",
    ]
    assert model.structure.output_layer == "cls.predictions.decoder"
    assert model.structure.embedding == "bert.embeddings.word_embeddings"
    classifier = hook_module(tiny_models.tiny_module("bert-classifier"))
    assert classifier.structure.layers == model.structure.layers
    assert classifier.structure.output_layer is None


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_their_hooks_are_proven(name: str, dtype: torch.dtype) -> None:
    model = encoder(name)
    model.module.to(dtype)
    with model.unchanged():
        prove(model, torch.tensor([pair.clean for pair in prompts(2).pairs]))


@pytest.mark.parametrize("name", ["classifier", "no head at all"])
def test_logits_of_tokens_cannot_be_read_from_a_model_that_has_none(name: str) -> None:
    model = hook_module(encoder(name).module, name=name)
    refused = rf"(?s){name}: .*output layer, module none, check 'readout': .*from which logit_difference is read"
    with pytest.raises(SiteError, match=refused):
        prove(model, torch.tensor([pair.clean for pair in prompts(2).pairs]))


def test_heads_of_a_classifier_that_do_not_matter_are_refused() -> None:
    """The proofs are the same with no unembedding: here the last layer's attention is cut off."""
    model = encoder("classifier")
    model.module.bert.encoder.layer[1].attention.output.dense.weight.data.zero_()
    with pytest.raises(SiteError, match=r"layer 1, module \S+, check 'ablation matters'"):
        prove(model, torch.tensor([pair.clean for pair in prompts(2).pairs]))


@pytest.mark.parametrize("name", ENCODERS)
def test_their_importances_are_those_of_full_passes(name: str) -> None:
    model, task = encoder(name), prompts()
    metric = ENCODERS[name][1]
    notes: list[str] = []
    found = patches.ablated_metric(model, task, range(4), "zero", notes=notes)
    assert len(notes) == 1
    assert f"{name}: every intervention ran as a full pass" in notes[0]
    ids = torch.tensor([pair.clean for pair in task.pairs])
    answer, foil = torch.tensor([pair.answer for pair in task.pairs]), torch.zeros(4, dtype=torch.long)
    with torch.no_grad():
        clean = metric(model.module(ids), ids, answer, foil)
    for row, (layer, head) in enumerate(patches.units_of(model)):
        projection = model.module.get_submodule(model.structure.layers[layer].projection)

        def silence(_: Any, given: tuple[Tensor, ...], head: int = head) -> tuple[Tensor]:
            z = given[0].clone()
            z[..., 8 * head : 8 * (head + 1)] = 0
            return (z,)

        handle = projection.register_forward_pre_hook(silence)
        with torch.no_grad():
            expected = metric(model.module(ids), ids, answer, foil)
        handle.remove()
        assert torch.equal(torch.from_numpy(found[row]), expected)
        assert not torch.equal(expected, clean)
