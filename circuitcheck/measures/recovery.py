"""What putting the reference's heads back into the candidate gives back, and what that says about the damage."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from math import ceil, inf, nan
from typing import Literal

import numpy as np

from circuitcheck.errors import CandidateError
from circuitcheck.measures.bootstrap import mean_estimate, weighted_means
from circuitcheck.measures.estimate import Estimate, estimate
from circuitcheck.measures.rounding import rounding_slack

Diagnosis = Literal["no damage", "unresolved", "localized", "distributed", "collapse"]

NEGLIGIBLE = 0.05  # damage below this share of the reference's mean metric is no damage
FEW_HEADS = Fraction(1, 5)  # this share of all heads, rounded up, is few; a fraction, for 0.2 * 35 is above 7
MOST = 0.8  # damage is localized where few heads recover this much
ENOUGH = 0.5  # damage is a collapse where all heads recover less than this


def recovery(reference: np.ndarray, candidate: np.ndarray, repaired: np.ndarray, weights: np.ndarray) -> list[Estimate]:
    """`(mean m_rep - mean m_cand) / (mean m_ref - mean m_cand)` of every repair, with its bootstrap interval.

    A ratio of means, not a mean of ratios: prompts that are hardly damaged would dominate it.

    Args:
        reference: m of the reference in logits, `[prompts]`.
        candidate: m of the candidate in logits, `[prompts]`.
        repaired: m of the repaired candidate in logits, `[..., prompts]`.
        weights: `[draws, prompts]`.

    Returns:
        One estimate for every repair, the leading axes of `repaired` flattened, dimensionless: 0 for nothing given
        back, 1 for all. NaN throughout where the damage is not `resolved`.
    """
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    rows = np.asarray(repaired, np.float64).reshape(-1, len(candidate))
    if not resolved(reference, candidate, weights):
        return [Estimate(nan, nan, nan)] * len(rows)
    damage, gains = reference - candidate, rows - candidate
    values = gains.mean(-1) / damage.mean()
    damage_drawn, gains_drawn = weighted_means(weights, damage), weighted_means(weights, gains)
    # The few draws whose damage vanishes or turns round have no ratio: they count as the worst at both ends.
    usable = damage_drawn * damage.mean() > 0
    ratios = gains_drawn / np.where(usable, damage_drawn, 1.0)[:, None]
    return [
        Estimate(
            float(value),
            estimate(value, np.where(usable, draws, -inf)).low,
            estimate(value, np.where(usable, draws, inf)).high,
        )
        for value, draws in zip(values, ratios.T, strict=True)
    ]


def resolved(reference: np.ndarray, candidate: np.ndarray, weights: np.ndarray) -> bool:
    """Whether there is damage to speak of: the interval of the mean of m_ref - m_cand excludes 0.

    And what float32 rounding can do: two ways to run one model differ by that on every prompt alike.

    Args:
        reference: m of the reference in logits, `[prompts]`.
        candidate: m of the candidate in logits, `[prompts]`.
        weights: `[draws, prompts]`.
    """
    return _resolved(_damage(reference, candidate, weights), np.asarray(reference, np.float64))


def area_under(values: Sequence[float] | np.ndarray, counts: Sequence[int] | np.ndarray) -> float:
    """Mean height of a repair curve, by the trapezoidal rule over the number of repaired heads.

    Args:
        values: recovery at each count, `[counts]`.
        counts: how many heads are repaired, increasing.

    Returns:
        Dimensionless: 1 where the first count already recovers all, 1/2 for a straight line from 0 to 1; NaN if any
        value is NaN.

    Raises:
        ValueError: fewer than two counts, counts that do not increase, or another number of values.
    """
    heights, grid = np.asarray(values, np.float64), np.asarray(counts, np.float64)
    if heights.shape != grid.shape or grid.ndim != 1 or len(grid) < 2 or not (np.diff(grid) > 0).all():
        raise ValueError(f"no curve: {heights.shape} values over counts {grid.tolist()}.")
    return float(np.trapezoid(heights, grid) / (grid[-1] - grid[0]))


def diagnose(
    reference: np.ndarray,
    candidate: np.ndarray,
    weights: np.ndarray,
    curves: np.ndarray,
    counts: Sequence[int],
    heads: int,
) -> Diagnosis:
    """Says in one word where the damage is; the first rule that applies decides.

    1. *no damage*: the whole interval of the damage is below 5 % of the reference's mean metric;
    2. *unresolved*: there may be damage or none, so that no share of it can be told;
    3. *localized*: repairing at most a fifth of the heads, rounded up, recovers at least 0.8 in one of the orders;
    4. *distributed*: repairing all heads recovers at least 0.5;
    5. *collapse*: it does not.

    Args:
        reference: m of the reference in logits, `[prompts]`.
        candidate: m of the candidate in logits, `[prompts]`.
        weights: `[draws, prompts]`.
        curves: recovery in each order that looks at the damage, the values of the estimates, `[orders, counts]`.
        counts: how many heads are repaired, `[counts]`.
        heads: how many there are.

    Raises:
        CandidateError: a metric, or a recovery from damage, that is NaN or infinite.
        ValueError: counts without all heads, without any few of them, or that do not fit the curves.
    """
    grid, curves = np.asarray(counts), np.atleast_2d(np.asarray(curves, np.float64))
    few = (grid >= 1) & (grid <= ceil(FEW_HEADS * heads))
    if curves.shape[1:] != grid.shape or not len(curves) or not few.any() or heads not in grid:
        raise ValueError(f"counts {grid.tolist()} of {heads} heads do not serve for curves of shape {curves.shape}.")
    metric = np.asarray(reference, np.float64)
    if not (np.isfinite(metric).all() and np.isfinite(candidate).all()):
        raise CandidateError("a metric is NaN or infinite, so its damage cannot be placed; look at the candidate's z.")
    damage = _damage(metric, candidate, weights)
    if max(abs(damage.low), abs(damage.high)) < NEGLIGIBLE * metric.mean():
        return "no damage"
    if not _resolved(damage, metric):
        return "unresolved"
    if not np.isfinite(curves).all():
        raise CandidateError("a repair recovers NaN or infinity, so the damage cannot be placed.")
    if curves[:, few].max() >= MOST:
        return "localized"
    return "distributed" if curves[:, grid == heads].max() >= ENOUGH else "collapse"


def _damage(reference: np.ndarray, candidate: np.ndarray, weights: np.ndarray) -> Estimate:
    with np.errstate(invalid="ignore"):
        difference = np.asarray(reference, np.float64) - np.asarray(candidate, np.float64)
    return mean_estimate(difference, weights)


def _resolved(damage: Estimate, reference: np.ndarray) -> bool:
    slack = float(rounding_slack(reference).mean())
    return damage.low > slack or damage.high < -slack
