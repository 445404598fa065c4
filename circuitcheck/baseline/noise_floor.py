"""The noise floor as it is kept: the reference against itself, by instruction set and source of noise."""

from __future__ import annotations

from collections.abc import Iterable

Change = dict[str, float]
"""Measure (`drift`, `ranking_change`, `profile_distance`, `metric_change`) to the largest change, dimensionless."""

Noise = dict[str, dict[str, Change]]
"""Instruction set to source of noise to change."""

MEASURES = ("drift", "ranking_change", "profile_distance", "metric_change")


def largest(changes: Iterable[Change]) -> Change:
    """The largest change of each measure; empty where nothing was measured."""
    floor: Change = {}
    for change in changes:
        floor = {name: max(value, floor.get(name, 0.0)) for name, value in change.items()}
    return floor


def floor_of(noise: Noise) -> Change:
    """The noise floor: the largest change of each measure over all sources on all instruction sets."""
    return largest(change for sources in noise.values() for change in sources.values())


def listed(noise: Noise) -> dict[str, Change]:
    """Source to change; where several instruction sets were calibrated, each source names its own."""
    several = len(noise) > 1
    return {
        f"{source} ({instruction_set})" if several else source: change
        for instruction_set, sources in sorted(noise.items())
        for source, change in sources.items()
    }
