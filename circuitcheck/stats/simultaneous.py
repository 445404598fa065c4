"""Intervals that hold for all heads at once, and of the largest among them.

Of hundreds of heads some move by chance beyond an interval of their own, and the largest movement always lies above
the largest that is real. The maximum statistic (Westfall and Young 1993; Romano and Wolf 2005,
doi 10.1111/j.1468-0262.2005.00615.x) widens the intervals of all heads by one factor, so that 95 % of measurements have
every head inside its own. Heads that move together cost less than under Bonferroni's correction.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan, sqrt

import numpy as np
from scipy.special import ndtr, stdtrit

from circuitcheck.core.results import Estimate
from circuitcheck.stats.bootstrap import drawn_level, ratio_draws
from circuitcheck.stats.estimate import LEVEL, asked_level, magnitude, mean_estimates, skewed_reach, standard_errors

NORMAL_DRAWS = 4000
"""Draws of correlated normal errors that tell how far the largest goes out."""


def simultaneous(
    values: np.ndarray, draws: np.ndarray, units: int, level: float = LEVEL, *, alone: bool = False
) -> list[Estimate]:
    """Symmetric intervals of all values, which hold together.

    As many standard errors as the largest of all heads' errors goes out, and more where the heads' draws are skewed
    beyond what chance makes of normal ones: a head whose tail was not seen is told by the others.

    Args:
        values: the measure of each head on all prompts, `[heads]`.
        draws: the same on every bootstrap draw, `[draws, heads]`; infinite where a draw has none, as in `ratio_draws`.
        units: how many clusters (or prompts) were drawn from, as `drawn_units` gives it.
        level: share of measurements in which all intervals hold.
        alone: each holds by itself instead.

    Returns:
        An estimate a head, in the order and the unit of the values; ends are NaN where a draw of any head is or a
        value is not finite, and infinite with a single unit, of which nothing can be said.

    Raises:
        ValueError: draws that do not fit the values, no heads, no draws, or a level outside (0, 1).
    """
    values, draws = np.asarray(values, np.float64), np.asarray(draws, np.float64)
    if values.ndim != 1 or not draws.size or draws.shape[1:] != values.shape or not 0 < level < 1:
        raise ValueError(f"draws of shape {draws.shape} do not fit values of shape {values.shape} at level {level}.")
    ends = np.full((2, len(values)), nan)
    if np.isfinite(values).all() and not np.isnan(draws).any():
        known = np.isfinite(draws)
        level += 1 - float(known.all(1).mean())  # draws without a value count as beyond any interval
        ends = np.array([values - inf, values + inf])
        if units > 1 and level < 1:
            ends = (_alone if alone else _together)(values, np.where(known, draws, values), units, level)
    return [Estimate(float(value), float(low), float(high)) for value, low, high in zip(values, *ends, strict=True)]


def largest_magnitude(estimates: Sequence[Estimate], alone: Sequence[Estimate] | None = None) -> Estimate:
    """The largest |value|, with the interval that those of the heads imply.

    Percentiles of the largest draw would be biased upwards twice, once by the prompts and once by drawing from them.
    From below every head can seem the largest by chance, so that intervals must hold together. From above it is one
    head that must be held, whichever it is, and intervals that hold by themselves are enough.

    Args:
        estimates: of all heads, simultaneous.
        alone: the same by themselves; if not given, `estimates`, which reach further than they have to.

    Returns:
        From the largest magnitude that is certain to the largest that is possible, in the unit of the estimates; NaN
        where any of theirs is.
    """
    ends = [magnitude(one) for one in estimates]
    value, low = (float(np.max([getattr(end, name) for end in ends])) for name in ("value", "low"))
    return Estimate(value, low, float(np.max([magnitude(one).high for one in alone or estimates])))


def profile_changes(
    change: np.ndarray,
    reference: np.ndarray,
    change_draws: np.ndarray,
    reference_draws: np.ndarray,
    units: int,
    level: float = LEVEL,
    *,
    alone: bool = False,
    least: float = 0.0,
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
        alone: as in `simultaneous`.
        least: what changes are relative to at the least, in logits: of many units none need matter by itself.

    Returns:
        An estimate a head, dimensionless; NaN throughout where no head of the reference has an importance, ends are
        NaN where any importance is.

    Raises:
        ValueError: as in `simultaneous`.
    """
    scale = max(float(np.abs(reference).max()), least)
    if not scale > 0:
        return [Estimate(nan, nan, nan)] * len(change)
    draws = ratio_draws(change_draws, np.maximum(np.abs(reference_draws).max(-1), least), scale)
    return simultaneous(np.asarray(change, np.float64) / scale, draws, units, level, alone=alone)


def profile_distance(reference: np.ndarray, candidate: np.ndarray, least: float = 0.0) -> float:
    """`max_h |I_cand - I_ref| / max_h |I_ref|`.

    Args:
        reference: importances in logits, `[heads]`.
        candidate: importances of the same heads in logits, `[heads]`.
        least: as in `profile_changes`.

    Returns:
        Dimensionless; NaN where no head of the reference has an importance, or any importance is NaN.

    Raises:
        ValueError: shapes that differ, or no heads.
    """
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    if reference.shape != candidate.shape or not reference.size:
        raise ValueError(f"importances of shapes {reference.shape} and {candidate.shape} are not of the same heads.")
    largest = max(float(np.abs(reference).max()), least)
    with np.errstate(invalid="ignore"):
        return float(np.abs(candidate - reference).max()) / largest if largest else nan


def _alone(values: np.ndarray, draws: np.ndarray, units: int, level: float) -> np.ndarray:
    """Low and high ends, `[2, heads]`."""
    return np.array([(one.low, one.high) for one in mean_estimates(values, draws, drawn_level(units, level))]).T


def _together(values: np.ndarray, draws: np.ndarray, units: int, level: float) -> np.ndarray:
    """Low and high ends, `[2, heads]`."""
    errors, skewness = standard_errors(values, draws)
    moves = errors > 0
    half = np.zeros(len(values))
    if moves.any():
        scores = (draws[:, moves] - draws[:, moves].mean(0)) / errors[moves]
        reach = skewed_reach(
            _joint_reach(scores, units, level), np.array(_shown_skewness(skewness[moves], units, len(draws)))
        )[1]
        half[moves] = reach * errors[moves]
    return np.array([values - half, values + half])


def _joint_reach(scores: np.ndarray, units: int, level: float) -> float:
    """How many standard errors hold the largest error of all heads, with Student's t for errors that are estimated.

    Normal errors that are correlated as the draws are: draws of few clusters themselves go no further than the most
    extreme cluster. Part of the correlation of few clusters is chance; it is shrunk by what chance explains (Schafer
    and Strimmer 2005, doi 10.2202/1544-6115.1175).

    Args:
        scores: draws in standard errors, `[draws, heads]`.
        units: how many clusters were drawn from.
        level: to be reached.
    """
    draws, heads = scores.shape
    root = np.asarray(np.linalg.qr(scores, mode="r")) / sqrt(draws)  # correlations are root.T @ root
    pairs = heads * (heads - 1)
    alike = (float(np.square(root @ root.T).sum()) - heads) / max(pairs, 1)
    chance = min(1.0, max(1 - alike, 0.0) / ((units - 1) * alike)) if pairs and alike > 0 else float(pairs > 0)
    rng = np.random.default_rng(0)
    normal = sqrt(1 - chance) * (root.T @ rng.standard_normal((len(root), NORMAL_DRAWS)))
    if chance:
        normal += sqrt(chance) * rng.standard_normal(normal.shape)
    largest = float(np.quantile(np.abs(normal).max(0), asked_level(units, level)))
    return -float(stdtrit(units - 1, ndtr(-largest))) * sqrt(units / (units - 1))


def _shown_skewness(skewness: np.ndarray, units: int, draws: int) -> float:
    """The typical skewness of the heads' draws, without what chance makes of normal values and of so many draws."""
    square = float(np.square(skewness).mean())
    chance = 6 * (units - 2) / ((units + 1) * (units + 3)) / units + 6 / draws
    return sqrt(max(square - chance, 0.0))
