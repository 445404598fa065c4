"""What putting the reference's heads back into the candidate gives back, and what that says about the damage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from math import ceil, nan
from typing import Literal

import numpy as np

from circuitcheck.core.errors import CandidateError
from circuitcheck.core.results import Area, Estimate
from circuitcheck.stats.bootstrap import mean_estimate, ratio_estimate, weighted_means
from circuitcheck.stats.estimate import LEVEL, estimate, rounding_slack

Damage = Literal["no damage", "unresolved", "damage"]
Diagnosis = Literal["no damage", "unresolved", "localized", "distributed", "collapse"]

NEGLIGIBLE = 0.05  # damage below this share of the scale is no damage
FEW_HEADS = Fraction(1, 5)  # this share of all heads, rounded up, is few; a fraction, for 0.2 * 35 is above 7
MOST = 0.8  # damage is localized where few heads recover this much
ENOUGH = 0.5  # damage is a collapse where all heads recover less than this


def recovery(
    reference: np.ndarray, candidate: np.ndarray, repaired: np.ndarray, weights: np.ndarray, level: float = LEVEL
) -> list[Estimate]:
    """`(mean m_rep - mean m_cand) / (mean m_ref - mean m_cand)` of every repair, with its bootstrap interval.

    A ratio of means, not a mean of ratios: prompts that are hardly damaged would dominate it.

    Args:
        reference: m of the reference in logits, `[prompts]`.
        candidate: m of the candidate in logits, `[prompts]`.
        repaired: m of the repaired candidate in logits, `[..., prompts]`.
        weights: `[draws, prompts]`.
        level: of the percentiles, as `percentile_level` gives it.

    Returns:
        One estimate for every repair, the leading axes of `repaired` flattened, dimensionless: 0 for nothing given
        back, 1 for all. NaN throughout where the damage is not `resolved`.
    """
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    rows = np.asarray(repaired, np.float64).reshape(-1, len(candidate))
    if not resolved(reference, candidate, weights, level):
        return [Estimate(nan, nan, nan)] * len(rows)
    lost, gains = reference - candidate, rows - candidate
    lost_drawn, gains_drawn = weighted_means(weights, lost), weighted_means(weights, gains)
    return [
        ratio_estimate(gain.mean(), lost.mean(), drawn, lost_drawn, level)
        for gain, drawn in zip(gains, gains_drawn.T, strict=True)
    ]


def resolved(reference: np.ndarray, candidate: np.ndarray, weights: np.ndarray, level: float = LEVEL) -> bool:
    """Whether there is damage to speak of: percentiles of the mean of m_ref - m_cand exclude 0.

    And what float32 rounding can do: two ways to run one model differ by that on every prompt alike. Percentiles,
    because a share of the damage can be told wherever draws have one, however far the tail of damage may reach.

    Args:
        reference: m of the reference in logits, `[prompts]`.
        candidate: m of the candidate in logits, `[prompts]`.
        weights: `[draws, prompts]`.
        level: of the percentiles, as `percentile_level` gives it.
    """
    lost = _lost(reference, candidate)
    drawn = estimate(float(lost.mean()), weighted_means(weights, lost), level)
    slack = float(rounding_slack(np.asarray(reference, np.float64)).mean())
    return drawn.low > slack or drawn.high < -slack


def damage(
    reference: np.ndarray, candidate: np.ndarray, weights: np.ndarray, level: float = LEVEL, *, scale: float
) -> Damage:
    """Whether there is anything to repair; needs no repair.

    Args:
        reference: m of the reference in logits, `[prompts]`.
        candidate: m of the candidate in logits, `[prompts]`.
        weights: `[draws, prompts]`.
        level: of the percentiles, as `percentile_level` gives it.
        scale: what damage is small beside, in logits: the reference's mean metric.

    Returns:
        `no damage` where the whole interval of the damage is below 5 % of the scale, `unresolved` where it reaches
        beyond and damage is not `resolved`, else `damage`.

    Raises:
        CandidateError: a metric that is NaN or infinite.
    """
    metric = np.asarray(reference, np.float64)
    if not (np.isfinite(metric).all() and np.isfinite(candidate).all()):
        raise CandidateError("a metric is NaN or infinite, so its damage cannot be placed; look at the candidate's z.")
    lost = mean_estimate(_lost(metric, candidate), weights, level)
    if max(abs(lost.low), abs(lost.high)) < NEGLIGIBLE * scale:
        return "no damage"
    return "damage" if resolved(metric, candidate, weights, level) else "unresolved"


def areas_over_random(
    reference: np.ndarray,
    candidate: np.ndarray,
    curves: Mapping[str, np.ndarray],
    random: np.ndarray,
    counts: Sequence[int],
    weights: np.ndarray,
    *,
    level: float = LEVEL,
    seed: int = 0,
) -> dict[str, Area]:
    """Area under every curve, and its difference from the mean area under the random orders'.

    Args:
        reference: m of the reference in logits, `[prompts]`.
        candidate: m of the candidate in logits, `[prompts]`.
        curves: order to m with each count of its heads repaired, `[counts, prompts]`.
        random: the same of the random orders, `[orders, counts, prompts]`.
        counts: how many heads are repaired, increasing, `[counts]`.
        weights: `[draws, prompts]`.
        level: of the percentiles, as `percentile_level` gives it.
        seed: of drawing from the random orders.

    Returns:
        Order to area; NaN throughout where the damage is not `resolved`.

    Raises:
        ValueError: fewer than two counts, counts that do not increase, or another number of repaired metrics.
    """
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    # Recovery is linear in the repaired metric, so the area under a curve is the recovery of its mean height.
    by_chance = _mean_heights(random, counts) - candidate
    orders, draws = len(by_chance), len(weights)
    drawn_orders = np.random.default_rng(seed).multinomial(orders, np.full(orders, 1 / orders), size=draws) / orders
    chance_drawn = (weighted_means(weights, by_chance) * drawn_orders).sum(1)
    is_resolved = resolved(reference, candidate, weights, level)
    lost = reference - candidate
    lost_drawn = weighted_means(weights, lost)
    areas = {}
    for order, repaired in curves.items():
        gain = _mean_heights(repaired, counts) - candidate
        gain_drawn = weighted_means(weights, gain) - chance_drawn
        over = ratio_estimate(gain.mean() - by_chance.mean(), lost.mean(), gain_drawn, lost_drawn, level)
        areas[order] = (
            Area(float(gain.mean() / lost.mean()), over) if is_resolved else Area(nan, Estimate(nan, nan, nan))
        )
    return areas


def diagnose(curves: Mapping[str, Sequence[float]], areas: Mapping[str, Area], counts: Sequence[int]) -> Diagnosis:
    """Says in one word where damage is that is there; the first rule that applies decides.

    1. *localized*: in one of the orders, repairing at most a fifth of the heads, rounded up, recovers at least 0.8,
       and the area under its curve lies above the random orders', with its whole interval;
    2. *distributed*: repairing all heads recovers at least 0.5;
    3. *collapse*: it does not.

    Before them come *no damage* and *unresolved*, as `damage` tells them.

    Args:
        curves: recovery in each order that looks at the damage, the values of the estimates, `[counts]`.
        areas: of those orders; of a model with a single head there are none, and none are needed.
        counts: how many heads are repaired, `[counts]`, up to all of them.

    Raises:
        CandidateError: a recovery that is NaN or infinite.
        ValueError: counts that do not fit the curves or hold no few heads, or no curves.
    """
    grid, heads = np.asarray(counts), counts[-1]
    few = (grid >= 1) & (grid <= ceil(FEW_HEADS * heads))
    if not curves or any(len(curve) != len(grid) for curve in curves.values()) or not few.any():
        raise ValueError(f"counts {grid.tolist()} do not serve for {len(curves)} curves.")
    if not all(np.isfinite(curve).all() for curve in curves.values()):
        raise CandidateError("a repair recovers NaN or infinity, so the damage cannot be placed.")
    for order, curve in curves.items():
        beats_chance = order not in areas or areas[order].over_random.low > 0
        if beats_chance and np.asarray(curve)[few].max() >= MOST:
            return "localized"
    return "distributed" if max(curve[-1] for curve in curves.values()) >= ENOUGH else "collapse"


def _mean_heights(repaired: np.ndarray, counts: Sequence[int]) -> np.ndarray:
    """Trapezoidal mean over the counts, `[..., prompts]` of `[..., counts, prompts]`."""
    repaired, grid = np.asarray(repaired, np.float64), np.asarray(counts, np.float64)
    if len(grid) < 2 or repaired.shape[-2] != len(grid) or not (np.diff(grid) > 0).all():
        raise ValueError(f"no curve: repaired metrics of shape {repaired.shape} over counts {grid.tolist()}.")
    return np.asarray(np.trapezoid(repaired, grid, axis=-2) / (grid[-1] - grid[0]))


def _lost(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(reference, np.float64) - np.asarray(candidate, np.float64)
