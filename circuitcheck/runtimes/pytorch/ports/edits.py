"""What replaces the units of a block of rows: the one way in which values are put into a model."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from circuitcheck.core.units import Unit
from circuitcheck.runtimes.pytorch.ports.ports import CannotEditError, Port, UnitEdit, editing_units


@dataclass(frozen=True)
class Edits:
    """Values for some units of rows, each of which is one prompt under one set of units.

    Attributes:
        ports: of all groups.
        masks: place of a group to its units that are replaced, bool `[sets, count]`; only groups where there are any.
        values: for each of these groups what replaces them, `[prompts, seq or 1, count, width]`.
    """

    ports: Sequence[Port]
    masks: Mapping[int, Tensor]
    values: Mapping[int, Tensor]

    @classmethod
    def of(cls, ports: Sequence[Port], sets: Sequence[Collection[Unit]], values: Sequence[Tensor]) -> Edits:
        """The edits that put `values` into each set of units."""
        masks: dict[int, Tensor] = {}
        for number, units in enumerate(sets):
            for place, index in units:
                if place not in masks:
                    masks[place] = torch.zeros(len(sets), ports[place].group.count, dtype=torch.bool)
                masks[place][number, index] = True
        return cls(
            ports,
            {place: mask.to(values[place].device) for place, mask in masks.items()},
            {place: values[place] for place in masks},
        )

    def in_layer(self, layer: int) -> list[int]:
        """Places of the groups that are edited in the call of a layer."""
        return [place for place in self.masks if self.ports[place].layer == layer]

    def part(self, prompt: int) -> Edits:
        """The same for one of the prompts."""
        return Edits(self.ports, self.masks, {at: value[prompt : prompt + 1] for at, value in self.values.items()})

    def of_sets(self, sets: slice) -> Edits:
        """The same for some of the sets."""
        if sets == slice(0, len(next(iter(self.masks.values()), ()))):
            return self
        masks = {place: mask[sets] for place, mask in self.masks.items()}
        masks = {place: mask for place, mask in masks.items() if mask.any()}
        return Edits(self.ports, masks, {place: self.values[place] for place in masks})

    def apply(self, place: int, tensor: Tensor) -> Tensor:
        """Edits a group, `[sets or 1, prompts, seq, count, width]`; returns `[sets, ...]`.

        Where only the last positions are there, only their values are put in.
        """
        mask = self.masks[place][:, None, None, :, None]
        value = self.values[place][None, :, -tensor.shape[2] :].to(tensor.dtype)
        replaced = torch.where(mask, value, tensor[:, :, -value.shape[2] :])
        if replaced.shape[2] == tensor.shape[2]:
            return replaced
        kept = tensor[:, :, : -value.shape[2]].expand(len(replaced), -1, -1, -1, -1)
        return torch.cat([kept, replaced], 2)

    @contextmanager
    def in_place(
        self, module: nn.Module, places: Sequence[int] | None = None, *, sets: int | None = None, seq: int | None = None
    ) -> Iterator[None]:
        """Puts the values into every forward pass inside the block.

        Args:
            module: the model.
            places: groups to edit; all that have a mask by default.
            sets: how many sets are under way at these ports; told from `seq` where it is not given.
            seq: how many positions are.
        """
        with ExitStack() as stack:
            for place in self.masks if places is None else places:
                stack.enter_context(editing_units(module, self.ports[place], self.edit(place, sets, seq)))
            yield

    def edit(self, place: int, sets: int | None = None, seq: int | None = None) -> UnitEdit:
        """What puts a group's values into the units that pass its port; arguments as of `in_place`."""
        group, prompts = self.ports[place].group, len(self.values[place])

        def edit(units: Tensor) -> Tensor:
            # Some layers hand on all tokens behind one another, and a replay all prompts as one long row.
            shape = (sets or -1, prompts, seq or -1, group.count, group.width)
            try:
                rows = units.reshape(shape)
            except RuntimeError as error:
                raise CannotEditError(
                    f"{self.ports[place].module} is called with {list(units.shape)}, which is not "
                    f"{group.count} x {group.width} numbers for each position of {prompts} prompts"
                ) from error
            edited = self.apply(place, rows)
            first, *others = units.shape
            return edited.reshape(first * len(edited) // len(rows), *others)

        return edit
