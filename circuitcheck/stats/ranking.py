"""Do two importances put the same heads first?

Heads are ranked by |importance|. Rank-biased overlap weighs the top: the many heads that do nothing, whose order is
noise, hardly count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from circuitcheck.stats.bootstrap import cluster_weights, percentile_level, weighted_means
from circuitcheck.stats.estimate import LEVEL, estimate


def rank_biased_overlap(
    a: np.ndarray,
    b: np.ndarray,
    *,
    persistence: float = 0.9,
    tied_a: np.ndarray | None = None,
    tied_b: np.ndarray | None = None,
) -> float:
    """Rank-biased overlap of the heads by |importance| (Webber, Moffat and Zobel 2010, doi 10.1145/1852102.1852106).

    With p the persistence, and S and T the heads ranked at most d in either ranking, depth d weighs (1 - p) p^(d - 1)
    and agrees by 2 |S and T| / (|S| + |T|), the paper's treatment of ties. Both rankings hold all heads, so they agree
    fully at every depth beyond. At p = 0.9 the first ten ranks carry 86 % of the weight.

    Args:
        a: importances, `[heads]`.
        b: importances of the same heads, `[heads]`.
        persistence: p, between 0 and 1; the larger, the deeper it looks.
        tied_a: bool, `[heads]`: heads of `a` that cannot be told from zero; they are ties at the bottom.
        tied_b: the same of `b`.

    Returns:
        Between 0 and 1, dimensionless: exactly 1 for equal rankings; NaN if any importance is NaN.

    Raises:
        ValueError: shapes that differ, no heads, or a persistence outside (0, 1).
    """
    a, b = _same_heads(a, b)
    return float(rank_biased_overlap_draws(a, b, persistence=persistence, tied_a=tied_a, tied_b=tied_b)[0])


def rank_biased_overlap_draws(
    a: np.ndarray,
    b: np.ndarray,
    *,
    persistence: float = 0.9,
    tied_a: np.ndarray | None = None,
    tied_b: np.ndarray | None = None,
) -> np.ndarray:
    """`rank_biased_overlap` of every draw.

    Args:
        a: importances, `[draws, heads]` or `[heads]`.
        b: importances of the same heads, `[draws, heads]` or `[heads]`.
        persistence: as there.
        tied_a: bool, `[draws, heads]` or `[heads]`.
        tied_b: the same of `b`.

    Returns:
        `[draws]`.

    Raises:
        ValueError: as there.
    """
    if not 0 < persistence < 1:
        raise ValueError(f"persistence {persistence} is not between 0 and 1.")
    strengths = np.broadcast_arrays(np.atleast_2d(_strength(a, tied_a)), np.atleast_2d(_strength(b, tied_b)))
    heads = strengths[0].shape[1]
    if not heads:
        raise ValueError("there are no heads to rank.")
    ranks_a, ranks_b = (_ranks(strength) for strength in strengths)
    shared = _ranked_at_most(np.maximum(ranks_a, ranks_b))
    agreement = 2 * shared / (_ranked_at_most(ranks_a) + _ranked_at_most(ranks_b))
    weights = (1 - persistence) * persistence ** np.arange(heads)
    # Subtracting what disagrees from 1 is the same sum with its tail, and exact where nothing disagrees.
    overlap = 1 - (1 - agreement) @ weights
    undefined = np.isnan(strengths[0]).any(1) | np.isnan(strengths[1]).any(1)
    return np.where(undefined, np.nan, overlap)


def top_k_overlap(a: np.ndarray, b: np.ndarray, k: int = 5) -> float:
    """Share of the k heads of largest |a| that are among the k of largest |b|; of equals the first counts as larger.

    Args:
        a: importances, `[heads]`.
        b: importances of the same heads, `[heads]`.
        k: how many heads; at most all of them.

    Returns:
        Between 0 and 1, dimensionless; NaN if any importance is NaN.

    Raises:
        ValueError: shapes that differ, no heads, or k below 1.
    """
    a, b = _same_heads(a, b)
    if k < 1:
        raise ValueError(f"k is {k}, but an overlap needs at least one head.")
    if np.isnan(a).any() or np.isnan(b).any():
        return float("nan")
    k = min(k, len(a))
    top_a, top_b = (np.argsort(-np.abs(values), kind="stable")[:k] for values in (a, b))
    return len(np.intersect1d(top_a, top_b)) / k


def kendall_tau_b(a: np.ndarray, b: np.ndarray) -> float:
    """Kendall's tau-b of |a| and |b| (Kendall 1945, doi 10.1093/biomet/33.3.239).

    Args:
        a: importances, `[heads]`.
        b: importances of the same heads, `[heads]`.

    Returns:
        Between -1 and 1, dimensionless; 1 if both are constant, NaN if only one is or if any importance is NaN.

    Raises:
        ValueError: shapes that differ, or no heads.
    """
    a, b = (np.abs(values) for values in _same_heads(a, b))
    if np.isnan(a).any() or np.isnan(b).any():
        return float("nan")
    constant = [bool((values == values[0]).all()) for values in (a, b)]
    if any(constant):
        return 1.0 if all(constant) else float("nan")
    ranks = np.stack([np.unique(values, return_inverse=True)[1] for values in (a, b)])
    pairs = np.zeros((2, 2))
    for pair in ranks.T:  # head by head: all pairs at once would take memory that grows with the square of the heads
        signs = np.sign(ranks - pair[:, None]).astype(np.float64)
        pairs += signs @ signs.T
    return float(pairs[0, 1] / np.sqrt(pairs[0, 0] * pairs[1, 1]))


def split_half_agreement(
    effects: np.ndarray, clusters: Sequence[str], splits: int = 100, seed: int = 0, persistence: float = 0.9
) -> float:
    """Mean rank-biased overlap between the importances of random halves of the prompts.

    Heads that do not stand out on all prompts are ties, as in the agreement that this stands beside.

    The ceiling of any ranking agreement: another model cannot agree better with a ranking than the ranking with
    itself on other prompts. Halves have half of the prompts of every cluster, so that they are of the same kinds.

    Args:
        effects: m(clean) - m(ablated) of every head and prompt, in logits, `[heads, prompts]`.
        clusters: cluster of each prompt, `[prompts]`.
        splits: how many random halvings.
        seed: same seed, same halves.
        persistence: as in `rank_biased_overlap`.

    Returns:
        Between 0 and 1, dimensionless; NaN with fewer than two prompts.

    Raises:
        ValueError: clusters that do not fit the effects, or less than one split.
    """
    effects = np.asarray(effects, np.float64)
    prompts = effects.shape[1]
    if len(clusters) != prompts or splits < 1:
        raise ValueError(f"cannot halve {prompts} prompts of {len(clusters)} cluster names {splits} times.")
    if prompts < 2:
        return float("nan")
    halves = _halves(clusters, splits, seed)
    first, second = ((half @ effects.T) / half.sum(1, keepdims=True) for half in (halves, 1 - halves))
    weights = cluster_weights(clusters, seed=seed)
    tied = at_the_bottom(effects.mean(1), weighted_means(weights, effects), percentile_level(clusters))
    overlap = rank_biased_overlap_draws(first, second, persistence=persistence, tied_a=tied, tied_b=tied)
    return float(overlap.mean())


NEGLIGIBLE = 0.05
"""Heads below this share of the largest importance do not stand out, however well they can be told from zero."""


def at_the_bottom(importance: np.ndarray, draws: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Heads that do not stand out: their interval contains zero, or they are negligible beside the largest.

    Args:
        importance: `[heads]`.
        draws: `[draws, heads]`.
        level: of the percentiles, as `percentile_level` gives it.

    Returns:
        bool, `[heads]`: ties at the bottom of a ranking.
    """
    size = np.abs(importance)
    return np.asarray(indistinct_from_zero(importance, draws, level) | (size < NEGLIGIBLE * size.max()))


def reversed_overlap(importance: np.ndarray, tied: np.ndarray, persistence: float = 0.9) -> float:
    """Rank-biased overlap of a ranking with itself in reversed order: what even the wrong order agrees by.

    Args:
        importance: `[heads]`.
        tied: bool, `[heads]`: heads that are ties at the bottom, in either order.
        persistence: as in `rank_biased_overlap`.

    Returns:
        Between 0 and 1; 1 where fewer than two heads stand out.
    """
    size = np.abs(np.asarray(importance, np.float64))
    turned = np.where(size > 0, 1 / np.where(size > 0, size, 1.0), 0.0)
    return rank_biased_overlap(size, turned, persistence=persistence, tied_a=tied, tied_b=tied)


def indistinct_from_zero(importance: np.ndarray, draws: np.ndarray, level: float = LEVEL) -> np.ndarray:
    """Heads whose interval contains zero: ties at the bottom of a ranking.

    Args:
        importance: `[heads]`.
        draws: `[draws, heads]`.
        level: of the percentiles, as `percentile_level` gives it.

    Returns:
        bool, `[heads]`.
    """
    intervals = [estimate(float(value), column, level) for value, column in zip(importance, draws.T, strict=True)]
    return np.array([interval.low <= 0 <= interval.high for interval in intervals])


def ranks(importance: np.ndarray) -> np.ndarray:
    """Rank of each head by |importance|, 1 for the largest; equals share the best rank among them.

    Args:
        importance: `[heads]`.

    Returns:
        int64, `[heads]`.

    Raises:
        ValueError: an importance that is NaN has no rank.
    """
    importance = np.asarray(importance, np.float64)
    if np.isnan(importance).any():
        raise ValueError(f"importance of head {int(np.isnan(importance).argmax())} is NaN and has no rank.")
    return np.asarray(_ranks(np.abs(importance)[None])[0])


def _same_heads(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.ndim != 1 or a.shape != b.shape or not a.size:
        raise ValueError(f"importances of shapes {a.shape} and {b.shape} are not of the same heads.")
    return a, b


def _strength(importance: np.ndarray, tied: np.ndarray | None) -> np.ndarray:
    strength = np.abs(np.asarray(importance, np.float64))
    # NaN stays NaN below a mask: a head that was not measured is not one that does nothing.
    return strength if tied is None else np.where(tied & ~np.isnan(strength), 0.0, strength)


def _ranks(strength: np.ndarray) -> np.ndarray:
    """`[draws, heads]` of 1 for the largest; equals share the best rank among them."""
    order = np.argsort(-strength, axis=1)
    ordered = np.take_along_axis(strength, order, 1)
    places = np.broadcast_to(np.arange(1, strength.shape[1] + 1), strength.shape).copy()
    places[:, 1:][ordered[:, 1:] == ordered[:, :-1]] = 0
    result = np.empty(strength.shape, np.int64)
    np.put_along_axis(result, order, np.maximum.accumulate(places, axis=1), 1)
    return result


def _ranked_at_most(ranks: np.ndarray) -> np.ndarray:
    """How many heads have a rank of at most d: `[draws, d - 1]`."""
    draws, heads = ranks.shape
    cells = ranks - 1 + heads * np.arange(draws)[:, None]
    return np.bincount(cells.ravel(), minlength=draws * heads).reshape(draws, heads).cumsum(1)


def _halves(clusters: Sequence[str], splits: int, seed: int) -> np.ndarray:
    """1 for prompts of the first half, else 0: `[splits, prompts]`.

    Clusters behind one another, in random order and shuffled inside, are dealt out alternately: that halves every
    cluster and the whole as evenly as can be.
    """
    rng = np.random.default_rng(seed)
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    halves = np.zeros((splits, len(member)))
    for half in halves:
        order = np.lexsort((rng.random(len(member)), rng.random(len(names))[member]))
        half[order[::2]] = 1
    return halves
