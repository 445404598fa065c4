"""What a candidate did on a baseline's solved prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.metric import LOG_PROBABILITY
from circuitcheck.core.next_token import NextToken
from circuitcheck.core.routes import Routes
from circuitcheck.gate.basis import Written
from circuitcheck.gate.many import PopulationSums
from circuitcheck.gate.placing import Repaired
from circuitcheck.gate.repair_plan import RepairPlan
from circuitcheck.gate.sample import part_sample
from circuitcheck.gate.survival import ComparedFeatures
from circuitcheck.stats.first_order import FirstOrder
from circuitcheck.stats.recovery import Damage, damage


@dataclass(frozen=True)
class Observation:
    """Numbers of a candidate, of which measures are made.

    Attributes:
        metric: m of every solved prompt, `[solved]`.
        preference: what says whether the candidate solves it, above 0 where it does, `[solved]`.
        next_token: what it says comes next after every solved prompt, of the tokens that the baseline keeps; None where
            the reference says nothing.
        ablated: m with each measured unit ablated, on the prompts that the reference's were ablated on.
        written: both sides' units on the prompts and positions that the baseline keeps.
        first_order: what the reference's gradient says of the way from its z to this one.
        damage: whether there is anything to repair.
        plan: which sets of units were repaired.
        repaired: m under each set, `[sets, part]`.
        population: all units of both sides, where not all are measured.
        features: all of the task's features on both sides; None of other kinds of unit.
        routes: the choice of its routers, where it is known of both sides.
        modules: what repairing whole modules did, where there may be damage to place.
        level: how often intervals are to hold.
    """

    metric: NDArray[Any]
    preference: NDArray[Any]
    next_token: NextToken | None
    ablated: NDArray[Any]
    written: Written
    first_order: FirstOrder
    damage: Damage
    plan: RepairPlan
    repaired: NDArray[Any]
    population: PopulationSums | None
    features: ComparedFeatures | None
    routes: tuple[Routes, ...]
    modules: Repaired | None
    level: float


def part_damage(baseline: Recording, metric: NDArray[Any]) -> Damage:
    """Whether the prompts that can be repaired are damaged; `metric` is the candidate's of all solved ones."""
    sample, reference = part_sample(baseline), baseline.metric[list(baseline.z.index)].astype(np.float64)
    # A log-probability may be as near to 0 as it likes, so its damage is told in nats.
    scale = 1.0 if baseline.spec.metric == LOG_PROBABILITY.name else abs(float(reference.mean()))
    return damage(reference, baseline.of_part(metric), sample.weights, sample.level, scale=scale)
