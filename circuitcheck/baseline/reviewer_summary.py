"""What a reviewer reads in a golden baseline; all of it follows from the arrays."""

from __future__ import annotations

from typing import Any

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.results import Estimate
from circuitcheck.stats.bootstrap import cluster_weights, mean_estimate, percentile_level, weighted_means
from circuitcheck.stats.estimate import estimate


def summary(baseline: Recording) -> dict[str, Any]:
    """Competence, and every unit's importance under every ablation kind with its interval, in the metric's unit."""
    prompts, solved = len(baseline.task.pairs), len(baseline.solved)
    content: dict[str, Any] = {
        "competence": {"prompts": prompts, "solved": solved, "inconclusive": baseline.incompetence},
        "units": [],
    }
    if not solved:
        return content
    weights = cluster_weights(baseline.solved_clusters, baseline.spec.draws, baseline.spec.seed)
    level = percentile_level(baseline.solved_clusters)
    clean = mean_estimate(baseline.metric[list(baseline.solved)], weights, level)
    content["competence"][baseline.spec.metric] = _interval(clean)
    kinds = {kind: baseline.effects(kind) for kind in baseline.ablated}
    draws = {kind: weighted_means(weights, effects) for kind, effects in kinds.items()}
    for number, unit in enumerate(baseline.measured):
        row: dict[str, Any] = {"unit": baseline.layout.label(unit)}
        for kind, effects in kinds.items():
            value = float(effects[number].mean())
            row[kind] = _interval(estimate(value, draws[kind][:, number], level))
        content["units"].append(row)
    return content


def _interval(value: Estimate) -> list[float]:
    """Value, lower and upper end."""
    return [value.value, value.low, value.high]
