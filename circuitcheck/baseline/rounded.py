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
        moves: root mean square over prompts of how far each unit's write moved, in logits, float32 `[units]`.
    """

    precision: str
    name: str
    measures: dict[str, float]
    moves: NDArray[np.float32]


def moves_of(roundings: Sequence[Rounded], precision: str) -> NDArray[np.float64]:
    """How far roundings to a precision moved each unit, the furthest of them all, in logits.

    Returns:
        `[units]`; empty where the reference was not rounded to it.
    """
    known = [one.moves.astype(np.float64) for one in roundings if one.precision == precision]
    return np.max(known, axis=0) if known else np.empty(0)
