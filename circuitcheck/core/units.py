"""Units, the smallest things that are measured, ablated and repaired, and their order in a model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

MOST_EXACT = 256
"""Units of one number each, such as neurons, beyond which not all are measured."""

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
        of: how many units there are, of which these are some; 0 where they are all.
        numbers: of these among all, ascending; none where they are all.
    """

    name: str
    layer: int
    count: int
    width: int
    numbered: bool = True
    of: int = 0
    numbers: tuple[int, ...] = ()

    @property
    def total(self) -> int:
        """How many units pass together, these and the others."""
        return self.of or self.count

    @property
    def whole(self) -> Group:
        """The group of all of them."""
        return replace(self, count=self.total, of=0, numbers=())

    def label(self, index: int) -> str:
        """How people call one of its units, such as `3.5` or `mlp 3`."""
        number = self.numbers[index] if self.of else index
        return f"{self.name}.{number}" if self.numbered else self.name

    def only(self, indices: Sequence[int]) -> Group:
        """Some of its units, by their places in it, ascending."""
        numbers = tuple(self.numbers[index] if self.of else int(index) for index in indices)
        return replace(self, count=len(numbers), of=self.total, numbers=numbers)


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

    @property
    def is_many(self) -> bool:
        """Whether there are too many units to measure each: most of them are one number, and matter next to nothing."""
        return len(self.units) > MOST_EXACT and all(group.width == 1 for group in self.groups)

    @property
    def is_some(self) -> bool:
        """Whether these are some of more units."""
        return any(group.of for group in self.groups)

    @property
    def whole(self) -> Layout:
        """The layout of all units, where this one is of some."""
        return Layout(self.kind, tuple(group.whole for group in self.groups))

    def only(self, units: Collection[Unit]) -> Layout:
        """Some of the units; groups without any are left out."""
        chosen: dict[int, list[int]] = {}
        for place, index in sorted(units):
            chosen.setdefault(place, []).append(index)
        return Layout(self.kind, tuple(self.groups[place].only(indices) for place, indices in chosen.items()))

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
