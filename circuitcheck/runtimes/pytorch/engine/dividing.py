"""How a patch divides into parts that give the numbers of all at once: along the blocks that a sweep packs anyway."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.runtime import Part
from circuitcheck.runtimes.pytorch.engine.packing import few_rows
from circuitcheck.runtimes.pytorch.engine.row_blocks import gathered
from circuitcheck.runtimes.pytorch.torch_model import TorchModel


def parts_of(model: TorchModel, prompts: Prompts, patch: Patch) -> list[Part]:
    """Sets whose first units are in one layer, or in a few that have few rows, on prompts of one length.

    A sweep never packs others together, so that every row runs in the batch that it would run in anyway: sums are taken
    in the same order. Means over the task are taken anew by each part, so that those are not divided by length.

    Args:
        model: the model.
        prompts: the prompts.
        patch: which units get which values.
    """
    layers = [port.layer for port in model.ports(patch.kind)]
    starting: dict[int, list[int]] = {}
    for number, units in enumerate(patch.sets):
        if units:
            starting.setdefault(min(layers[place] for place, _ in units), []).append(number)
    everything = Part(prompts, tuple(range(len(patch.sets))))
    # These run as full passes, all of them together.
    if not starting or min(starting) < 0 or model.quantity.function is not None:
        return [everything]
    lengths: dict[int, list[int]] = {}
    for place in prompts.index:
        lengths.setdefault(len(prompts.task.pairs[place].clean), []).append(place)
    whole = patch.values == "mean" or not lengths
    some = [prompts] if whole else [replace(prompts, index=tuple(lengths[length])) for length in sorted(lengths)]
    return [part for prompts in some for part in _by_layer(model, prompts, starting, everything.sets)]


def _by_layer(
    model: TorchModel, prompts: Prompts, starting: dict[int, list[int]], sets: Sequence[int]
) -> Iterator[Part]:
    """Sets cut where the sweep of every batch cuts them; those without units, which cost nothing, are with the last."""
    order = [number for _, numbers in sorted(starting.items()) for number in numbers]
    layer_of = {number: layer for layer, numbers in starting.items() for number in numbers}
    behind = [_parameters(model, layer) for layer in range(len(model.structure.layers))]
    ends = set(range(1, len(order) + 1))
    for batch in prompts.batches(model.at_most(None)):
        groups = gathered(starting, len(batch.index), few_rows(model, batch.clean.shape[1]))
        ends &= set(accumulate(map(len, groups)))
    start = 0
    for end in sorted(ends):
        chosen = order[start:end]
        empty = sorted(set(sets) - set(order)) if end == len(order) else []
        weights = sum(sum(behind[layer_of[number] :]) for number in chosen)
        yield Part(prompts, (*chosen, *empty), float(_tokens(prompts) * weights))
        start = end


def _parameters(model: TorchModel, layer: int) -> int:
    path = model.structure.layers[layer].path
    return sum(weight.numel() for weight in model.module.get_submodule(path).parameters())


def _tokens(prompts: Prompts) -> int:
    return sum(len(prompts.task.pairs[place].clean) for place in prompts.index)
