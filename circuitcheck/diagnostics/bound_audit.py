"""Measured degradation beside what the first order says of it: is the bound one, and is the estimate right?"""

from __future__ import annotations

import numpy as np

from circuitcheck.core.results import BoundAudit, Integrated, PerPrompt
from circuitcheck.stats.estimate import rounding_slack
from circuitcheck.stats.first_order import FirstOrder


def audit(
    damage: FirstOrder,
    metric_reference: np.ndarray,
    metric_candidate: np.ndarray,
    integrated: np.ndarray | None = None,
) -> BoundAudit:
    """Holds the first order against what was measured.

    Args:
        damage: of the same prompts, in the same order.
        metric_reference: m of the reference in logits, `[prompts]`.
        metric_candidate: m of the candidate in logits, `[prompts]`.
        integrated: integrated gradients times d of every unit, in logits, `[units, prompts]`.

    Raises:
        ValueError: metrics, or integrated gradients, of another number of prompts.
    """
    reference, candidate = np.asarray(metric_reference, np.float64), np.asarray(metric_candidate, np.float64)
    also = damage.per_unit if integrated is None else np.asarray(integrated, np.float64)
    if not reference.shape == candidate.shape == damage.per_unit.shape[1:] == also.shape[1:]:
        raise ValueError(
            f"metrics of shapes {reference.shape} and {candidate.shape} do not fit {damage.per_unit.shape[1]} prompts."
        )
    with np.errstate(invalid="ignore"):
        lost = reference - candidate
    degradation = np.abs(lost)
    estimates, bounds, slack = -damage.per_unit.sum(0), damage.bound_per_unit.sum(0), rounding_slack(reference)
    holds = degradation <= bounds + slack  # False for NaN: what was not measured is not covered
    degraded = degradation > slack
    return BoundAudit(
        degradation=float(degradation.mean()),
        estimate=float(np.abs(estimates).mean()),
        bound=float(bounds.mean()),
        coverage=float(holds.mean()),
        looseness=float(np.median(bounds[degraded] / degradation[degraded])) if degraded.any() else float("nan"),
        violated=not holds.all(),
        relative_error=_relative_error(estimates, lost, slack),
        per_prompt=PerPrompt(*(tuple(map(float, values)) for values in (lost, estimates, bounds))),
        integrated=None if integrated is None else _integrated(-also.sum(0), lost, slack),
    )


def _integrated(estimates: np.ndarray, lost: np.ndarray, slack: np.ndarray) -> Integrated:
    return Integrated(float(np.abs(estimates).mean()), _relative_error(estimates, lost, slack))


def _relative_error(estimates: np.ndarray, lost: np.ndarray, slack: np.ndarray) -> float:
    """Mean |estimate - lost| over mean |lost|; NaN where nothing is lost but by rounding."""
    size = np.abs(lost).mean()
    return float(np.abs(estimates - lost).mean() / size) if size > slack.mean() else float("nan")
