"""Tasks that a tiny random model solves, and faults planted into a copy of it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from circuitcheck.core.prompts import PromptPair, Task
from circuitcheck.core.units import Unit
from circuitcheck.runtimes.pytorch.forward import last_logits
from circuitcheck.runtimes.pytorch.hooked import HookedModel

CLUSTERS = 6


def solvable_task(model: HookedModel, prompts: int = 8, vocabulary: int = 50, name: str = "tiny") -> Task:
    """Random prompts of two lengths whose answer is what the model says, and whose foil is what it says least."""
    generator = torch.Generator().manual_seed(7)
    pairs = []
    for number in range(prompts):
        ids = torch.randint(2, vocabulary, (1, 5 + number % 2), generator=generator)
        other = ids.clone()
        other[0, 2] = 2 + (ids[0, 2] - 1) % (vocabulary - 2)  # another token in the middle
        with torch.no_grad():
            logits = last_logits(model, ids)[0]
        clean, counterfactual = tuple(ids[0].tolist()), tuple(other[0].tolist())
        answer, foil = int(logits.argmax()), int(logits.argmin())
        pairs.append(PromptPair(clean, counterfactual, answer, foil, f"cluster {number % CLUSTERS}"))
    return Task(name, tuple(pairs))


def unsolvable_task(model: HookedModel, prompts: int = 8, vocabulary: int = 50) -> Task:
    """The same prompts with answer and foil exchanged, so that not one is solved."""
    task = solvable_task(model, prompts, vocabulary)
    return Task("unsolved", tuple(replace(pair, answer=pair.foil, foil=pair.answer) for pair in task.pairs))


def copy_of(model: HookedModel, name: str = "candidate") -> HookedModel:
    """A model of its own with the same weights."""
    return replace(model, module=deepcopy(model.module), name=name, proven=WeakKeyDictionary())


def output_columns(model: HookedModel, layer: int, head: int) -> Tensor:
    """A view of the part of a layer's output projection that reads one head, `[d_model, d_head]`."""
    site = model.structure.layers[layer]
    weight = model.module.get_submodule(site.projection).weight
    return weight.detach()[:, head * site.d_head : (head + 1) * site.d_head]


def scale_head(model: HookedModel, layer: int, head: int, factor: float) -> HookedModel:
    """A copy in which one head writes `factor` times what it wrote."""
    faulty = copy_of(model)
    output_columns(faulty, layer, head).mul_(factor)
    return faulty


def swap_heads(model: HookedModel, layer: int, first: int, second: int) -> HookedModel:
    """A copy in which two heads write with each other's output weights."""
    faulty = copy_of(model)
    ours, theirs = output_columns(faulty, layer, first), output_columns(faulty, layer, second)
    ours_before = ours.clone()
    ours.copy_(theirs)
    theirs.copy_(ours_before)
    return faulty


def most_important(importance: np.ndarray, heads: Sequence[Unit], layer: int) -> list[int]:
    """The heads of one layer, by |importance|, largest first."""
    of_layer = [(abs(value), head) for value, (where, head) in zip(importance, heads, strict=True) if where == layer]
    return [head for _, head in sorted(of_layer, reverse=True)]
