"""What a golden baseline keeps of a reference's features, beside what it keeps of any unit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.features import LEAST_EXPLAINED, DictionaryFacts, StreamBasis
from circuitcheck.core.units import Layout


@dataclass(frozen=True)
class FeatureRecord:
    """Features that are active on a task, with their values on the prompts that values of units are kept of.

    Most are 0 at most positions, so that only the others are kept.

    Attributes:
        dictionaries: what they are read by, and how much of the reference these explain.
        layout: all features that are active on the task, in order.
        tokens: position of each value among all of these prompts, which lie behind one another, ascending, `[values]`.
        units: place of its feature among all of the layout, `[values]`.
        values: float32 `[values]`.
        basis: by what a rotated candidate is read; None where the reference has no token embedding.
        surviving: share of them that survive each rounding of the reference, float32 `[roundings]`.
    """

    dictionaries: tuple[DictionaryFacts, ...]
    layout: Layout
    tokens: NDArray[np.int32]
    units: NDArray[np.int32]
    values: NDArray[np.float32]
    basis: StreamBasis | None
    surviving: NDArray[np.float32]

    def first(self, positions: int) -> Self:
        """The same of the first so many positions."""
        kept = int(np.searchsorted(self.tokens, positions))
        return replace(self, tokens=self.tokens[:kept], units=self.units[:kept], values=self.values[:kept])

    @property
    def unexplained(self) -> str:
        """Which dictionaries explain too little of the reference, and how much; empty where none does."""
        low = [
            f"{one.group} explains {max(one.explained, 0.0):.0%}"
            for one in self.dictionaries
            if not one.explained >= LEAST_EXPLAINED
        ]
        return ", ".join(low)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Group to the fingerprint of its dictionary."""
        return {one.group: one.fingerprint for one in self.dictionaries}
