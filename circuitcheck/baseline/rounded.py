"""What plain rounding does to a reference, as it is kept: by it a baseline knows what a precision costs this model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MEASURES = (
    "drift",
    "profile_distance",
    "ranking_agreement",
    "behaviour_kept",
    "metric_change",
    "unrepaired",
    "kl_divergence",
    "changed_answers",
)
"""What is kept of each rounding, in the units of the measures."""


@dataclass(frozen=True)
class Rounded:
    """The reference under one rounding, measured like a candidate.

    Attributes:
        precision: whose candidates it stands for, such as `4-bit`.
        name: how it rounds.
        measures: those of `MEASURES` that are defined, and their values.
        squares: of how far each unit's write moved on each prompt that units are kept of, in logits squared, float32
            `[units, part]`.
        layers: the same of all units of each layer together at the answer position, float32 `[layers, part]`, where
            not all units are measured; else None.
    """

    precision: str
    name: str
    measures: dict[str, float]
    squares: NDArray[np.float32]
    layers: NDArray[np.float32] | None = None


def layer_squares_of(roundings: Sequence[Rounded], precision: str) -> NDArray[np.float64]:
    """How far each rounding to a precision moved all units of each layer, `[roundings, layers, part]`."""
    return np.array([one.layers for one in roundings if one.precision == precision], np.float64)


def squares_of(roundings: Sequence[Rounded], precision: str) -> NDArray[np.float64]:
    """How far each rounding to a precision moved each unit on each prompt, in logits squared.

    Returns:
        `[roundings, units, part]`; `[0]` where the reference was not rounded to it.
    """
    return np.array([one.squares for one in roundings if one.precision == precision], np.float64)
