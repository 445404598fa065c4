"""Which prompts a measure is taken of, and how they are drawn for its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.stats.bootstrap import cluster_weights, drawn_units, percentile_level


@dataclass(frozen=True)
class Sample:
    """Prompts with their bootstrap draws, the same for every measure of both sides.

    Attributes:
        weights: how often each prompt counts in each draw, `[draws, prompts]`.
        level: at which percentiles of the draws cover as often as an interval should.
        units: how many clusters are drawn from.
    """

    weights: NDArray[Any]
    level: float
    units: int


def solved_sample(baseline: Recording) -> Sample:
    """All prompts that the reference solves."""
    return _sample(baseline.solved_clusters, baseline)


def part_sample(baseline: Recording) -> Sample:
    """Those of them that values of units are kept of."""
    return _sample([baseline.task.pairs[place].cluster for place in baseline.z.index], baseline)


def _sample(clusters: Sequence[str], baseline: Recording) -> Sample:
    weights = cluster_weights(clusters, baseline.spec.draws, baseline.spec.seed)
    return Sample(weights, percentile_level(clusters), drawn_units(clusters))
