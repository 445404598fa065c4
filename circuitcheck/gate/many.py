"""Kinds with too many units to measure each: which are measured, and what is kept of all others.

Gradients say which units may matter; those that score highest are measured like heads. A random sample of the others is
ablated in the reference, which tells how many that matter may have been missed. Of all units the values at the answer
position are kept, from which their drift and correlation follow at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from math import inf, nan

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.kept_population import Population
from circuitcheck.baseline.recording import Recording
from circuitcheck.core.activations import Activations, require_comparable
from circuitcheck.core.metric import LOG_PROBABILITY
from circuitcheck.core.patch import Patch
from circuitcheck.core.population import Histogram, LayerOfMany, Mover, PopulationMeasure
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.runtime import Runtime, Work
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.core.units import Layout
from circuitcheck.gate.screen import IMPORTANT_SHARE, choose, estimate_importance
from circuitcheck.stats.drift import DriftSums, drift_sums, joined_sums, moves, relative_drift
from circuitcheck.stats.missed import missed_units

TOP, MOST_TOP, A_UNIT = 16, 128, 512
"""Units that are measured because they score highest: one of so many, from so few to so many."""

TOP_ACTIVE = 64
"""The same of features, of which only those that are active on the task are looked at: most of them do something."""

SAMPLE = 48
"""Units of the others that are ablated in the reference: where none of 48 is important, at 95 % confidence up to one in
thirteen of the others may be."""

TOKENS = 16
"""At how many tokens all units are read: one number each, so that fewer do than for a head."""

MATTERS, MATTERS_NATS = 0.1, 0.1
"""Share of the metric, or nats, that some unit is taken to matter by where none does."""

NUMBERS, BYTES = 2**22, 64
"""Values of units that are in memory at once while all are read, at most, and what a budget must have for each: their
gradients, ways and replacements, and some of them in float64."""


@dataclass(frozen=True)
class Chosen:
    """Which units are looked at.

    Attributes:
        layout: of those that are measured.
        score: of all units, in logits, float32 `[all units]`.
        sample: of those that are ablated in the reference alone.
    """

    layout: Layout
    score: NDArray[np.float32]
    sample: Layout


def choose_units(model: Runtime, prompts: Prompts, spec: MeasurementSpec, work: Work) -> Chosen:
    """Which units of a kind that has many are measured, by the reference's gradients, and which at random.

    Args:
        model: the reference.
        prompts: of which gradients are taken; where there are none, the first units are chosen.
        spec: kind of unit, ablation, and seed of the sample.
        work: budget.
    """
    layout = model.layout(spec.unit)
    score = np.zeros(len(layout.units))
    for part in parts(prompts, layout, work.memory):
        score += estimate_importance(model, part, spec, work).score * (len(part) / len(prompts))
    count = len(layout.units)
    least = TOP_ACTIVE if layout.is_some else TOP
    share = min(max(least, count // A_UNIT), MOST_TOP) / count
    top, sample = choose(layout.units, score, share, SAMPLE / count, spec.seed)
    return Chosen(layout.only(top), score.astype(np.float32), layout.only(sample))


def chosen_in(baseline: Recording) -> Chosen | None:
    """The units that a recording looks at; None where it measures all."""
    population = baseline.population
    if population is None:
        return None
    sample = population.layout.only([population.layout.units[place] for place in population.sample])
    return Chosen(baseline.layout, population.score, sample)


def parts(prompts: Prompts, layout: Layout, memory: int | None = None) -> list[Prompts]:
    """The prompts, so many at a time that values of all units of them fit into memory; a budget in bytes may be set."""
    numbers = NUMBERS if memory is None else min(NUMBERS, memory // BYTES)
    longest = max((len(prompts.task.pairs[place].clean) for place in prompts.index), default=1)
    most = max(1, numbers // (longest * sum(group.count * group.width for group in layout.groups)))
    index = prompts.index
    return [prompts.task.prompts(index[start : start + most]) for start in range(0, len(index), most)]


def population_of(
    model: Runtime, chosen: Chosen, part: Prompts, tokens: Sequence[int], spec: MeasurementSpec, work: Work
) -> Population:
    """What is kept of all units.

    Args:
        model: the reference, all of whose units are seen.
        chosen: which of them are measured.
        part: the prompts that values of those are kept of.
        tokens: at which those are read.
        spec: how units are ablated.
        work: budget.
    """
    kind = chosen.layout.kind
    layout = model.layout(kind)
    z = answer_values(model, layout, part, work.memory)
    reading = model.reading(kind, tokens[:: max(1, len(tokens) // TOKENS)], z.amplitudes())
    singles = tuple((unit,) for unit in chosen.sample.units)
    patched = work.patching(model.narrowed(chosen.sample))
    ablated = patched(part, Patch(kind, singles, spec.ablation, spec.ablate_at), work)
    known = Population(layout, chosen.score, z, reading, (), ablated)
    return replace(known, sample=tuple(known.places(chosen.sample)))


def answer_values(model: Runtime, layout: Layout, prompts: Prompts, memory: int | None = None) -> Activations:
    """Values of all units of a layout at the answer position of some prompts."""
    found = [model.activations(part, layout.kind).answer_position() for part in parts(prompts, layout, memory)]
    groups = tuple(np.concatenate([values.groups[place] for values in found]) for place in range(len(layout.groups)))
    return Activations(prompts.index, (1,) * len(prompts), groups)


def least_scale(layout: Layout, metric: float, name: str) -> float:
    """What changes of importance are relative to at the least, in logits or nats.

    Of many units none need matter by itself: next to the largest importance, a change of nothing would be large. A
    tenth of the metric is what damage is, too, before a share of it means anything. 0 where all units are measured.

    Args:
        layout: of the measured units.
        metric: mean of the reference's.
        name: of the metric.
    """
    if not layout.is_some:
        return 0.0
    return MATTERS_NATS if name == LOG_PROBABILITY.name else MATTERS * abs(metric)


@dataclass(frozen=True)
class PopulationSums:
    """All units of both sides at the answer position.

    Attributes:
        sums: of what they write, all that drift needs; `[all units, part]` each.
        correlation: of both sides' values over prompts, of the same sign where both write the same way; NaN where one
            of them is constant, `[all units]`.
    """

    sums: DriftSums
    correlation: NDArray[np.float64]

    def layers(self, layout: Layout) -> DriftSums:
        """The sums of all units of each layer together, `[layers, part]`."""
        members = layer_members(layout)
        return DriftSums(*(members @ getattr(self.sums, one.name) for one in fields(DriftSums)))


def layer_members(layout: Layout) -> NDArray[np.float64]:
    """Which units belong to each layer, `[layers, units]`."""
    layers = np.repeat([group.layer for group in layout.groups], [group.count for group in layout.groups])
    return np.asarray(np.unique(layers)[:, None] == layers, np.float64)


def compare_population(baseline: Recording, candidate: Runtime, memory: int | None = None) -> PopulationSums | None:
    """All units of a candidate beside the reference's; None where all are measured.

    Raises:
        CandidateError: values that are not finite.
    """
    population = baseline.population
    if population is None:
        return None
    layout = population.layout
    everyone = candidate.narrowed(layout)
    z = answer_values(everyone, layout, baseline.part, memory)
    require_comparable(population.z, z)
    reading = everyone.reading(layout.kind, population.reading.tokens, z.amplitudes())
    sums, correlations = [], []
    for place in range(len(layout.groups)):  # what a whole model's units write at some tokens is large
        ours, theirs = population.reading.of_group(place), reading.of_group(place)
        reference, own = population.z.of_group(place), z.of_group(place)
        sums.append(drift_sums(ours.writes(reference), theirs.writes(own)))
        alike = np.sign(np.einsum("utw,utw->u", ours.maps[0], theirs.maps[0], dtype=np.float64))
        correlations.append(alike * _correlation(reference.groups[0][..., 0], own.groups[0][..., 0]))
    return PopulationSums(joined_sums(sums), np.concatenate(correlations))


def _correlation(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pearson's r over prompts of each unit, `[units]` of `[prompts, units]`; NaN where either is constant."""
    ours, theirs = (side.astype(np.float64) - side.mean(0, dtype=np.float64) for side in (reference, candidate))
    squares = np.square(ours).sum(0) * np.square(theirs).sum(0)
    moves = (np.ptp(reference, axis=0) > 0) & (np.ptp(candidate, axis=0) > 0) & (squares > 0)
    return np.where(moves, (ours * theirs).sum(0) / np.sqrt(np.where(moves, squares, 1.0)), np.nan)


DRIFT_EDGES = (0.0, *(float(f"{10.0**power:.3g}") for power in np.arange(-3, 1.01, 0.25)), inf)
CORRELATION_EDGES = tuple(float(edge) for edge in (*np.arange(-1, 0.9, 0.25), 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0))
"""Bins of histograms; of correlation the finer the nearer to 1, where nearly all units lie."""

MOVERS = 24
"""Units that were not measured and are listed all the same, because their write moved most."""


def measure_population(baseline: Recording, found: PopulationSums | None) -> PopulationMeasure | None:
    """What is said of all units; None where all are measured."""
    population = baseline.population
    if population is None or found is None:
        return None
    layout, drift, moved = population.layout, relative_drift(found.sums), moves(found.sums)
    important, missed, interval = missed_by(baseline, population)
    measured = population.places(baseline.layout)
    others = np.setdiff1d(np.arange(len(layout.units)), measured)
    furthest = others[np.argsort(-moved[others], kind="stable")][:MOVERS]
    known = ~np.isnan(found.correlation)
    return PopulationMeasure(
        units=len(layout.units),
        top=len(measured),
        sample=len(population.sample),
        important=important,
        missed=missed,
        missed_interval=interval,
        drift=histogram(drift, DRIFT_EDGES),
        correlation=histogram(found.correlation[known], CORRELATION_EDGES),
        constant=int((~known).sum()),
        layers=tuple(_layers(layout, found)),
        movers=tuple(
            Mover(
                unit=layout.label(layout.units[place]),
                layer=layout.layer(layout.units[place]),
                score=float(population.score[place]),
                drift=float(drift[place]),
                move=float(moved[place]),
                correlation=float(found.correlation[place]),
            )
            for place in furthest.tolist()
            if moved[place] > 0
        ),
    )


def missed_by(baseline: Recording, population: Population) -> tuple[float, float, tuple[float, float]]:
    """What counts as important, and how many important ones there may be among those that are not measured."""
    metric = baseline.metric[list(baseline.part.index)].astype(np.float64)
    least = least_scale(baseline.layout, float(metric.mean()), baseline.spec.metric)
    importance = np.abs(baseline.importance(baseline.spec.ablation))
    important = IMPORTANT_SHARE * max(float(importance.max()), least)
    sample = np.abs((metric - population.ablated).mean(-1))
    hits, others = int((sample >= important).sum()), len(population.score) - len(importance) - len(sample)
    missed, (low, high) = missed_units(hits, len(sample), others)
    return important, missed + hits, (low + hits, high + hits)  # the sample is not measured in candidates either


def _layers(layout: Layout, found: PopulationSums) -> Iterator[LayerOfMany]:
    together, members = relative_drift(found.layers(layout)), layer_members(layout)
    for place, layer in enumerate(sorted({group.layer for group in layout.groups})):
        inside = found.correlation[members[place] > 0]
        known = inside[~np.isnan(inside)]
        yield LayerOfMany(layer, len(inside), float(together[place]), float(np.median(known)) if len(known) else nan)


def histogram(values: NDArray[np.float64], edges: tuple[float, ...]) -> Histogram:
    """Counts in bins; what is not finite lies in the last one."""
    inner = np.asarray(edges[1:-1])
    places = np.searchsorted(inner, np.where(np.isnan(values), np.inf, values), side="right")
    return Histogram(edges, tuple(np.bincount(places, minlength=len(inner) + 1).tolist()))
