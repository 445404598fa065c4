"""Which prompts a measure is taken of, and how they are drawn for its interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.stats.bootstrap import cluster_weights, drawn_units, percentile_level
from circuitcheck.stats.estimate import LEVEL


@dataclass(frozen=True)
class Sample:
    """Prompts with their bootstrap draws, the same for every measure of both sides.

    Attributes:
        weights: how often each prompt counts in each draw, `[draws, prompts]`.
        level: at which percentiles of the draws cover as often as an interval should.
        units: how many clusters are drawn from.
        nominal: how often an interval should.
    """

    weights: NDArray[Any]
    level: float
    units: int
    nominal: float


def solved_sample(baseline: Recording, level: float = LEVEL) -> Sample:
    """All prompts that the reference solves."""
    return _sample(baseline.solved_clusters, baseline, level)


def part_sample(baseline: Recording, level: float = LEVEL) -> Sample:
    """Those of them that values of units are kept of."""
    return _sample([baseline.task.pairs[place].cluster for place in baseline.z.index], baseline, level)


def ablated_sample(baseline: Recording, level: float = LEVEL) -> Sample:
    """Those of them that units are ablated on."""
    return _sample([baseline.task.pairs[place].cluster for place in baseline.ablated_on.index], baseline, level)


def _sample(clusters: Sequence[str], baseline: Recording, level: float) -> Sample:
    weights = cluster_weights(clusters, baseline.spec.draws, baseline.spec.seed)
    return Sample(weights, percentile_level(clusters, level), drawn_units(clusters), level)
