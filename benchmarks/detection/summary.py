"""From rows to the figures of a benchmark: areas, catches, false alarms, and what each detector misses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from circuitcheck.stats.estimate import Estimate
from detection.detectors import OURS, OUTPUTS, TASKS
from detection.evaluate import Row
from detection.roc import matched_pairs, roc_area

BITS = {"f32": 32, "f16": 16, "bf16": 16}
"""Bits of the precisions that are not named by them."""


@dataclass(frozen=True)
class Summary:
    """What a benchmark prints.

    Attributes:
        areas: detector to area over all benign candidates and faults.
        areas_matched: the same over pairs of a benign candidate and a fault of as many bits and equal KL divergence.
        pairs: how many such pairs.
        thresholds: detector to bits to the largest score of a benign candidate; ours is 0, the default limits.
        missed: family to detector to how many of its candidates are not above the threshold.
    """

    areas: dict[str, Estimate]
    areas_matched: dict[str, Estimate]
    pairs: int
    thresholds: dict[str, dict[int, float]]
    missed: dict[str, dict[str, int]]


def summarize(rows: Sequence[Row]) -> Summary:
    """All figures of one run.

    Raises:
        ValueError: there are no benign candidates or no faults.
    """
    benign, faults = of(rows, "benign"), of(rows, "fault")
    pairs = matched(benign, faults)
    names = detectors(rows)
    thresholds = {name: _thresholds(name, benign) for name in names}
    return Summary(
        areas={name: _area(name, benign, faults) for name in names},
        areas_matched={name: _area(name, [one for one, _ in pairs], [other for _, other in pairs]) for name in names}
        if pairs
        else {},
        pairs=len(pairs),
        thresholds=thresholds,
        missed=_missed([row for row in rows if row.truth != "benign"], thresholds),
    )


def of(rows: Sequence[Row], truth: str) -> list[Row]:
    """Rows of one truth."""
    return [row for row in rows if row.truth == truth]


def matched(benign: Sequence[Row], faults: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pairs of as many bits and of equal KL divergence; see `matched_pairs`."""
    places = matched_pairs(
        [row.scores["kl"] for row in benign],
        [row.scores["kl"] for row in faults],
        [bits(row.precision) for row in benign],
        [bits(row.precision) for row in faults],
    )
    return [(benign[one], faults[other]) for one, other in places]


def bits(precision: str) -> int:
    """Bits of a weight of a precision."""
    return BITS.get(precision) or int("".join(filter(str.isdigit, precision)))


def detectors(rows: Sequence[Row]) -> list[str]:
    """Ours, our criteria, and those that people use today."""
    criteria = sorted({name for row in rows for name in row.scores} - {OURS, *OUTPUTS, *TASKS})
    return [OURS, *criteria, *OUTPUTS, *TASKS]


def score(row: Row, name: str) -> float:
    """A row's score; what a refused candidate lacks is infinite, and what has no value for any other reason, lowest."""
    return row.scores.get(name, math.inf if row.word == "REFUSED" else -math.inf)


def _area(name: str, benign: Sequence[Row], faults: Sequence[Row]) -> Estimate:
    return roc_area([score(row, name) for row in benign], [score(row, name) for row in faults])


def _thresholds(name: str, benign: Sequence[Row]) -> dict[int, float]:
    """The lowest thresholds at which no benign candidate alarms, one for each number of bits."""
    largest: dict[int, float] = {}
    for row in benign:
        number = bits(row.precision)
        largest[number] = max(largest.get(number, -math.inf), score(row, name))
    return dict.fromkeys(largest, 0.0) if name == OURS else largest


def _missed(rows: Sequence[Row], thresholds: dict[str, dict[int, float]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, Any]] = {}
    for row in rows:
        of_family = counts.setdefault(f"{row.truth}: {row.family}", dict.fromkeys(["candidates", *thresholds], 0))
        of_family["candidates"] += 1
        for name, limits in thresholds.items():
            of_family[name] += score(row, name) <= limits.get(bits(row.precision), math.inf)
    return dict(sorted(counts.items()))
