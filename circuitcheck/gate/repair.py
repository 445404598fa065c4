"""From the metrics of a repaired candidate to curves, areas and a diagnosis."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.metric import LOG_PROBABILITY
from circuitcheck.core.results import CurvePoint, Estimate, Repair
from circuitcheck.gate.observation import Observation
from circuitcheck.gate.sample import Sample
from circuitcheck.stats.bootstrap import mean_estimate, ratio_estimate, weighted_means
from circuitcheck.stats.estimate import estimate, magnitude
from circuitcheck.stats.recovery import areas_over_random, diagnose, recovery

Array = NDArray[Any]

DAMAGE_ORDERS = ("importance", "drift", "importance x drift", "fragility")
"""Orders that look for the damage; the others are controls."""


def summarize_repair(
    observed: Observation, reference: Array, candidate: Array, part: Sample, metric: str, seed: int
) -> Repair:
    """What giving units the reference's write gives back.

    Of a kind that has many only the measured ones are repaired. That these give little back says nothing about the
    others, so that it is no collapse, and there is no share that all units give back.

    Args:
        observed: the candidate's side.
        reference: m of the reference in logits, `[part]`.
        candidate: m of the candidate in logits, `[part]`.
        part: the prompts.
        metric: what was measured of a prompt.
        seed: of drawing from the random orders.
    """
    plan, some = observed.plan, observed.population is not None
    repaired = observed.repaired.astype(np.float64)
    known: dict[str, Any] = {
        "damage": mean_estimate(reference - candidate, part.weights, part.level),
        "unrepaired": mean_change(reference, repaired[plan.everything], part, metric),
    }
    if observed.damage != "damage":
        return Repair(observed.damage, **known, recovery=None)
    recoveries = recovery(reference, candidate, repaired, part.weights, part.level)
    if not plan.orders:
        return Repair(observed.damage, **known, recovery=None if some else recoveries[plan.everything])
    curves = {
        order: tuple(CurvePoint(k, recoveries[place]) for k, place in zip(plan.grid, plan.curve(units), strict=True))
        for order, units in plan.orders.items()
    }
    places = np.array([plan.curve(units) for units in plan.random])
    areas = {}
    if len(plan.grid) > 1:
        areas = areas_over_random(
            reference,
            candidate,
            {order: repaired[plan.curve(units)] for order, units in plan.orders.items()},
            repaired[places],
            plan.grid,
            part.weights,
            level=part.level,
            seed=seed,
        )
    diagnosis: str = diagnose(
        {order: [point.recovery.value for point in curves[order]] for order in DAMAGE_ORDERS}, areas, plan.grid
    )
    if some and diagnosis == "collapse":
        diagnosis = "elsewhere"
    return Repair(
        **known,
        recovery=None if some else recoveries[plan.everything],
        curves=curves,
        random=_band(places, recoveries, plan.grid),
        areas=areas,
        diagnosis=diagnosis,
    )


def mean_change(reference: Array, candidate: Array, sample: Sample, metric: str) -> Estimate:
    """|mean candidate / mean reference - 1| over the prompts of a sample, `[prompts]` each, dimensionless.

    Of a log-probability |mean candidate - mean reference|, in nats: it may be as near to 0 as it likes.
    """
    change = candidate - reference
    if metric == LOG_PROBABILITY.name:
        return magnitude(mean_estimate(change, sample.weights, sample.level))
    drawn, reference_drawn = (weighted_means(sample.weights, values) for values in (change, reference))
    return magnitude(ratio_estimate(change.mean(), reference.mean(), drawn, reference_drawn, sample.level))


def _band(places: Array, recoveries: list[Estimate], grid: tuple[int, ...]) -> tuple[CurvePoint, ...]:
    """Mean over the random orders, and where 95 % of them lie, which of twenty are all; `places` `[orders, counts]`."""
    values = np.array([recovered.value for recovered in recoveries])[places]
    return tuple(
        CurvePoint(k, estimate(float(column.mean()), column)) for k, column in zip(grid, values.T, strict=True)
    )
