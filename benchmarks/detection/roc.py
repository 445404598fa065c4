"""Areas under ROC curves, and candidates of equal output KL divergence."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq, linear_sum_assignment
from scipy.special import ndtri
from scipy.stats import rankdata

from circuitcheck.stats.estimate import Estimate

CALIPER = 0.15
"""Matched candidates differ in KL divergence by at most this many decades: a factor of 1.4."""

SMALLEST_KL = 1e-9
"""In nats; KL divergences below it are rounding of float32 and count as equal."""


def roc_area(benign: ArrayLike, faulty: ArrayLike, level: float = 0.95) -> Estimate:
    """Area under the ROC curve: how often a faulty candidate scores above a benign one, ties counting half.

    The interval is Newcombe's fifth (2006, doi 10.1002/sim.2324), which solves Hanley and McNeil's variance for the
    area; unlike a bootstrap it does not claim certainty where the two groups are perfectly apart.

    Args:
        benign: scores, larger is more suspicious; infinite is allowed.
        faulty: likewise.
        level: of the interval.

    Raises:
        ValueError: a group is empty, or a score is NaN.
    """
    low, high = np.asarray(benign, np.float64), np.asarray(faulty, np.float64)
    if not low.size or not high.size or np.isnan(low).any() or np.isnan(high).any():
        raise ValueError(f"an area needs scores of both groups and none that is NaN; got {low.size} and {high.size}.")
    ranks = rankdata(np.concatenate([low, high]))
    wins = float(ranks[len(low) :].sum()) - high.size * (high.size + 1) / 2
    return _newcombe(wins / (low.size * high.size), low.size, high.size, level)


def _newcombe(area: float, benign: int, faulty: int, level: float) -> Estimate:
    z2 = float(ndtri((1 + level) / 2)) ** 2
    spare = (benign + faulty) / 2 - 1

    def excess(truth: float) -> float:
        variance = truth * (1 - truth) * (1 + spare * (1 - truth) / (2 - truth) + spare * truth / (1 + truth))
        return (area - truth) ** 2 - z2 * variance / (benign * faulty)

    # Below and above the area the squared distance overtakes the variance once; at the ends the variance is zero.
    low = 0.0 if area == 0 else float(brentq(excess, 0.0, area)) if excess(area) < 0 else _beside(excess, area, 0.0)
    high = 1.0 if area == 1 else float(brentq(excess, area, 1.0)) if excess(area) < 0 else _beside(excess, area, 1.0)
    return Estimate(area, low, high)


def _beside(excess: Any, area: float, end: float) -> float:
    """The other root where the area itself is one, being 0 or 1."""
    inside = area + math.copysign(1e-9, end - area)
    return float(brentq(excess, inside, end))


def matched_pairs(
    benign: ArrayLike, faulty: ArrayLike, benign_groups: Sequence[Hashable], faulty_groups: Sequence[Hashable]
) -> list[tuple[int, int]]:
    """Pairs of a benign and a faulty candidate of one group and equal KL divergence, as many as there can be.

    Each candidate is in one pair at most, so that the matched benign and faulty ones have the same distribution of KL
    divergence, and a detector that knows nothing else has an area of about one half.

    Args:
        benign: KL divergences in nats, `[benign]`.
        faulty: likewise, `[faulty]`.
        benign_groups: what must be equal, such as the number of bits, `[benign]`.
        faulty_groups: likewise, `[faulty]`.

    Returns:
        Places in `benign` and in `faulty`, in the order of `faulty`.
    """
    low, high = (np.log10(np.maximum(np.asarray(kl, np.float64), SMALLEST_KL)) for kl in (benign, faulty))
    if not low.size or not high.size:
        return []
    distance: NDArray[np.float64] = np.abs(high[:, None] - low[None])
    same = np.array([[one == other for other in benign_groups] for one in faulty_groups])
    allowed = same & (distance <= CALIPER)
    # A pair that is not allowed costs more than all that are, so that none is given up for a closer one.
    cost = np.where(allowed, distance, CALIPER * (min(distance.shape) + 1))
    rows, columns = linear_sum_assignment(cost)
    return [(int(column), int(row)) for row, column in zip(rows, columns, strict=True) if allowed[row, column]]
