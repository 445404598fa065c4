"""What is kept of all units of a kind that has too many to measure each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.activations import Activations
from circuitcheck.core.reading import Reading
from circuitcheck.core.units import Layout


@dataclass(frozen=True)
class Population:
    """All units of a kind, of which a recording measures those that matter most.

    Attributes:
        layout: of all of them.
        score: how much each may matter by the reference's gradients, in logits, float32 `[all units]`; those that score
            highest are measured.
        z: their values at the answer position of the prompts that values of the measured ones are kept of.
        reading: how they are read in logits, at fewer tokens than the measured ones.
        sample: places, ascending, of a random sample of the others, which was ablated in the reference alone.
        ablated: m with each of the sample ablated, float32 `[sample, part]`.
    """

    layout: Layout
    score: NDArray[np.float32]
    z: Activations
    reading: Reading
    sample: tuple[int, ...]
    ablated: NDArray[np.float32]

    def first(self, prompts: int) -> Self:
        """The same of the first so many prompts."""
        return replace(self, z=self.z.first(prompts), ablated=self.ablated[:, :prompts])

    def places(self, measured: Layout) -> list[int]:
        """Where the units of the layout that is measured stand among all."""
        units = [(group.name, number) for group in self.layout.groups for number in group.numbers or range(group.count)]
        places = {unit: place for place, unit in enumerate(units)}
        return [places[group.name, number] for group in measured.groups for number in group.numbers]
