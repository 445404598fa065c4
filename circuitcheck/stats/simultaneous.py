"""Intervals that hold for all heads at once, and of the largest among them.

Of hundreds of heads some move by chance beyond an interval of their own, and the largest movement always lies above
the largest that is real. The maximum statistic (Westfall and Young 1993; Romano and Wolf 2005,
doi 10.1111/j.1468-0262.2005.00615.x) widens the intervals of all heads by one factor, so that 95 % of measurements have
every head inside its own. Heads that move together cost less than under Bonferroni's correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf, nan, sqrt

import numpy as np
from scipy.special import ndtr
from scipy.stats import t as student

from circuitcheck.core.results import Estimate
from circuitcheck.stats.bootstrap import ratio_draws
from circuitcheck.stats.estimate import LEVEL, magnitude

NO_ERROR = 1e-12
"""A standard error below this share of the value is what float64 leaves of none."""


def simultaneous(values: np.ndarray, draws: np.ndarray, units: int, level: float = LEVEL) -> list[Estimate]:
    """Symmetric intervals of all values, which hold together.

    The factor is the quantile of the largest |draw - value| in bootstrap standard errors, taken from the normal to
    Student's t with one degree of freedom less than there are units, because their spread is estimated too.

    Args:
        values: the measure of each head on all prompts, `[heads]`.
        draws: the same on every bootstrap draw, `[draws, heads]`; infinite where a draw has none, as in `ratio_draws`.
        units: how many clusters (or prompts) were drawn from, as `drawn_units` gives it.
        level: share of measurements in which all intervals hold.

    Returns:
        An estimate a head, in the order and the unit of the values; ends are NaN where a draw of any head is or a
        value is not finite, and infinite with a single unit, of which nothing can be said.

    Raises:
        ValueError: draws that do not fit the values, no heads, no draws, or a level outside (0, 1).
    """
    values, draws = np.asarray(values, np.float64), np.asarray(draws, np.float64)
    if values.ndim != 1 or not draws.size or draws.shape[1:] != values.shape or not 0 < level < 1:
        raise ValueError(f"draws of shape {draws.shape} do not fit values of shape {values.shape} at level {level}.")
    half = _half_widths(values, draws, units, level)
    return [Estimate(float(value), float(value - h), float(value + h)) for value, h in zip(values, half, strict=True)]


def largest_magnitude(estimates: Sequence[Estimate]) -> Estimate:
    """The largest |value|, with the interval that simultaneous ones imply.

    Percentiles of the largest draw would be biased upwards twice, once by the prompts and once by drawing from them.

    Args:
        estimates: of all heads, simultaneous.

    Returns:
        From the largest magnitude that is certain to the largest that is possible, in the unit of the estimates; NaN
        where any of theirs is.
    """
    ends = [magnitude(one) for one in estimates]
    value, low, high = (float(np.max([getattr(end, name) for end in ends])) for name in ("value", "low", "high"))
    return Estimate(value, low, high)


def profile_changes(
    change: np.ndarray,
    reference: np.ndarray,
    change_draws: np.ndarray,
    reference_draws: np.ndarray,
    units: int,
    level: float = LEVEL,
) -> list[Estimate]:
    """`(I_cand - I_ref) / max_h |I_ref|` of each head; `largest_magnitude` of them is the profile distance.

    Every draw is relative to the largest |I_ref| of its own, because that is not known exactly either.

    Args:
        change: I_cand - I_ref in logits, `[heads]`.
        reference: I_ref in logits, `[heads]`.
        change_draws: on every bootstrap draw, `[draws, heads]`.
        reference_draws: on the same draws, `[draws, heads]`.
        units: as in `simultaneous`.
        level: as in `simultaneous`.

    Returns:
        An estimate a head, dimensionless; NaN throughout where no head of the reference has an importance, ends are
        NaN where any importance is.

    Raises:
        ValueError: as in `simultaneous`.
    """
    scale = float(np.abs(reference).max())
    if not scale > 0:
        return [Estimate(nan, nan, nan)] * len(change)
    draws = ratio_draws(change_draws, np.abs(reference_draws).max(-1), scale)
    return simultaneous(np.asarray(change, np.float64) / scale, draws, units, level)


def profile_distance(reference: np.ndarray, candidate: np.ndarray) -> float:
    """`max_h |I_cand - I_ref| / max_h |I_ref|`.

    Args:
        reference: importances in logits, `[heads]`.
        candidate: importances of the same heads in logits, `[heads]`.

    Returns:
        Dimensionless; NaN where no head of the reference has an importance, or any importance is NaN.

    Raises:
        ValueError: shapes that differ, or no heads.
    """
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    if reference.shape != candidate.shape or not reference.size:
        raise ValueError(f"importances of shapes {reference.shape} and {candidate.shape} are not of the same heads.")
    largest = float(np.abs(reference).max())
    with np.errstate(invalid="ignore"):
        return float(np.abs(candidate - reference).max()) / largest if largest else nan


def _half_widths(values: np.ndarray, draws: np.ndarray, units: int, level: float) -> np.ndarray:
    if not np.isfinite(values).all() or np.isnan(draws).any():
        return np.full(len(values), nan)
    if units < 2:
        return np.full(len(values), inf)
    known = np.isfinite(draws)
    there = np.where(known, draws, values)
    errors = there.std(0)
    # A head that all units move alike has no error; what rounding leaves of it is none either.
    moves = errors > NO_ERROR * (np.abs(there).max(0) + np.abs(values))
    largest = (np.abs(there - values)[:, moves] / errors[moves]).max(1, initial=0.0)
    largest[~known.all(1)] = inf
    reach = float(np.sort(largest)[ceil(level * (len(largest) - 1))])
    if reach == inf:
        return np.full(len(values), inf)
    factor = float(student.isf(ndtr(-reach), units - 1)) * sqrt(units / (units - 1))
    return np.where(moves, factor * errors, 0.0)
