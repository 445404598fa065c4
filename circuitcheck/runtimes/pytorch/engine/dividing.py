"""How a patch divides into parts that give the numbers of all at once: along the blocks that a sweep packs anyway."""

from __future__ import annotations

from dataclasses import replace

from circuitcheck.core.patch import Patch
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.runtime import Part
from circuitcheck.runtimes.pytorch.torch_model import TorchModel


def parts_of(model: TorchModel, prompts: Prompts, patch: Patch) -> list[Part]:
    """Sets whose first units are in one layer, on prompts of one length.

    A sweep never packs others together, so that every row runs in the batch that it would run in anyway: sums are taken
    in the same order. Means over the task are taken anew by each part, so that those are not divided by length.

    Args:
        model: the model.
        prompts: the prompts.
        patch: which units get which values.
    """
    layers = [port.layer for port in model.ports(patch.kind)]
    sizes = [
        sum(weight.numel() for weight in model.module.get_submodule(site.path).parameters())
        for site in model.structure.layers
    ]
    starting: dict[int, list[int]] = {}
    for number, units in enumerate(patch.sets):
        starting.setdefault(min((layers[place] for place, _ in units), default=max(layers)), []).append(number)
    # These run as full passes, all of them together.
    if not starting or min(starting) < 0 or model.quantity.function is not None:
        return [Part(prompts, tuple(range(len(patch.sets))))]
    lengths: dict[int, list[int]] = {}
    for place in prompts.index:
        lengths.setdefault(len(prompts.task.pairs[place].clean), []).append(place)
    whole = patch.values == "mean" or not lengths
    some = [prompts] if whole else [replace(prompts, index=tuple(lengths[length])) for length in sorted(lengths)]
    return [
        Part(part, tuple(starting[layer]), float(_tokens(part) * len(starting[layer]) * sum(sizes[layer:])))
        for part in some
        for layer in sorted(starting)
    ]


def _tokens(prompts: Prompts) -> int:
    return sum(len(prompts.task.pairs[place].clean) for place in prompts.index)
