"""Correlation of two sides' values over tokens, from sums that prompts are drawn of."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from circuitcheck.stats.bootstrap import weighted_means

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PairedSums:
    """Sums over the tokens of each prompt, float64.

    Attributes:
        tokens: how many there are, `[prompts]`.
        x: of the one side's values, `[units, prompts]`, as all that follow.
        y: of the other's.
        xx: of the one side's squares.
        yy: of the other's.
        xy: of the products.
    """

    tokens: Array
    x: Array
    y: Array
    xx: Array
    yy: Array
    xy: Array

    def drawn(self, weights: Array) -> PairedSums:
        """Means over the prompts of each draw, `[draws]` and `[draws, units]`."""
        return PairedSums(*(weighted_means(weights, getattr(self, one.name)) for one in fields(self)))

    def total(self) -> PairedSums:
        """Means over all prompts."""
        return PairedSums(*(getattr(self, one.name).mean(-1) for one in fields(self)))

    def of(self, units: slice) -> PairedSums:
        """The same of some units."""
        return PairedSums(self.tokens, *(getattr(self, name)[units] for name in ("x", "y", "xx", "yy", "xy")))


def correlation(means: PairedSums) -> Array:
    """Pearson's r over tokens; NaN where either side is the same at all of them.

    Args:
        means: `[...]` tokens, and `[..., units]`.
    """
    tokens = np.asarray(means.tokens)[..., None]
    spread_x, spread_y = means.xx - means.x**2 / tokens, means.yy - means.y**2 / tokens
    # What rounding leaves of a difference of equal sums is no spread.
    moves = (spread_x > ROUNDING * means.xx) & (spread_y > ROUNDING * means.yy)
    product = np.where(moves, spread_x * spread_y, 1.0)
    found = (means.xy - means.x * means.y / tokens) / np.sqrt(product)
    return np.where(moves, np.clip(found, -1.0, 1.0), np.nan)


ROUNDING = 1e-10
"""Share of a sum of squares below which its spread is rounding, of float32 values summed in float64."""


def relative_difference(means: PairedSums) -> Array:
    """norm(x - y) / norm(x); 0 where both are 0, infinite where only x is."""
    square = np.maximum(means.xx - 2 * means.xy + means.yy, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt(np.where(square == 0, 0.0, square / means.xx))
