"""Are important heads more fragile? Importance against drift, over all heads and within layers.

Drift grows with depth, and so does or does not importance: a correlation over all heads may say no more than that.
Within layers depth is held fixed.
"""

from __future__ import annotations

from math import nan

import numpy as np
from scipy.special import ndtri

from circuitcheck.core.results import Association, Estimate
from circuitcheck.stats.estimate import LEVEL


def associate(
    importance: np.ndarray,
    drift: np.ndarray,
    layers: np.ndarray,
    importance_draws: np.ndarray,
    drift_draws: np.ndarray,
    *,
    level: float = LEVEL,
    permutations: int = 2000,
    seed: int = 0,
) -> Association:
    """Correlates |importance| with drift, with bootstrap intervals from draws of both on the same prompts.

    Intervals say what other prompts could have given. Heads are not drawn: they are all that the model has; whether so
    much could be chance among them is what p says.

    Args:
        importance: in logits, `[heads]`.
        drift: dimensionless, `[heads]`.
        layers: layer of each head, `[heads]`.
        importance_draws: `[draws, heads]`.
        drift_draws: `[draws, heads]`.
        level: of the intervals, as `percentile_level` gives it.
        permutations: how many random shuffles.
        seed: same seed, same p.

    Returns:
        The association. A correlation with something constant is NaN, and so is one with NaN; `between_layers_share` is
        NaN where drift is constant, NaN or infinite.

    Raises:
        ValueError: shapes that do not fit, no heads, or less than one permutation.
    """
    importance, drift = np.abs(np.asarray(importance, np.float64)), np.asarray(drift, np.float64)
    importance_draws = np.abs(np.asarray(importance_draws, np.float64))
    drift_draws, layers = np.asarray(drift_draws, np.float64), np.asarray(layers)
    shapes = [drift.shape, layers.shape, importance_draws.shape[1:], drift_draws.shape[1:]]
    if importance.ndim != 1 or not importance.size or any(shape != importance.shape for shape in shapes):
        raise ValueError(f"importance of shape {importance.shape} does not fit {shapes}.")
    one_layer = np.zeros_like(layers)
    return Association(
        raw=_rank_correlation(importance, drift, one_layer, importance_draws, drift_draws, level),
        within_layers=_rank_correlation(importance, drift, layers, importance_draws, drift_draws, level),
        p_within_layers=permutation_p(importance, drift, layers, permutations, seed),
        between_layers_share=between_share(drift, layers),
    )


def permutation_p(
    importance: np.ndarray, drift: np.ndarray, layers: np.ndarray, permutations: int = 2000, seed: int = 0
) -> float:
    """Two-sided p of the within-layer correlation: how often shuffled drifts correlate at least as much.

    Drifts change places inside their layer only, so what differs between layers stays. The drifts as they are count
    as one of the shuffles, so that p is never 0 (Phipson and Smyth 2010, doi 10.2202/1544-6115.1585).

    Args:
        importance: in logits, its absolute value counts, `[heads]`.
        drift: dimensionless, `[heads]`.
        layers: layer of each head, `[heads]`.
        permutations: how many random shuffles.
        seed: same seed, same p.

    Returns:
        Between 1 / (permutations + 1) and 1; NaN where the correlation is NaN.

    Raises:
        ValueError: less than one permutation.
    """
    if permutations < 1:
        raise ValueError(f"a permutation test needs permutations, not {permutations}.")
    x = _centred_ranks(np.abs(np.asarray(importance, np.float64))[None], layers)[0]
    y = _centred_ranks(np.asarray(drift, np.float64)[None], layers)[0]
    if np.isnan(_correlate(x[None], y[None])[0]):
        return nan
    # A shuffle leaves both variances as they are: the correlation is the sum of products but for a factor. Ranks are
    # halves of integers, so that sum is exact, and equal correlations compare equal.
    rng = np.random.default_rng(seed)
    shuffled = np.zeros(permutations)
    for layer in np.unique(layers):
        inside = layers == layer
        shuffled += rng.permuted(np.tile(y[inside], (permutations, 1)), axis=1) @ x[inside]
    return (1 + int(np.count_nonzero(np.abs(shuffled) >= abs(x @ y)))) / (1 + permutations)


def between_share(drift: np.ndarray, layers: np.ndarray) -> float:
    """Share of the variance of drift over heads that its layer means account for.

    Args:
        drift: dimensionless, `[heads]`.
        layers: layer of each head, `[heads]`.

    Returns:
        From 0 to 1; NaN where drift is constant, NaN or infinite.
    """
    drift = np.asarray(drift, np.float64)
    if not np.isfinite(drift).all() or (drift == drift[0]).all():
        return nan
    _, member = np.unique(layers, return_inverse=True)
    means = np.bincount(member, drift) / np.bincount(member)
    total = float(np.square(drift - drift.mean()).sum())
    return 1 - float(np.square(drift - means[member]).sum()) / total


def _rank_correlation(
    importance: np.ndarray,
    drift: np.ndarray,
    layers: np.ndarray,
    importance_draws: np.ndarray,
    drift_draws: np.ndarray,
    level: float,
) -> Estimate:
    importances, drifts = np.vstack([importance, importance_draws]), np.vstack([drift, drift_draws])
    values = _correlate(_centred_ranks(importances, layers), _centred_ranks(drifts, layers))
    return _with_error(float(values[0]), values[1:], level)


def _with_error(value: float, draws: np.ndarray, level: float) -> Estimate:
    """As many standard errors either way as the level takes, within [-1, 1].

    Not percentiles: drawing prompts adds noise to both rankings, so that most draws correlate less than the value.
    """
    reach = float(ndtri((1 + level) / 2) * draws.std())
    return Estimate(value, max(value - reach, -1.0), min(value + reach, 1.0))


def _centred_ranks(values: np.ndarray, layers: np.ndarray) -> np.ndarray:
    """Ranks inside each layer less their mean, equals sharing their mean rank, `[draws, heads]`; NaN where any is."""
    result = np.empty(values.shape)
    for layer in np.unique(layers):
        inside = np.flatnonzero(layers == layer)
        order = np.argsort(values[:, inside], axis=1)
        ordered = np.take_along_axis(values[:, inside], order, axis=1)
        differs = ordered[:, 1:] != ordered[:, :-1]
        # Each value's rank is the mean of the places, from 0, of the first and the last that equals it.
        first, last = _runs_begin(differs), len(inside) - 1 - _runs_begin(differs[:, ::-1])[:, ::-1]
        ranks = (first + last - (len(inside) - 1)) / 2
        result[:, inside] = np.take_along_axis(ranks, np.argsort(order, axis=1), axis=1)
    result[np.isnan(values).any(1)] = np.nan
    return result


def _runs_begin(differs: np.ndarray) -> np.ndarray:
    """Place of the first of the equals behind one another that each value stands among, `[draws, n]`.

    Args:
        differs: whether each value but the first is another than the one before it, `[draws, n - 1]`.
    """
    begins = np.arange(1, differs.shape[1] + 1) * differs
    return np.maximum.accumulate(np.hstack([np.zeros((len(differs), 1), np.intp), begins]), axis=1)


def _correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's r of rows whose means are 0, `[draws]`; NaN where a row is constant."""
    norms = np.sqrt(np.square(x).sum(1) * np.square(y).sum(1))
    return np.asarray((x * y).sum(1) / np.where(norms == 0, np.nan, norms))
