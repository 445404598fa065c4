"""What units write, read in logits: the same in whatever basis a unit happens to keep its values.

A unit's value z acts on the rest of the model only by what its output map writes of it. A release may rotate or scale z
and turn the map round with it (SpinQuant, QuaRot, AWQ), or rotate the whole residual stream together with everything
that reads it; what is written, read through the model's own unembedding, stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.activations import Activations, FloatArray
from circuitcheck.core.units import Layout

LEAST_TOKENS, TOKENS_A_NUMBER = 64, 4
"""Tokens that are read: at least so many, and so many for each number of a unit, from which its value follows."""

NEGLIGIBLE = 1e-3
"""Directions of a value that write less than this share of what the strongest of any unit in the group does are left as
they are: a unit that later layers read, and the unembedding does not, is told by nothing but noise."""

Source = Literal["unembedding", "embedding", "sketch"]
"""What writes are read through; a random sketch does not turn with a rotated residual stream."""


@dataclass(frozen=True)
class Reading:
    """Maps from units' values to their direct effect on the logits of some tokens.

    Attributes:
        source: what they are read through.
        tokens: the rows of it.
        maps: for each group `[count, tokens, width]`, float32.
    """

    source: Source
    tokens: tuple[int, ...]
    maps: tuple[FloatArray, ...]

    @property
    def distinct_maps(self) -> tuple[FloatArray, ...]:
        """The maps; one alone where all groups share it, as all blocks of a model do."""
        return self.maps[:1] if all(read is self.maps[0] for read in self.maps) else self.maps

    def of_group(self, place: int) -> Reading:
        """The same of one group alone."""
        return replace(self, maps=(self.maps[place],))

    def writes(self, values: Activations) -> Activations:
        """What the units write, in logits, for each group `[tokens of the prompts, count, tokens read]`."""
        return replace(
            values,
            groups=tuple(
                np.einsum("pcw,ctw->pct", group, read, optimize=True)
                for group, read in zip(values.groups, self.maps, strict=True)
            ),
        )

    def moved(self, values: Activations, change: Activations) -> Activations:
        """The values nearest to `values` that write by `change` more, by least squares; as far as can be read.

        Args:
            values: of the units of this reading.
            change: of what they write, in logits.
        """
        groups = []
        for group, read, wanted in zip(values.groups, self.maps, change.groups, strict=True):
            # By the normal equations, in float64: their matrix is small, and its eigenvalues are squares.
            double = read.astype(np.float64)
            squares = double.swapaxes(1, 2) @ double
            largest = np.linalg.eigvalsh(squares)[:, -1]
            share = NEGLIGIBLE**2 * largest.max(initial=0.0) / np.where(largest > 0, largest, 1.0)
            inverse = np.linalg.pinv(squares, rcond=share, hermitian=True)
            step = np.einsum("pct,ctw,cwv->pcv", wanted, double, inverse, optimize=True)
            groups.append((group + step).astype(np.float32))
        return replace(values, groups=tuple(groups))

    def reordered(self, order: tuple[NDArray[np.intp], ...]) -> Reading:
        """The same with the units of each group in another order."""
        return replace(self, maps=tuple(map(in_order, self.maps, order)))


def in_order(values: FloatArray, order: NDArray[np.intp], axis: int = 0) -> FloatArray:
    """Values of units in another order along an axis; where it is the same, the array itself, which may be large."""
    return values if np.array_equal(order, np.arange(len(order))) else np.take(values, order, axis)


def tokens_to_read(
    layout: Layout, vocabulary: int | None, seed: int, a_number: int = TOKENS_A_NUMBER
) -> tuple[int, ...]:
    """Which tokens a reference is read at; in ascending order.

    Args:
        layout: of the units.
        vocabulary: how many token ids the model knows; where that is not known, rows of a sketch are numbered.
        seed: same seed, same tokens.
        a_number: how many for each number of a unit, at least.
    """
    wanted = max(LEAST_TOKENS, a_number * max(group.width for group in layout.groups))
    known = vocabulary or wanted
    chosen = np.random.default_rng(seed).choice(known, min(wanted, known), replace=False)
    return tuple(int(token) for token in np.sort(chosen))
