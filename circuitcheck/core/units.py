"""Units, the smallest things that are measured, ablated and repaired, and their order in a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

Unit = tuple[int, int]
"""(place of its group in the layout, place in the group), both from 0. Where the units are heads, (layer, head)."""


@dataclass(frozen=True)
class Group:
    """Units of one kind and one layer that are read and written together.

    Attributes:
        name: what labels begin with: `3` for the heads of layer 3, `mlp 3` for that layer's MLP.
        layer: from 0.
        count: how many units.
        width: numbers of one unit at one position.
        numbered: whether its units have numbers; the one unit of a group without them is called like the group.
    """

    name: str
    layer: int
    count: int
    width: int
    numbered: bool = True

    def label(self, index: int) -> str:
        """How people call one of its units, such as `3.5` or `mlp 3`."""
        return f"{self.name}.{index}" if self.numbered else self.name


@dataclass(frozen=True)
class Layout:
    """A model's units of one kind, in order of execution. Arrays, baselines and reports all use this order.

    Attributes:
        kind: `head`, `block`, ...
        groups: in order of execution.
    """

    kind: str
    groups: tuple[Group, ...]

    @cached_property
    def units(self) -> tuple[Unit, ...]:
        """All units, group by group."""
        return tuple((place, index) for place, group in enumerate(self.groups) for index in range(group.count))

    def label(self, unit: Unit) -> str:
        """How people call a unit."""
        return self.groups[unit[0]].label(unit[1])

    def layer(self, unit: Unit) -> int:
        """The layer that a unit is in, from 0."""
        return self.groups[unit[0]].layer

    def column(self, unit: Unit) -> int:
        """Place of a unit among all of its layer, from 0; for heads, the head's number."""
        place, index = unit
        layer = self.groups[place].layer
        return index + sum(group.count for group in self.groups[:place] if group.layer == layer)
