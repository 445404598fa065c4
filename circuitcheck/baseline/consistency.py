"""What must agree inside of a golden baseline, beyond types, ranges and shapes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from circuitcheck.baseline.recording import Recording
from circuitcheck.core.errors import BaselineError
from circuitcheck.core.metric import LOG_PROBABILITY
from circuitcheck.core.units import MOST_EXACT, Group, Layout

MOST_WEIGHTS = 2 * 10**7
"""Bootstrap draws times prompts; intervals are computed again from so many numbers."""


def require_consistent(baseline: Recording) -> None:
    """Nothing, if no field of a recording contradicts another.

    Raises:
        BaselineError: what contradicts what.
    """
    faults = list(_faults(baseline))
    if faults:
        raise BaselineError("; ".join(faults))


def _faults(baseline: Recording) -> Iterator[str]:
    spec, layout, solved = baseline.spec, baseline.layout, baseline.solved
    if spec.draws * len(baseline.task.pairs) > MOST_WEIGHTS:
        yield f"its draws times its prompts are more than {MOST_WEIGHTS}: give fewer prompts"
    if layout.kind != spec.unit:
        yield f"its units are {layout.kind!r}, and the specification measures {spec.unit!r}"
    if len({group.name for group in layout.groups}) < len(layout.groups):
        yield "two groups of units have one name"
    if spec.ablation not in baseline.ablated:
        yield f"{spec.ablation} ablation, which the specification compares, was not measured"
    if not _ascend(solved, below=len(baseline.task.pairs)):
        yield "the solved prompts are not places of prompts, in order"
    elif spec.metric != LOG_PROBABILITY.name and list(solved) != np.flatnonzero(baseline.metric > spec.margin).tolist():
        yield "the solved prompts are not those whose metric exceeds the margin"
    if not len(baseline.z.index) <= len(baseline.ablated_on) <= len(solved):
        yield "units were ablated on other prompts than the solved ones, or on fewer than they were read on"
    if baseline.z.index != solved[: spec.part]:
        yield "units were read on other prompts than the first solved ones"
    elif baseline.z.lengths != _lengths(baseline):
        yield "units were read at other positions than the specification says"
    if any(len(group) != sum(baseline.z.lengths) for group in baseline.z.groups):
        yield "values of units have other positions than their prompts"
    if not _ascend(baseline.measured) or not set(baseline.measured) <= set(layout.units):
        yield "the measured units are not units of the layout, in order"
    elif baseline.measured != layout.units and (spec.sweep == "exact" or not solved):
        yield "an exact sweep measures every unit, and some are missing"
    if not _ascend(baseline.reading.tokens):
        yield "the tokens that are read are not in order"
    yield from _faults_of_roundings(baseline)
    yield from _faults_of_others(baseline)
    said = baseline.next_token
    if said is not None and ((said.log_probabilities > 0).any() or not solved):
        yield "what comes next is no probability, or there are no prompts that it could be of"
    if (baseline.ceiling is None) != (len(baseline.ablated_on) < 2):
        yield "there is a ceiling of the ranking where it cannot be measured, or none where it can"


def _faults_of_roundings(baseline: Recording) -> Iterator[str]:
    ways = [(one.precision, one.name) for one in baseline.roundings]
    if len({*ways}) < len(ways):
        yield "the reference was rounded twice in one way"
    if any((one.squares < 0).any() or min(one.measures.values(), default=0) < 0 for one in baseline.roundings):
        yield "rounding moved units by less than nothing"
    if ways and not baseline.solved:
        yield "rounding was measured on no prompts"


def _faults_of_others(baseline: Recording) -> Iterator[str]:
    """Of what is kept of all units, and of units of another kind."""
    population, beside, layout = baseline.population, baseline.beside, baseline.layout
    # Of features those that are not active on the task are no units of it.
    are_all = baseline.features is not None and population is None and len(layout.units) <= MOST_EXACT
    if (population is not None) != (bool(baseline.solved) and layout.is_some and not are_all):
        yield "it measures some of many units and does not keep all of them, or the other way round"
    elif population is not None:
        if not _numbered(layout) <= _numbered(population.layout):
            yield "it measures other units than those that it keeps"
        elif {*population.places(layout)} & {*population.sample} or not _ascend(
            population.sample, below=len(population.score)
        ):
            yield "the sample of the other units is none, or not in order"
        elif (population.score < 0).any():
            yield "a score is below 0"
        if not _ascend(population.reading.tokens):
            yield "the tokens that all units are read at are not in order"
    yield from _faults_of_features(baseline)
    yield from _faults_of_routes(baseline)
    if beside is not None:
        if not beside.z.index or beside.z.lengths != baseline.z.lengths[: len(beside.z.lengths)]:
            yield "units of another kind were read at other positions than the measured ones"
        if any(len(group) != sum(beside.z.lengths) for group in beside.z.groups):
            yield "values of units of another kind have other positions than their prompts"
        if not _ascend(beside.reading.tokens) or len({group.name for group in beside.layout.groups}) < len(
            beside.layout.groups
        ):
            yield "units of another kind are read at tokens that are not in order, or two of them have one name"


def _numbered(layout: Layout) -> set[tuple[Group, int]]:
    """Each unit, by the group of all and its number in that."""
    return {(group.whole, number) for group in layout.groups for number in group.numbers or range(group.count)}


def _faults_of_features(baseline: Recording) -> Iterator[str]:
    """Of what is kept of features."""
    features = baseline.features
    if features is None:
        return
    positions = sum(len(baseline.task.pairs[place].clean) for place in baseline.z.index)
    names, count = [one.group for one in features.dictionaries], len(features.layout.units)
    is_named = {group.name for group in features.layout.groups} <= {*names} and len({*names}) == len(names)
    if not baseline.solved or not is_named:
        yield "its features are not those of its dictionaries"
    order = features.tokens.astype(np.int64) * count + features.units
    if len(order) and (int(features.tokens.max()) >= positions or int(features.units.max()) >= count):
        yield "values of features lie at positions, or are of features, that there are none of"
    elif (np.diff(order) <= 0).any():
        yield "values of features are not in order"
    if (features.surviving < 0).any() or (features.surviving > 1).any():
        yield "a share of features that survive is none"
    if features.basis is not None and not _ascend(features.basis.tokens):
        yield "the rows of the embedding are not in order"


def _faults_of_routes(baseline: Recording) -> Iterator[str]:
    """Of what is kept of a mixture's routers."""
    pairs = baseline.task.pairs
    if any(place >= len(pairs) for place in baseline.z.index):
        return  # which is a fault of its own
    positions = sum(len(pairs[place].clean) for place in baseline.z.index)
    if not _ascend([one.layer for one in baseline.routes]):
        yield "its routers are not in order"
    for one in baseline.routes:
        if len(one.chosen) != positions or one.chosen.max(initial=0) >= one.experts:
            yield f"the router of layer {one.layer} chose at positions, or chose experts, that there are none of"
        elif (np.diff(one.chosen) <= 0).any():
            yield f"the choices of the router of layer {one.layer} are not in order"


def _lengths(baseline: Recording) -> tuple[int, ...]:
    """How many positions of each prompt the specification keeps."""
    pairs = baseline.task.pairs
    return tuple(len(pairs[place].clean) if baseline.spec.positions == "all" else 1 for place in baseline.z.index)


def _ascend(values: Sequence[Any], below: int | None = None) -> bool:
    return all(one < other for one, other in pairwise(values)) and (below is None or not values or values[-1] < below)
