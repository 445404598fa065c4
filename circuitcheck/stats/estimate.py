"""A measured number with its interval."""

from __future__ import annotations

from math import ceil, floor, isnan, nan

import numpy as np

from circuitcheck.core.results import Estimate

LEVEL = 0.95
"""Level of every interval. A criterion passes where its whole interval is on the right side of the limit: two one-sided
tests at 2.5 % each, stricter than the 5 % (intervals at 90 %) that equivalence tests are usually run at."""

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


def magnitude(signed: Estimate) -> Estimate:
    """The estimate of an absolute value; its interval reaches 0 where the signed one contains it."""
    ends = abs(signed.low), abs(signed.high)
    low = 0.0 if signed.low <= 0 <= signed.high else min(ends)
    return Estimate(abs(signed.value), low, max(ends))


def rounding_slack(metric: np.ndarray) -> np.ndarray:
    """The part of a difference of metrics that says nothing, in logits, in the shape of `metric`."""
    return np.asarray(RELATIVE_ROUNDING * (1 + np.abs(metric)))
