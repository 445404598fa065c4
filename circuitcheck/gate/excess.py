"""Is a candidate's drift explained by the precision that it claims?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.baseline.rounded import squares_of
from circuitcheck.core.results import Estimate, Excess
from circuitcheck.gate.sample import Sample
from circuitcheck.stats.bootstrap import weighted_means
from circuitcheck.stats.drift import DriftSums
from circuitcheck.stats.simultaneous import largest_magnitude, simultaneous
from circuitcheck.verdict.limits import SAME_BITS


def excess_of(baseline: Recording, sums: DriftSums, part: Sample, precision: str) -> Excess | None:
    """How far units have moved, in times what plain rounding to the precision moves the reference's, at the most.

    What moves is counted in logits, and a layer or a unit that hardly writes is held against what all do in the mean:
    its own rounding is a ratio of nothing to nothing.

    Args:
        baseline: the reference's side.
        sums: of what the units of both sides write.
        part: the prompts that they are of.
        precision: that the candidate claims.

    Returns:
        None where the baseline does not know what rounding to this precision does.
    """
    shared = SAME_BITS.get(precision, precision)
    rounding = squares_of(baseline.roundings, shared)
    if not rounding.any():
        return None
    layers = np.array([baseline.layout.layer(unit) for unit in baseline.layout.units])
    inside = (layers[None] == np.unique(layers)[:, None]).astype(np.float64)
    everything = np.ones((1, len(layers)))
    pooled, layer, unit = (
        _times(members, sums, rounding, part) for members in (everything, inside, np.eye(len(layers)))
    )
    largest = max(range(len(layers)), key=lambda place: unit.values[place])
    return Excess(
        precision=shared,
        pooled=pooled.largest,
        layer=layer.largest,
        unit=unit.largest,
        layers=layer.values,
        units=unit.values,
        worst_unit=baseline.layout.label(baseline.layout.units[largest]),
    )


@dataclass(frozen=True)
class Times:
    """How far sets of units have moved, in times what rounding moves them."""

    values: tuple[float, ...]
    largest: Estimate


def _times(members: NDArray[np.float64], sums: DriftSums, rounding: NDArray[np.float64], part: Sample) -> Times:
    """The same of sets of units, `[sets, units]`; both sides on the same prompts, of one draw."""
    difference, expected = members @ sums.difference, members @ rounding[..., : sums.difference.shape[1]]
    values = _ratio(difference.mean(-1), expected.mean(-1))
    # [draws, roundings, sets] -> [roundings, draws, sets]
    drawn = weighted_means(part.weights, expected).swapaxes(0, 1)
    draws = _ratio(weighted_means(part.weights, difference), drawn)
    together, alone = (simultaneous(values, draws, part.units, part.nominal, alone=one) for one in (False, True))
    return Times(tuple(map(float, values)), largest_magnitude(together, alone))


def _ratio(difference: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of mean squares `[..., sets]`, and of each rounding `[roundings, ..., sets]`, the furthest of which counts."""
    furthest = expected.max(0)
    return np.asarray(np.sqrt(difference / np.maximum(furthest, furthest.mean(-1, keepdims=True))))
