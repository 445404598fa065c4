"""Bootstrap over prompts, clustered by template.

Prompts of one template go right or wrong together, so templates are drawn, not prompts (Cameron, Gelbach and Miller
2008, doi 10.1162/rest.90.3.414). Every measure of one task uses the same weights, which pairs reference and candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan, sqrt

import numpy as np
from scipy.special import ndtr, ndtri, stdtrit

from circuitcheck.core.results import Estimate
from circuitcheck.stats.estimate import LEVEL, asked_level, estimate, mean_estimates

ALIKE = {1: 0.34, 2: 0.28, 7: 0.38}
"""How alike misses of one prompt in ten are, by powers of how alike what moves them is (bivariate normal, to 0.05)."""


def cluster_weights(clusters: Sequence[str], draws: int = 1000, seed: int = 0) -> np.ndarray:
    """How often each prompt counts in each bootstrap draw.

    As many clusters are drawn as there are, with replacement; all prompts of a cluster count as often as it was drawn.
    With a single cluster that would always give the same prompts, and intervals without width that claim certainty;
    then prompts are drawn instead, and the interval says nothing about other templates.

    Args:
        clusters: cluster of each prompt, `[prompts]`.
        draws: how many draws.
        seed: same seed, same weights.

    Returns:
        int64, `[draws, prompts]`.

    Raises:
        ValueError: no prompts, or less than one draw.
    """
    if not len(clusters) or draws < 1:
        raise ValueError(f"cannot draw {draws} times from {len(clusters)} prompts.")
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) == 1:
        member = np.arange(len(clusters))
    n_clusters = int(member.max()) + 1
    counts = np.random.default_rng(seed).multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), size=draws)
    return counts[:, member]


def percentile_level(clusters: Sequence[str], level: float = LEVEL) -> float:
    """The level at which percentiles of draws over so few clusters hold the truth as often as `level` says.

    Percentiles of n clusters are as narrow as a normal interval with the variance divided by n; the expanded
    percentile interval (Hesterberg 2015, doi 10.1080/00031305.2015.1089789) goes as far out as Student's t with n - 1
    degrees of freedom and the variance divided by n - 1 does, here at the level that is asked of so few.

    Args:
        clusters: cluster of each prompt, `[prompts]`; prompts of a single cluster are drawn themselves.
        level: what is to be reached.

    Returns:
        At least `level`, below 1; `level` itself for a single prompt, of which nothing can be said.
    """
    return drawn_level(drawn_units(clusters), level)


def drawn_level(units: int, level: float = LEVEL) -> float:
    """`percentile_level` of a number of clusters (or prompts)."""
    if units < 2:
        return level
    tail = (1 - asked_level(units, level)) / 2
    reach = sqrt(units / (units - 1)) * -float(stdtrit(units - 1, tail))
    # Two clusters would take it to 1 in floating point, which is no level.
    return min(1 - 2 * float(ndtr(-reach)), 1 - 1e-12)


def drawn_units(clusters: Sequence[str]) -> int:
    """How many things are drawn from: clusters, or prompts where there is a single cluster."""
    names = len(set(clusters))
    return names if names > 1 else len(clusters)


def weighted_means(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mean over the prompts of each draw.

    Args:
        weights: `[draws, prompts]`.
        values: `[..., prompts]`.

    Returns:
        float64, `[draws, ...]`. A value that is NaN or infinite makes it NaN also where its weight is 0, and so does
        a draw whose weights are all 0.
    """
    weights, values = np.asarray(weights, np.float64), np.asarray(values, np.float64)
    total = weights.sum(-1).reshape(-1, *(1,) * (values.ndim - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        sums = np.tensordot(weights, values, axes=(1, -1))
        finite = np.isfinite(values).all(-1)
        return np.where((total > 0) & finite, sums / total, np.nan)


def mean_estimate(values: np.ndarray, weights: np.ndarray, level: float = LEVEL) -> Estimate:
    """Mean over prompts with its bootstrap interval.

    Args:
        values: `[prompts]`.
        weights: `[draws, prompts]`.
        level: of the percentiles, as `percentile_level` gives it.

    Returns:
        The estimate, in the unit of the values.

    Raises:
        ValueError: no prompts.
    """
    values = _one_per_prompt(values, weights)
    return mean_estimates(values.mean(keepdims=True), weighted_means(weights, values)[:, None], level)[0]


def share_estimate(
    hits: np.ndarray,
    weights: np.ndarray,
    level: float = LEVEL,
    nominal: float = LEVEL,
    *,
    changes: np.ndarray | None = None,
    units: int | None = None,
) -> Estimate:
    """Share of prompts that hit, with the outer ends of two intervals.

    A bootstrap of prompts that all hit has no width and would claim certainty from a handful of prompts; the Wilson
    interval (1927, doi 10.1080/01621459.1927.10502953) does not. Wilson's in turn takes prompts for independent, and
    is too narrow where whole clusters miss; the clustered bootstrap is not. Where no prompt misses, hits do not tell
    whether clusters would miss as a whole; what moved the prompts does, and Wilson's interval then counts only as many
    prompts as they are worth independent ones (the design effect, Kish 1965).

    Args:
        hits: bool, `[prompts]`.
        weights: `[draws, prompts]`.
        level: of the percentiles, as `percentile_level` gives it.
        nominal: of Wilson's interval.
        changes: what moved each prompt towards a miss or away from it, `[prompts]`; prompts are taken for independent
            where it is not given.
        units: how many clusters are drawn from, as `drawn_units` gives it; needed with changes.

    Returns:
        The share, dimensionless, between 0 and 1.

    Raises:
        ValueError: no prompts.
    """
    hits = _one_per_prompt(hits, weights)
    share, n = float(hits.mean()), float(len(hits))
    drawn = estimate(share, weighted_means(weights, hits), level)
    if changes is not None and units is not None:
        n /= _design_effect(_one_per_prompt(changes, weights), weights, units)
    z2 = float(ndtri((1 + nominal) / 2)) ** 2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = sqrt(z2 * share * (1 - share) / n + z2 * z2 / (4 * n * n)) / (1 + z2 / n)
    return Estimate(share, min(drawn.low, max(centre - half, 0.0)), max(drawn.high, min(centre + half, 1.0)))


def _design_effect(changes: np.ndarray, weights: np.ndarray, units: int) -> float:
    """How many prompts are worth one independent one for whether they hit, from how alike a cluster's changes are."""
    size = len(changes) / units
    if units < 2 or size <= 1 or not np.isfinite(changes).all() or (spread := float(changes.var(ddof=1))) == 0:
        return 1.0
    ratio = float(weighted_means(weights, changes).var()) * units / (units - 1) * len(changes) / spread
    alike = min(max((ratio - 1) / (size - 1), 0.0), 1.0)
    return 1 + (size - 1) * sum(share * alike**power for power, share in ALIKE.items())


def ratio_draws(numerator: np.ndarray, denominator: np.ndarray, sign: float) -> np.ndarray:
    """A ratio of two means on every bootstrap draw, both of the same draws.

    Args:
        numerator: `[draws, ...]`.
        denominator: `[draws]`.
        sign: of what the denominator estimates.

    Returns:
        `[draws, ...]`; infinite on the few draws whose denominator vanishes or turns round: they have no ratio, and
        count as the worst at both ends of an interval. NaN where the numerator or the denominator is.
    """
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    denominator = denominator.reshape(-1, *(1,) * (numerator.ndim - 1))
    vanishes = denominator * np.sign(sign) <= 0
    return np.where(vanishes & ~np.isnan(numerator), inf, numerator / np.where(vanishes, 1.0, denominator))


def ratio_estimate(
    numerator: float,
    denominator: float,
    numerator_draws: np.ndarray,
    denominator_draws: np.ndarray,
    level: float = LEVEL,
) -> Estimate:
    """A ratio of two means, which are both uncertain and drawn together: as the mean that it is to first order.

    Args:
        numerator: the one mean, over all prompts.
        denominator: the other.
        numerator_draws: on every bootstrap draw, `[draws]`.
        denominator_draws: on the same draws, `[draws]`.
        level: as `percentile_level` gives it; it stands for a number of standard errors.

    Returns:
        The estimate, dimensionless; NaN throughout where the denominator is 0, and with infinite ends where so many
        draws have a denominator that vanishes or turns round as an interval may miss on one side.
    """
    if not denominator:
        return Estimate(nan, nan, nan)
    value = float(numerator / denominator)
    vanishes = np.isinf(ratio_draws(numerator_draws, denominator_draws, denominator))
    if vanishes.mean() > (1 - LEVEL) / 2:
        return Estimate(value, -inf, inf)
    first_order = value + (np.asarray(numerator_draws) - value * np.asarray(denominator_draws)) / denominator
    return mean_estimates(np.array([value]), first_order[:, None], level)[0]


def _one_per_prompt(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not values.size or values.shape != weights.shape[1:]:
        raise ValueError(f"values of shape {values.shape} do not fit weights of shape {weights.shape}.")
    return values
