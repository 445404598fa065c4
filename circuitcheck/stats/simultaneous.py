"""Intervals that hold for all heads at once.

Of hundreds of heads some move by chance beyond an interval of their own, and the largest movement always lies above
the largest that is real. The maximum statistic (Westfall and Young 1993; Romano and Wolf 2005,
doi 10.1111/j.1468-0262.2005.00615.x) widens the intervals of all heads by one factor, so that 95 % of measurements have
every head inside its own. Heads that move together cost less than under Bonferroni's correction.
"""

from __future__ import annotations

from math import ceil, inf, sqrt

import numpy as np
from scipy.special import ndtr
from scipy.stats import t as student

from circuitcheck.core.results import Estimate
from circuitcheck.stats.estimate import LEVEL

NO_ERROR = 1e-12
"""A standard error below this share of the value is what float64 leaves of none."""


def simultaneous(values: np.ndarray, draws: np.ndarray, units: int, level: float = LEVEL) -> list[Estimate]:
    """Symmetric intervals of all values, which hold together.

    The factor is the quantile of the largest |draw - value| in bootstrap standard errors, taken from the normal to
    Student's t with one degree of freedom less than there are units, because their spread is estimated too.

    Args:
        values: the measure of each head on all prompts, `[heads]`.
        draws: the same on every bootstrap draw, `[draws, heads]`.
        units: how many clusters (or prompts) were drawn from, as `drawn_units` gives it.
        level: share of measurements in which all intervals hold.

    Returns:
        An estimate a head, in the order and the unit of the values; ends are NaN where a value or a draw of any head
        is, and infinite with a single unit, of which nothing can be said.

    Raises:
        ValueError: draws that do not fit the values, no heads, no draws, or a level outside (0, 1).
    """
    values, draws = np.asarray(values, np.float64), np.asarray(draws, np.float64)
    if values.ndim != 1 or not draws.size or draws.shape[1:] != values.shape or not 0 < level < 1:
        raise ValueError(f"draws of shape {draws.shape} do not fit values of shape {values.shape} at level {level}.")
    half = _half_widths(values, draws, units, level)
    return [Estimate(float(value), float(value - h), float(value + h)) for value, h in zip(values, half, strict=True)]


def largest_magnitude(estimates: list[Estimate], scale: float) -> Estimate:
    """The largest |value|, relative to `scale`, with the interval that simultaneous ones imply.

    Percentiles of the largest draw would be biased upwards twice, once by the prompts and once by drawing from them.

    Args:
        estimates: of all heads, simultaneous.
        scale: what 1 stands for, in the unit of the estimates.

    Returns:
        Dimensionless: from the largest magnitude that is certain to the largest that is possible; NaN throughout where
        any estimate is, or where the scale is 0 or NaN.
    """
    if not scale > 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    ends = [magnitude(one) for one in estimates]
    value, low, high = (
        float(np.max([getattr(end, name) for end in ends])) / scale for name in ("value", "low", "high")
    )
    return Estimate(value, low, high)


def magnitude(signed: Estimate) -> Estimate:
    """The estimate of an absolute value; its interval reaches 0 where the signed one contains it."""
    ends = abs(signed.low), abs(signed.high)
    low = 0.0 if signed.low <= 0 <= signed.high else min(ends)
    return Estimate(abs(signed.value), low, max(ends))


def _half_widths(values: np.ndarray, draws: np.ndarray, units: int, level: float) -> np.ndarray:
    if np.isnan(values).any() or np.isnan(draws).any():
        return np.full(len(values), np.nan)
    if units < 2:
        return np.full(len(values), inf)
    errors = draws.std(0)
    # A head that all units move alike has no error; what rounding leaves of it is none either.
    moves = errors > NO_ERROR * (np.abs(draws).max(0) + np.abs(values))
    scaled = np.abs(draws - values)[:, moves] / errors[moves]
    if not scaled.size:
        return np.zeros(len(values))
    largest = np.sort(scaled.max(1))
    reach = float(largest[ceil(level * (len(largest) - 1))])
    factor = float(student.isf(ndtr(-reach), units - 1)) * sqrt(units / (units - 1))
    return np.where(moves, factor * errors, 0.0)
