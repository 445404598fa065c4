"""How often intervals hold the truth: `python benchmarks/interval_coverage.py --json FILE`.

Measurements are made up, with a truth that is known, and every interval is formed as the gate forms it, beside the way
it was formed before where that was another. Prompts come in clusters of four, as templates do. Their errors are

- normal: half of the variance belongs to the cluster;
- skewed: the same of a lognormal (skewness 3.7), each head's of its own;
- clustered: normal, 95 % of the variance belongs to the cluster.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import cache
from math import exp, expm1, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np

from circuitcheck.stats.bootstrap import (
    cluster_weights,
    drawn_units,
    mean_estimate,
    percentile_level,
    ratio_estimate,
    share_estimate,
    weighted_means,
)
from circuitcheck.stats.estimate import Estimate, estimate
from circuitcheck.stats.simultaneous import largest_magnitude, profile_changes, simultaneous

KINDS = {"normal": 0.5, "skewed": 0.5, "clustered": 0.95}
"""Kind of error to the share of its variance that belongs to the cluster."""

CLUSTERS = (5, 8, 16)
IN_A_CLUSTER = 4
HEADS = 16
SPREAD = 0.8  # of the lognormal's logarithm


class Sample:
    """Made-up prompts, their errors and their bootstrap draws.

    Attributes:
        weights: `[draws, prompts]`.
        level: of percentiles over so few clusters.
        units: how many clusters there are.
    """

    def __init__(self, kind: str, clusters: int, seed: int, draws: int) -> None:
        names = [str(number) for number in np.repeat(np.arange(clusters), IN_A_CLUSTER)]
        self.kind, self.units = kind, drawn_units(names)
        self.weights, self.level = cluster_weights(names, draws, seed), percentile_level(names)
        self._rng = np.random.default_rng((seed, clusters))

    def errors(self, *lead: int) -> np.ndarray:
        """`[*lead, prompts]` of mean 0 and variance 1."""
        share = KINDS[self.kind]
        of_cluster, own = self._raw(*lead, self.units), self._raw(*lead, self.units * IN_A_CLUSTER)
        return np.asarray(sqrt(share) * np.repeat(of_cluster, IN_A_CLUSTER, axis=-1) + sqrt(1 - share) * own)

    def means(self, values: np.ndarray) -> np.ndarray:
        """`[draws, ...]` of `[..., prompts]`."""
        return weighted_means(self.weights, values)

    def _raw(self, *shape: int) -> np.ndarray:
        if self.kind != "skewed":
            return self._rng.normal(size=shape)
        values = self._rng.lognormal(0, SPREAD, shape)
        centre = exp(SPREAD**2 / 2)
        return np.asarray((values - centre) / (centre * sqrt(expm1(SPREAD**2))))


class Trial(NamedTuple):
    """Whether the interval of one data set held the truth, formed as it is and as it was."""

    now: bool
    before: bool


def holds(interval: Estimate, truth: float) -> bool:
    """Whether an interval holds the truth."""
    return bool(interval.low <= truth <= interval.high)


def mean(sample: Sample) -> Trial:
    """A mean metric of 5 logits whose prompts vary by 2."""
    now = holds(mean_estimate(5 + 2 * sample.errors(), sample.weights, sample.level), 5)
    return Trial(now, now)


def ratio(sample: Sample) -> Trial:
    """A recovery of 0.6 of a loss of 2 logits that varies by 1.5."""
    lost = 2 + 1.5 * sample.errors()
    gain = 0.6 * lost + 0.8 * sample.errors()
    ends = gain.mean(), lost.mean(), sample.means(gain), sample.means(lost)
    usable = ends[3] * ends[1] > 0
    ratios = ends[2] / np.where(usable, ends[3], 1.0)
    low = estimate(ends[0] / ends[1], np.where(usable, ratios, -np.inf), sample.level).low
    high = estimate(ends[0] / ends[1], np.where(usable, ratios, np.inf), sample.level).high
    return Trial(holds(ratio_estimate(*ends, sample.level), 0.6), low <= 0.6 <= high)


def share(sample: Sample) -> Trial:
    """Nine prompts of ten keep their behaviour."""
    now = holds(share_estimate(sample.errors() < _ninth_decile(sample.kind), sample.weights, sample.level), 0.9)
    return Trial(now, now)


def drift_median(sample: Sample) -> Trial:
    """Heads whose drifts go from 0.05 to 0.3."""
    truth, values, draws = _drifts(sample, np.geomspace(0.05, 0.3, HEADS))
    now = holds(estimate(float(np.median(values)), np.median(draws, axis=1), sample.level), float(np.median(truth)))
    return Trial(now, now)


def drift_largest(sample: Sample) -> Trial:
    """The same heads; the largest of them drifts clearly more than most."""
    return _largest_drift(sample, np.geomspace(0.05, 0.3, HEADS))


def drift_largest_of_equals(sample: Sample) -> Trial:
    """Heads that all drift by 0.2: the largest that is seen is larger by chance alone."""
    return _largest_drift(sample, np.full(HEADS, 0.2))


def profile_distance(sample: Sample) -> Trial:
    """One head changed by 1 of 4 logits, which is known well; the 4 is not."""
    importance = np.array([4.0, 2.0, *np.linspace(1, 0, HEADS - 2)])
    effects = importance[:, None] + 2 * (0.6 * sample.errors(1) + 0.8 * sample.errors(HEADS))
    moved = np.where(np.arange(HEADS) == 2, -1.0, 0.0)[:, None] + 0.25 * sample.errors(HEADS)
    change, reference = moved.mean(1), effects.mean(1)
    now = largest_magnitude(
        profile_changes(change, reference, sample.means(moved), sample.means(effects), sample.units)
    )
    largest = largest_magnitude(simultaneous(change, sample.means(moved), sample.units))
    scale = float(np.abs(reference).max())
    return Trial(holds(now, 0.25), holds(Estimate(*(end / scale for end in _ends(largest))), 0.25))


def all_heads(sample: Sample) -> Trial:
    """Changes of all heads, which are to hold together; before, each had percentiles of its own."""
    truth = np.linspace(-1, 1, HEADS)
    values = truth[:, None] + 0.5 * sample.errors(HEADS)
    draws = sample.means(values)
    together = simultaneous(values.mean(1), draws, sample.units)
    alone = [estimate(value, column, sample.level) for value, column in zip(values.mean(1), draws.T, strict=True)]
    now, before = (all(map(holds, found, truth)) for found in (together, alone))
    return Trial(now, before)


MEASURES: Mapping[str, Callable[[Sample], Trial]] = {
    "mean": mean,
    "ratio of means": ratio,
    "share": share,
    "drift_median": drift_median,
    "drift_largest": drift_largest,
    "drift_largest of equals": drift_largest_of_equals,
    "profile_distance": profile_distance,
    "all heads at once": all_heads,
}


def coverage(measure: str, kind: str, clusters: int, data_sets: int, draws: int = 1000) -> tuple[float, float]:
    """Share of data sets whose interval holds the truth, as intervals are formed and as they were."""
    trials = [MEASURES[measure](Sample(kind, clusters, seed, draws)) for seed in range(data_sets)]
    now, before = np.mean(trials, axis=0)
    return float(now), float(before)


def main() -> None:
    """Prints the table, as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-sets", type=int, default=600, help="for each figure")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    places = [(kind, clusters) for kind in KINDS for clusters in CLUSTERS]
    print("| measure |", " | ".join(f"{kind}, {clusters}" for kind, clusters in places), "|")
    print("| --- |", " | ".join("---" for _ in places), "|")
    figures = {}
    for measure in MEASURES:
        found = {place: coverage(measure, *place, options.data_sets) for place in places}
        figures[measure] = {f"{kind}, {clusters}": found[kind, clusters] for kind, clusters in places}
        cells = [f"{now:.2f}" if now == before else f"{now:.2f} ({before:.2f})" for now, before in found.values()]
        print(f"| {measure} |", " | ".join(cells), "|", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"data_sets": options.data_sets, "coverage": figures}, indent=1))


def _largest_drift(sample: Sample, drifts: np.ndarray) -> Trial:
    truth, values, draws = _drifts(sample, drifts)
    now = largest_magnitude(simultaneous(values, draws, sample.units))
    before = estimate(float(values.max()), draws.max(1), sample.level)
    return Trial(holds(now, truth.max()), holds(before, truth.max()))


def _drifts(sample: Sample, drifts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True drifts, measured ones `[heads]`, and their draws `[draws, heads]`; squares of errors have known means."""
    shared = 0.6 * sample.errors(1) + 0.8 * sample.errors(len(drifts))
    difference = np.square(drifts[:, None] * (1 + 0.5 * shared))
    reference = np.square(1 + 0.4 * sample.errors(len(drifts)))
    values = np.sqrt(difference.mean(1) / reference.mean(1))
    draws = np.sqrt(sample.means(difference) / sample.means(reference))
    return drifts * sqrt((1 + 0.5**2) / (1 + 0.4**2)), values, draws


@cache
def _ninth_decile(kind: str) -> float:
    return float(np.quantile(Sample(kind, 100_000, seed=0, draws=1).errors(), 0.9))


def _ends(one: Estimate) -> tuple[float, float, float]:
    return one.value, one.low, one.high


if __name__ == "__main__":
    main()
