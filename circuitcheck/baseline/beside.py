"""Units of another kind, kept because repairing them tells where damage is that lies beside what is measured."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from circuitcheck.core.activations import Activations
from circuitcheck.core.reading import Reading
from circuitcheck.core.units import Layout

BESIDE = "block"
"""The kind: whole attentions and whole MLPs, so that every layer's modules have a name."""

PROMPTS = 8
"""Of how many prompts they are kept, at most: enough to tell which module it is (`benchmarks/modules.py`)."""


@dataclass(frozen=True)
class Beside:
    """Units of another kind, on the first of the prompts that units are kept of.

    Attributes:
        layout: of them.
        z: their values.
        reading: how they are read in logits.
    """

    layout: Layout
    z: Activations
    reading: Reading

    def first(self, prompts: int) -> Self:
        """The same of the first so many prompts."""
        return replace(self, z=self.z.first(prompts))
