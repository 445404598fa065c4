"""Patches: which units get which values. Plain data, so that any runtime can carry one out, split it or send it on."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from circuitcheck.core.activations import Activations
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
