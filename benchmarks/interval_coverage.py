"""How often intervals hold the truth, and how wide they are: `python benchmarks/interval_coverage.py --json FILE`.

Measurements are made up, with a truth that is known, and every interval is formed as the gate forms it, beside the way
it was formed before. Prompts come in clusters, as templates do. Their errors are

- normal: half of the variance belongs to the cluster;
- skewed: the same of a lognormal (skewness 3.7), each head's of its own;
- rare: the same, normal but for one in ten, which lies further out on one side (skewness 1.5);
- clustered: normal, 95 % of the variance belongs to the cluster.

What the intervals are made of was chosen on the worlds of `--choosing`: clusters of four prompts. Without it the worlds
are others: clusters of two to six prompts, and other random numbers.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import cache
from math import ceil, exp, expm1, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import t as student

from circuitcheck.stats.bootstrap import (
    cluster_weights,
    drawn_units,
    mean_estimate,
    percentile_level,
    ratio_draws,
    ratio_estimate,
    share_estimate,
    weighted_means,
)
from circuitcheck.stats.estimate import LEVEL, Estimate, estimate, mean_estimates
from circuitcheck.stats.ranking import indistinct_from_zero, rank_biased_overlap, rank_biased_overlap_draws
from circuitcheck.stats.simultaneous import largest_magnitude, profile_changes, simultaneous

KINDS = {"normal": 0.5, "skewed": 0.5, "rare": 0.5, "clustered": 0.95}
"""Kind of error to the share of its variance that belongs to the cluster."""

CLUSTERS = (5, 8, 16)
SIZES = {True: (4, 4), False: (2, 6)}
"""Fewest and most prompts of a cluster, where intervals are chosen and where they are reported."""

FRESH = 10**6
"""First random seed of the worlds that are reported."""

HEADS = 16
SPREAD = 0.8  # of the lognormal's logarithm
RARE, FAR = 0.1, 5.0


class Sample:
    """Made-up prompts, their errors and their bootstrap draws.

    Attributes:
        weights: `[draws, prompts]`.
        level: of percentiles over so few clusters.
        old_level: what that was before.
        units: how many clusters there are.
    """

    def __init__(self, kind: str, clusters: int, seed: int, draws: int, *, choosing: bool) -> None:
        seed += 0 if choosing else FRESH
        self._rng = np.random.default_rng((seed, clusters))
        fewest, most = SIZES[choosing]
        self._member = np.repeat(np.arange(clusters), self._rng.integers(fewest, most + 1, clusters))
        names = [str(number) for number in self._member]
        self.kind, self.units = kind, drawn_units(names)
        self.weights, self.level = cluster_weights(names, draws, seed), percentile_level(names)
        self.old_level = 1 - 2 * float(ndtr(-sqrt(clusters / (clusters - 1)) * student.isf(0.025, clusters - 1)))

    def errors(self, *lead: int) -> np.ndarray:
        """`[*lead, prompts]` of mean 0 and variance 1."""
        share = KINDS[self.kind]
        of_cluster, own = self._raw(*lead, self.units), self._raw(*lead, len(self._member))
        return np.asarray(sqrt(share) * of_cluster[..., self._member] + sqrt(1 - share) * own)

    def means(self, values: np.ndarray) -> np.ndarray:
        """`[draws, ...]` of `[..., prompts]`."""
        return weighted_means(self.weights, values)

    def _raw(self, *shape: int) -> np.ndarray:
        if self.kind == "rare":
            values = self._rng.normal(size=shape) + FAR * (self._rng.random(shape) < RARE)
            return np.asarray((values - FAR * RARE) / sqrt(1 + FAR**2 * RARE * (1 - RARE)))
        if self.kind != "skewed":
            return self._rng.normal(size=shape)
        values = self._rng.lognormal(0, SPREAD, shape)
        centre = exp(SPREAD**2 / 2)
        return np.asarray((values - centre) / (centre * sqrt(expm1(SPREAD**2))))


class Trial(NamedTuple):
    """What one data set gave, with intervals as they are formed and as they were.

    Attributes:
        now: whether the interval held the truth.
        before: the same of the old one.
        width: of the interval; of many heads', the median.
        width_before: of the old one.
    """

    now: bool
    before: bool
    width: float
    width_before: float


def trial(now: Estimate, before: Estimate, truth: float) -> Trial:
    """One interval and the old one."""
    return Trial(holds(now, truth), holds(before, truth), now.high - now.low, before.high - before.low)


def holds(interval: Estimate, truth: float) -> bool:
    """Whether an interval holds the truth."""
    return bool(interval.low <= truth <= interval.high)


def mean(sample: Sample) -> Trial:
    """A mean metric of 5 logits whose prompts vary by 2."""
    values = 5 + 2 * sample.errors()
    before = estimate(float(values.mean()), sample.means(values), sample.old_level)
    return trial(mean_estimate(values, sample.weights, sample.level), before, 5)


def ratio(sample: Sample) -> Trial:
    """A recovery of 0.6 of a loss of 2 logits that varies by 1.5."""
    lost = 2 + 1.5 * sample.errors()
    return _ratio(sample, 0.6 * lost + 0.8 * sample.errors(), lost, 0.6)


def change(sample: Sample) -> Trial:
    """A metric of 5 logits that falls by a twentieth, with prompts that vary by 2 on both sides."""
    reference = 5 + 2 * sample.errors()
    return _ratio(sample, -0.25 + 0.3 * sample.errors() + 0.05 * (5 - reference), reference, -0.05)


def share(sample: Sample) -> Trial:
    """Nine prompts of ten keep their behaviour."""
    return _share(sample, 0.9)


def share_of_most(sample: Sample) -> Trial:
    """All prompts but one in thirty do."""
    return _share(sample, 29 / 30)


def drift_median(sample: Sample) -> Trial:
    """Heads whose drifts go from 0.05 to 0.3."""
    truth, values, draws = _drifts(sample, np.geomspace(0.05, 0.3, HEADS))
    value, drawn = float(np.median(values)), np.median(draws, axis=1)
    now, before = estimate(value, drawn, sample.level), estimate(value, drawn, sample.old_level)
    return trial(now, before, float(np.median(truth)))


def drift_pooled(sample: Sample) -> Trial:
    """The same heads, their squares summed up, each with a weight of its own."""
    sizes = np.geomspace(4, 0.25, HEADS)[:, None]
    truth, (difference, reference) = _squares(sample, np.geomspace(0.05, 0.3, HEADS))
    parts = [(sizes * part).sum(0) for part in (difference, reference)]
    value, drawn = (sqrt(parts[0].mean() / parts[1].mean()), np.sqrt(sample.means(parts[0]) / sample.means(parts[1])))
    now = mean_estimates(np.array([value]), drawn[:, None], sample.level)[0]
    return trial(
        now, estimate(value, drawn, sample.old_level), sqrt(float((sizes[:, 0] * truth**2).sum() / sizes.sum()))
    )


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
    both = moved.mean(1), effects.mean(1), sample.means(moved), sample.means(effects)
    now = largest_magnitude(profile_changes(*both, sample.units), profile_changes(*both, sample.units, alone=True))
    scale = float(np.abs(both[1]).max())
    before = _joint_before(both[0] / scale, ratio_draws(both[2], np.abs(both[3]).max(-1), scale), sample.units)
    return trial(now, largest_magnitude(before), 0.25)


def all_heads(sample: Sample) -> Trial:
    """Changes of all heads, which are to hold together."""
    truth = np.linspace(-1, 1, HEADS)
    values = truth[:, None] + 0.5 * sample.errors(HEADS)
    return _all(sample, values, truth)


def heads_alike(sample: Sample) -> Trial:
    """The same, where a third of the variance is all heads' own prompts'."""
    truth = np.linspace(-1, 1, HEADS)
    values = truth[:, None] + 0.5 * (0.6 * sample.errors(1) + 0.8 * sample.errors(HEADS))
    return _all(sample, values, truth)


def ranking(sample: Sample) -> Trial:
    """Agreement of two rankings of heads that all differ, a quarter of them told from zero."""
    ours, theirs = _importances()
    shared = sample.errors(HEADS)
    effects = [truth[:, None] + 1.5 * (0.9 * shared + 0.44 * sample.errors(HEADS)) for truth in (ours, theirs)]
    values, draws = ([part.mean(1) for part in effects], [sample.means(part) for part in effects])
    tied = [indistinct_from_zero(*both, sample.level) for both in zip(values, draws, strict=True)]
    options = {"tied_a": tied[0], "tied_b": tied[1]}
    value, drawn = rank_biased_overlap(*values, **options), rank_biased_overlap_draws(*draws, **options)
    truth = rank_biased_overlap(ours, theirs, **options)
    return trial(estimate(value, drawn, sample.level), estimate(value, drawn, sample.old_level), truth)


MEASURES: Mapping[str, Callable[[Sample], Trial]] = {
    "mean": mean,
    "mean change": change,
    "ratio of means": ratio,
    "share of 0.9": share,
    "share of 0.967": share_of_most,
    "drift_median": drift_median,
    "drift pooled": drift_pooled,
    "drift_largest": drift_largest,
    "drift_largest of equals": drift_largest_of_equals,
    "profile_distance": profile_distance,
    "ranking": ranking,
    "all heads at once": all_heads,
    "heads that are alike": heads_alike,
}


def coverage(
    measure: str, kind: str, clusters: int, data_sets: int, draws: int = 1000, *, choosing: bool = False
) -> Trial:
    """Means over data sets: shares that hold the truth; widths are medians."""
    made = (Sample(kind, clusters, seed, draws, choosing=choosing) for seed in range(data_sets))
    trials = np.array([MEASURES[measure](sample) for sample in made])
    return Trial(*trials[:, :2].mean(0), *np.median(trials[:, 2:], axis=0))


def main() -> None:
    """Prints the table, as Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data-sets", type=int, default=600, help="for each figure")
    parser.add_argument("--choosing", action="store_true", help="the worlds on which the intervals were chosen")
    parser.add_argument("--measure", action="append", choices=MEASURES, help="only this one; may be repeated")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    options = parser.parse_args()
    places = [(kind, clusters) for kind in KINDS for clusters in CLUSTERS]
    print("| measure |", " | ".join(f"{kind}, {clusters}" for kind, clusters in places), "|")
    print("| --- |", " | ".join("---" for _ in places), "|")
    figures = {}
    for measure in options.measure or MEASURES:
        found = {place: coverage(measure, *place, options.data_sets, choosing=options.choosing) for place in places}
        figures[measure] = {f"{kind}, {clusters}": found[kind, clusters]._asdict() for kind, clusters in places}
        cells = [f"{one.now:.2f} ({one.before:.2f}) {one.width / one.width_before:.2f}" for one in found.values()]
        print(f"| {measure} |", " | ".join(cells), "|", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"data_sets": options.data_sets, "coverage": figures}, indent=1))


def _ratio(sample: Sample, numerator: np.ndarray, denominator: np.ndarray, truth: float) -> Trial:
    ends = numerator.mean(), denominator.mean(), sample.means(numerator), sample.means(denominator)
    return trial(ratio_estimate(*ends, sample.level), _ratio_before(*ends, sample.old_level), truth)


def _ratio_before(
    numerator: float, denominator: float, numerator_draws: np.ndarray, denominator_draws: np.ndarray, level: float
) -> Estimate:
    """Percentiles and as many standard errors as the level asks for, whichever reach further."""
    value, draws = numerator / denominator, ratio_draws(numerator_draws, denominator_draws, denominator)
    low = estimate(value, np.where(np.isinf(draws), -np.inf, draws), level).low
    high = estimate(value, draws, level).high
    reach = -float(ndtri((1 - level) / 2)) * float(
        (numerator_draws - value * denominator_draws).std() / abs(denominator)
    )
    return Estimate(value, min(low, value - reach), max(high, value + reach))


def _joint_before(values: np.ndarray, draws: np.ndarray, units: int) -> list[Estimate]:
    """The quantile of the largest |draw - value| in standard errors, taken to Student's t."""
    known = np.isfinite(draws)
    there = np.where(known, draws, values)
    errors = there.std(0)
    largest = (np.abs(there - values) / errors).max(1)
    largest[~known.all(1)] = np.inf
    reach = float(np.sort(largest)[ceil(LEVEL * (len(largest) - 1))])
    half = float(student.isf(ndtr(-reach), units - 1)) * sqrt(units / (units - 1)) * errors
    return [Estimate(float(value), float(value - h), float(value + h)) for value, h in zip(values, half, strict=True)]


def _share(sample: Sample, truth: float) -> Trial:
    margins = _quantile(sample.kind, truth) - sample.errors()
    hits = margins > 0
    now = share_estimate(hits, sample.weights, sample.level, changes=margins, units=sample.units)
    return trial(now, share_estimate(hits, sample.weights, sample.old_level), truth)


def _all(sample: Sample, values: np.ndarray, truth: np.ndarray) -> Trial:
    both = values.mean(1), sample.means(values)
    now, before = simultaneous(*both, sample.units), _joint_before(*both, sample.units)
    held = [all(map(holds, found, truth)) for found in (now, before)]
    return Trial(*held, *(float(np.median([one.high - one.low for one in found])) for found in (now, before)))


def _largest_drift(sample: Sample, drifts: np.ndarray) -> Trial:
    truth, values, draws = _drifts(sample, drifts)
    both = values, draws, sample.units
    now = largest_magnitude(simultaneous(*both), simultaneous(*both, alone=True))
    return trial(now, largest_magnitude(_joint_before(*both)), truth.max())


def _drifts(sample: Sample, drifts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True drifts, measured ones `[heads]`, and their draws `[draws, heads]`."""
    truth, (difference, reference) = _squares(sample, drifts)
    values = np.sqrt(difference.mean(1) / reference.mean(1))
    return truth, values, np.sqrt(sample.means(difference) / sample.means(reference))


def _squares(sample: Sample, drifts: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """True drifts `[heads]`, and squared norms of differences and references `[heads, prompts]`, of known means."""
    shared = 0.6 * sample.errors(1) + 0.8 * sample.errors(len(drifts))
    difference = np.square(drifts[:, None] * (1 + 0.5 * shared))
    reference = np.square(1 + 0.4 * sample.errors(len(drifts)))
    return drifts * sqrt((1 + 0.5**2) / (1 + 0.4**2)), (difference, reference)


def _importances() -> tuple[np.ndarray, np.ndarray]:
    """True importances of heads on both sides, in another order."""
    ours = np.geomspace(6, 0.2, HEADS)
    order = [1, 0, 2, 4, 3, *range(5, HEADS)]
    return ours, ours[order]


@cache
def _quantile(kind: str, share: float) -> float:
    return float(np.quantile(Sample(kind, 100_000, seed=0, draws=1, choosing=True).errors(), share))


if __name__ == "__main__":
    main()
