"""A measured number with its interval."""

from __future__ import annotations

from math import ceil, floor, isnan, nan

import numpy as np
from scipy.special import ndtri

from circuitcheck.core.results import Estimate

LEVEL = 0.95
"""Level of every interval. A criterion passes where its whole interval is on the right side of the limit: two one-sided
tests at 2.5 % each, stricter than the 5 % (intervals at 90 %) that equivalence tests are usually run at."""

NO_ERROR = 1e-12
"""A standard error below this share of the value is what float64 leaves of none."""

RELATIVE_ROUNDING = 1e-6
"""About eight units in the last place of float32: a difference of two logits that were each summed in float32."""


def estimate(value: float, draws: np.ndarray, level: float = LEVEL) -> Estimate:
    """Percentile interval of bootstrap draws (Efron 1981), widened to include the value.

    Percentiles are order statistics, rounded outwards and never interpolated, so that infinite draws stay usable.

    Args:
        value: the measure on all prompts.
        draws: the measure on every bootstrap draw, `[draws]`.
        level: share of the draws that the interval holds at least.

    Returns:
        The estimate; both ends are NaN if the value or any draw is NaN.

    Raises:
        ValueError: no draws, or a level outside (0, 1).
    """
    draws = np.asarray(draws, np.float64)
    if draws.ndim != 1 or not draws.size:
        raise ValueError(f"an interval needs draws of shape [draws], not {draws.shape}.")
    if not 0 < level < 1:
        raise ValueError(f"level {level} is not between 0 and 1.")
    value = float(value)
    if isnan(value) or np.isnan(draws).any():
        return Estimate(value, nan, nan)
    ordered = np.sort(draws)
    tail, last = (1 - level) / 2, len(ordered) - 1
    low, high = float(ordered[floor(tail * last)]), float(ordered[ceil((1 - tail) * last)])
    return Estimate(value, min(low, value), max(high, value))


def asked_level(units: int, level: float = LEVEL) -> float:
    """The level that is asked of so few clusters, so that skewed values are held as often as `level` says.

    A few clusters seldom show the tail that their mean depends on. Of the share that may miss, 1.5 / n is spent on it,
    and at most three quarters (chosen by simulation, `benchmarks/interval_coverage.py`).

    Args:
        units: how many clusters (or prompts) are drawn from.
        level: what is to be reached.
    """
    return 1 - (1 - level) * max(1 - 1.5 / units, 0.25)


def skewed_reach(reach: float, skewness: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many standard errors an interval of a mean reaches down and up, where its errors are skewed.

    Johnson's correction of Student's t (1978, doi 10.1080/01621459.1978.10480051), which here only ever widens, since
    the skewness of few clusters is as uncertain as their mean.

    Args:
        reach: of errors that are not skewed, in standard errors.
        skewness: of the means, `[...]`.

    Returns:
        Below and above, `[...]` each, at least `reach`.
    """
    further = np.asarray(skewness, np.float64) * (1 + 2 * reach**2) / 6
    return reach + np.maximum(-further, 0.0), reach + np.maximum(further, 0.0)


def mean_estimates(values: np.ndarray, draws: np.ndarray, level: float = LEVEL) -> list[Estimate]:
    """Means with intervals by standard errors: as many as the level asks for, and more on the side of a tail.

    Args:
        values: the means on all prompts, `[units]`.
        draws: the same on every bootstrap draw, `[draws, units]`.
        level: as `percentile_level` gives it; it stands for a number of standard errors.

    Returns:
        An estimate for each, in the unit of the values; both ends are NaN if the value or any of its draws is.
    """
    values, draws = np.asarray(values, np.float64), np.asarray(draws, np.float64)
    errors, skewness = standard_errors(values, draws)
    below, above = skewed_reach(-float(ndtri((1 - level) / 2)), skewness)
    ends = zip(values, values - below * errors, values + above * errors, strict=True)
    return [Estimate(float(value), float(low), float(high)) for value, low, high in ends]


def standard_errors(values: np.ndarray, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Standard deviation and skewness of draws, `[units]` each; both 0 where all that moves is rounding.

    Args:
        values: on all prompts, `[units]`.
        draws: `[draws, units]`.
    """
    with np.errstate(invalid="ignore"):
        centred = draws - draws.mean(0)
        errors = np.sqrt(np.square(centred).mean(0))
        still = errors <= NO_ERROR * (np.abs(draws).max(0) + np.abs(values))
        scores = centred / np.where(still, 1.0, errors)
        cubes = (scores * np.square(scores)).mean(0)  # `power` takes far longer
    return np.where(still, 0.0, errors), np.where(still, 0.0, cubes)


def magnitude(signed: Estimate) -> Estimate:
    """The estimate of an absolute value; its interval reaches 0 where the signed one contains it."""
    ends = abs(signed.low), abs(signed.high)
    low = 0.0 if signed.low <= 0 <= signed.high else min(ends)
    return Estimate(abs(signed.value), low, max(ends))


def rounding_slack(metric: np.ndarray) -> np.ndarray:
    """The part of a difference of metrics that says nothing, in logits, in the shape of `metric`."""
    return np.asarray(RELATIVE_ROUNDING * (1 + np.abs(metric)))
