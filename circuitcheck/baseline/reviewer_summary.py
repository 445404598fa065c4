"""What a reviewer reads in a golden baseline; all of it follows from the arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from circuitcheck.baseline.recording import Recording
from circuitcheck.baseline.rounded import squares_of
from circuitcheck.core.results import Estimate
from circuitcheck.stats.bootstrap import cluster_weights, mean_estimate, percentile_level, weighted_means
from circuitcheck.stats.estimate import mean_estimates

CHUNK = 256
"""Units whose bootstrap draws are in memory at once."""


def summary(baseline: Recording) -> dict[str, Any]:
    """Competence, and what is kept of every unit, in the metric's unit where nothing else is said.

    A measured unit has its importance under every kind of ablation, with the interval. Every unit has `writes`, the
    root mean square of what it writes, in logits, over positions and the tokens that are read, and `attribution`, the
    mean over prompts of gradient times value: what zero ablation costs, to first order; and, for each precision that
    the reference was rounded to, how far what it writes moved at most, in logits.
    """
    prompts, solved = len(baseline.task.pairs), len(baseline.solved)
    content: dict[str, Any] = {
        "competence": {"prompts": prompts, "solved": solved, "inconclusive": baseline.incompetence},
        "roundings": [{"precision": one.precision, "name": one.name, **one.measures} for one in baseline.roundings],
        "units": [],
    }
    if not solved:
        return content
    weights = cluster_weights(baseline.solved_clusters, baseline.spec.draws, baseline.spec.seed).astype(np.float64)
    level = percentile_level(baseline.solved_clusters)
    for name, metric in ((baseline.spec.metric, baseline.metric), ("counterfactual", baseline.counterfactual)):
        content["competence"][name] = _interval(mean_estimate(metric[list(baseline.solved)], weights, level))
    rows = {
        unit: {"unit": baseline.layout.label(unit), "writes": writes, "attribution": attribution}
        for unit, writes, attribution in zip(
            baseline.layout.units, _writes(baseline), _attribution(baseline), strict=True
        )
    }
    clusters = [baseline.task.pairs[place].cluster for place in baseline.ablated_on.index]
    weights = cluster_weights(clusters, baseline.spec.draws, baseline.spec.seed).astype(np.float64)
    level = percentile_level(clusters)
    for kind in baseline.ablated:
        effects = baseline.effects(kind)
        for start in range(0, len(effects), CHUNK):
            some = effects[start : start + CHUNK]
            found = mean_estimates(some.mean(axis=1), weighted_means(weights, some), level)
            for unit, importance in zip(baseline.measured[start : start + CHUNK], found, strict=True):
                rows[unit][kind] = _interval(importance)
    for precision in dict.fromkeys(one.precision for one in baseline.roundings):
        moves = np.sqrt(squares_of(baseline.roundings, precision).mean(-1).max(0))
        for row, move in zip(rows.values(), moves, strict=True):
            row[f"moved by {precision}"] = float(move)
    content["units"] = list(rows.values())
    return content


def _writes(baseline: Recording) -> Iterator[float]:
    """Root mean square of what each unit writes, in logits, over positions and tokens."""
    for values, read in zip(baseline.z.in_double(), baseline.reading.maps, strict=True):
        double = read.astype(np.float64)
        # What is read of one position has the square norm z' R'R z; R'R is small.
        squares = np.einsum("pcw,cwv,pcv->c", values, double.swapaxes(1, 2) @ double, values, optimize=True)
        yield from map(float, np.sqrt(np.maximum(squares, 0) / (len(values) * read.shape[1])))


def _attribution(baseline: Recording) -> Iterator[float]:
    """Mean over prompts of gradient times value of each unit, in logits."""
    for values, slopes in zip(baseline.z.in_double(), baseline.gradient.in_double(), strict=True):
        yield from map(float, np.einsum("pcw,pcw->c", values, slopes) / len(baseline.z.index))


def _interval(value: Estimate) -> list[float]:
    """Value, lower and upper end."""
    return [value.value, value.low, value.high]
