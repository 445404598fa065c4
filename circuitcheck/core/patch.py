"""Patches: which units get which values. Plain data, so that any runtime can carry one out, split it or send it on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.activations import Activations
from circuitcheck.core.prompts import Batch
from circuitcheck.core.specification import Ablation, Positions
from circuitcheck.core.units import Unit


@dataclass(frozen=True)
class Patch:
    """Sets of units, each of which gives one run of every prompt. Ablation and repair are both patches.

    Attributes:
        kind: the kind of all units.
        sets: for each run the units whose values are replaced, all at once; an empty set replaces nothing.
        values: what they are replaced by: `resample` (the run's own values on the paired counterfactual), `mean` (over
            the task's clean and counterfactual prompts, per position counted back from the answer), `zero`, or given
            activations.
        positions: `all`, or only the `answer` position; activations that are given say it themselves.
    """

    kind: str
    sets: tuple[Collection[Unit], ...]
    values: Ablation | Activations
    positions: Positions = "all"

    def starts(self, batch: Batch, kept: int) -> NDArray[np.intp]:
        """The first position of every prompt at which a set may change anything, `[batch]`.

        Args:
            batch: the prompts.
            kept: positions that values are given for, counted back from the answer.
        """
        seq = batch.clean.shape[1]
        starts = np.full(len(batch.index), seq - kept)
        if self.values != "resample":
            return starts
        # Before the first token that differs, the counterfactual has the values that the prompt has.
        differs = batch.clean != batch.counterfactual
        found: NDArray[np.intp] = np.maximum(starts, np.where(differs.any(1), differs.argmax(1), seq - 1))
        return found
