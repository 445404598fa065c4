"""What looks like a change of basis and is none: edits of one head that a gate must not pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from circuitcheck.core.units import Unit
from detection.anatomy import HeadMaps, head_maps
from detection.bases import map_output, map_values, rotation


@dataclass(frozen=True)
class Target:
    """Where a fault is planted.

    Attributes:
        maps: of the head's layer.
        head: the head.
        other: a head of another key/value group of that layer, for what takes two.
        generator: of random numbers.
    """

    maps: HeadMaps
    head: int
    other: int
    generator: torch.Generator

    @property
    def group(self) -> int:
        """The head's key/value group; what is done to its values is done to all of its heads."""
        return self.head // self.maps.per_group

    def scale_values(self, factor: float) -> None:
        """Multiplies the group's values alone."""
        for tensor in self.maps.values[self.group].tensors:
            tensor.mul_(factor)

    def scale_output(self, factor: float) -> None:
        """Multiplies what the output projection makes of the head alone."""
        self.maps.outputs[self.head].mul_(factor)

    def swap_values(self) -> None:
        """Exchanges the values of two groups, and nothing else of them."""
        there = self.other // self.maps.per_group
        for tensors in zip(self.maps.values[self.group].tensors, self.maps.values[there].tensors, strict=True):
            _swap(*tensors)

    def swap_outputs(self) -> None:
        """Lets the output projection read each of two heads in the other's place."""
        _swap(self.maps.outputs[self.head], self.maps.outputs[self.other])

    def rotate(self, *, values: int, output: int) -> None:
        """Rotates the group's values so many times, and rotates back so many times behind the head.

        The group's other heads are rotated back as often as their values were rotated.
        """
        turn = rotation(self.maps.outputs[0].shape[1], self.generator)
        map_values(self.maps.values[self.group], torch.linalg.matrix_power(turn, values))
        for head in self.maps.members(self.group):
            times = output if head == self.head else values
            map_output(self.maps.outputs[head], torch.linalg.matrix_power(turn.T, times))


def _swap(here: torch.Tensor, there: torch.Tensor) -> None:
    kept = here.clone()
    here.copy_(there)
    there.copy_(kept)


@dataclass(frozen=True)
class LookAlike:
    """An edit, and the share of what the head does that it takes."""

    edit: Callable[[Target], None]
    takes: float = 1.0


LOOK_ALIKES: Mapping[str, LookAlike] = {
    "values doubled": LookAlike(lambda target: target.scale_values(2)),
    "values flipped": LookAlike(lambda target: target.scale_values(-1), takes=2),
    "values rotated": LookAlike(lambda target: target.rotate(values=1, output=0)),
    "values swapped": LookAlike(Target.swap_values),
    "output doubled": LookAlike(lambda target: target.scale_output(2)),
    "output flipped": LookAlike(lambda target: target.scale_output(-1), takes=2),
    "output rotated": LookAlike(lambda target: target.rotate(values=0, output=1)),
    "outputs swapped": LookAlike(Target.swap_outputs),
    "z times 1.5": LookAlike(lambda target: target.scale_output(1.5), takes=0.5),
    "rotated back twice": LookAlike(lambda target: target.rotate(values=1, output=2)),
}


def plant(module: nn.Module, name: str, head: Unit, other: Unit, seed: int = 0) -> None:
    """Plants a look-alike in place.

    Args:
        module: a float32 model of an architecture in `detection.anatomy`.
        name: a key of `LOOK_ALIKES`.
        head: where the fault is; it should matter, for a look-alike in a head that does nothing is no fault.
        other: a head of the same layer and another key/value group.
        seed: of a rotation.
    """
    maps = head_maps(module, head[0])
    LOOK_ALIKES[name].edit(Target(maps, head[1], other[1], torch.Generator().manual_seed(seed)))


def targets(importance: Mapping[Unit, float], per_group: int) -> tuple[Unit, Unit]:
    """The most important head, and the most important of the same layer in another key/value group.

    Args:
        importance: of every head; its sign does not count.
        per_group: query heads that share a key and a value.
    """
    order = sorted(importance, key=lambda head: -abs(importance[head]))
    first = order[0]
    others = (one for one in order if one[0] == first[0] and one[1] // per_group != first[1] // per_group)
    return first, next(others)
