"""Is a candidate's drift explained by the precision that it claims?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.recording import Recording
from circuitcheck.baseline.rounded import layer_squares_of, squares_of
from circuitcheck.core.results import Estimate, Excess
from circuitcheck.gate.many import PopulationSums, layer_members
from circuitcheck.gate.sample import Sample
from circuitcheck.stats.bootstrap import weighted_means
from circuitcheck.stats.drift import DriftSums
from circuitcheck.stats.simultaneous import largest_magnitude, simultaneous
from circuitcheck.verdict.limits import SAME_BITS


def excess_of(
    baseline: Recording, sums: DriftSums, part: Sample, precision: str, everyone: PopulationSums | None = None
) -> Excess | None:
    """How far units have moved, in times what plain rounding to the precision moves the reference's, at the most.

    What moves is counted in logits, and a layer or a unit that hardly writes is held against what all do in the mean:
    its own rounding is a ratio of nothing to nothing.

    Args:
        baseline: the reference's side.
        sums: of what the units of both sides write.
        part: the prompts that they are of.
        precision: that the candidate claims.
        everyone: all units of both sides, where `sums` are of some: then all units together, and all of a layer, are
            really all of them, at the answer position.

    Returns:
        None where the baseline does not know what rounding to this precision does.
    """
    shared = SAME_BITS.get(precision, precision)
    rounding = squares_of(baseline.roundings, shared)
    if not rounding.any():
        return None
    units = len(baseline.layout.units)
    if baseline.population is not None and everyone is not None:
        of_layers = everyone.layers(baseline.population.layout).difference
        rounded_layers = layer_squares_of(baseline.roundings, shared)
        inside = np.eye(len(of_layers))
    else:
        of_layers, rounded_layers, inside = sums.difference, rounding, layer_members(baseline.layout)
    pooled, layer = (
        _times(members, of_layers, rounded_layers, part) for members in (np.ones((1, len(of_layers))), inside)
    )
    unit = _times(np.eye(units), sums.difference, rounding, part)
    largest = max(range(units), key=lambda place: unit.values[place])
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


def _times(
    members: NDArray[np.float64], moved: NDArray[np.float64], rounding: NDArray[np.float64], part: Sample
) -> Times:
    """The same of sets of units, `[sets, units]`; both sides' squares on the same prompts, of one draw."""
    difference, expected = members @ moved, members @ rounding[..., : moved.shape[1]]
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
