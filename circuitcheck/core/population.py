"""What measuring gives of all units of a kind that has too many to measure each."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Histogram:
    """How many units lie in each bin; the first and the last bin hold whatever lies beyond.

    Attributes:
        edges: of the bins, ascending, one more than there are bins.
        counts: units in each bin.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LayerOfMany:
    """All units of one layer, at the answer position.

    Attributes:
        layer: from 0.
        units: how many there are.
        drift: of what all of them write together, read in logits, relative.
        correlation: median over units of the correlation of both sides' values over prompts; NaN where none has one.
    """

    layer: int
    units: int
    drift: float
    correlation: float


@dataclass(frozen=True)
class Mover:
    """A unit whose importance was not measured, and whose write moved most.

    Attributes:
        unit: its label.
        layer: from 0.
        score: how much it may matter by the reference's gradients, in logits.
        drift: of what it writes at the answer position, relative.
        move: root mean square over prompts of how far that moved, in logits.
        correlation: of both sides' values over prompts; NaN where one of them is constant.
    """

    unit: str
    layer: int
    score: float
    drift: float
    move: float
    correlation: float


@dataclass(frozen=True)
class PopulationMeasure:
    """All units of a kind, of which some were measured.

    Attributes:
        units: how many there are.
        top: how many were measured because the reference's gradients say that they matter most.
        sample: how many of the others were ablated in the reference, at random.
        important: magnitude of importance in logits from which on a unit counts as important.
        missed: how many important units there may be among those that were not measured, from the sample.
        missed_interval: from and to how many; at 95 %.
        drift: of what all units write at the answer position, relative, each.
        correlation: of both sides' values over prompts, each; of units that vary.
        constant: units whose value is the same on all prompts, on either side: they have no correlation.
        layers: of each layer, in order.
        movers: of the units that were not measured, those whose write moved most, the furthest first.
    """

    units: int
    top: int
    sample: int
    important: float
    missed: float
    missed_interval: tuple[float, float]
    drift: Histogram
    correlation: Histogram
    constant: int
    layers: tuple[LayerOfMany, ...]
    movers: tuple[Mover, ...]
