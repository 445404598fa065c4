"""How far the reference moves when nothing but threads, batches, order, attention kernel or loading changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.baseline.noise_floor import Change
from circuitcheck.core.activations import Activations, join
from circuitcheck.core.errors import ModelError
from circuitcheck.core.metric import LOG_PROBABILITY
from circuitcheck.core.patch import Patch
from circuitcheck.core.progress import silent
from circuitcheck.core.prompts import Prompts, Task
from circuitcheck.core.reading import Reading, tokens_to_read
from circuitcheck.core.runtime import Runtime, Variation, Work
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.core.units import Layout, Unit
from circuitcheck.gate.many import least_scale
from circuitcheck.stats.drift import drift_sums, relative_drift
from circuitcheck.stats.ranking import rank_biased_overlap
from circuitcheck.stats.simultaneous import profile_distance


def measured_noise(
    model: Runtime,
    spec: MeasurementSpec,
    units: Sequence[Unit],
    z: Activations,
    reading: Reading,
    metric: NDArray[np.float32],
    solved: Prompts,
    effects: NDArray[Any],
    variations: Iterable[Variation],
    work: Work,
) -> dict[str, Change]:
    """Repeats the reference's own measurement under every variation.

    Args:
        model: the reference.
        spec: what is measured.
        units: those whose importances were measured.
        z: the reference's values of some solved prompts.
        reading: how its units are read.
        metric: the reference's m, `[prompts]`.
        solved: the prompts that count.
        effects: m(clean) - m(unit ablated) of the solved prompts, or of the first of them, `[units, prompts]`.
        variations: what to change.
        work: budget.

    Returns:
        Variation to the largest `drift` of what any unit writes, read at either of two draws of tokens (relative),
        `ranking_change` (1 - rank-biased overlap), `profile_distance`, and `metric_change` (of the mean over solved
        prompts, as the criterion has it).

    Raises:
        ModelError: one of them is undefined, as where no unit matters, so that no limit could be held against it.
    """
    task = solved.task
    importance = effects[:, : len(z.index)].mean(axis=1)
    readings = (reading, _read_at_others(model, spec, z))
    mean = float(metric[list(z.index)].mean(dtype=np.float64))
    least = least_scale(model.layout(spec.unit), mean, spec.metric)
    noise: dict[str, Change] = {}
    for variation in variations:
        again = variation.reload().measured_by(model.quantity) if variation.reload else model
        z_again, metric_again, ablated = _measure_again(again, task, spec, units, z, variation, work)
        # In float64, as a baseline computes its own: else the reference would differ from itself by a sum's rounding.
        other = (metric_again[list(z.index)][None].astype(np.float64) - ablated).mean(axis=1)
        means = [float(values[list(solved.index)].mean(dtype=np.float64)) for values in (metric, metric_again)]
        change = {
            "drift": max(_largest_drift(read, z, z_again) for read in readings),
            "ranking_change": 1 - rank_biased_overlap(importance, other, persistence=spec.persistence),
            "profile_distance": profile_distance(importance, other, least),
            "metric_change": _change_of_mean(means[0], means[1], spec.metric),
        }
        _require_defined(change, model, task, importance)
        noise[variation.name] = change
    return noise


def _read_at_others(model: Runtime, spec: MeasurementSpec, z: Activations) -> Reading:
    """At another draw of as many tokens: were they too few, the floor would depend on which they happen to be."""
    tokens = tokens_to_read(model.layout(spec.unit), model.facts.vocabulary, spec.seed + 1)
    return model.reading(spec.unit, tokens, z.amplitudes())


def _largest_drift(reading: Reading, z: Activations, again: Activations) -> float:
    return float(relative_drift(drift_sums(reading.writes(z), reading.writes(again))).max())


def _change_of_mean(before: float, after: float, metric: str) -> float:
    """Relative, but in nats for a log-probability; NaN where the mean is 0."""
    if metric == LOG_PROBABILITY.name:
        return abs(after - before)
    return abs(after / before - 1) if before else math.nan


def _measure_again(
    model: Runtime,
    task: Task,
    spec: MeasurementSpec,
    units: Sequence[Unit],
    z: Activations,
    variation: Variation,
    work: Work,
) -> tuple[Activations, NDArray[np.float32], NDArray[np.float32]]:
    """Values of units on some prompts, m of all, and m of the some with each unit ablated, in the task's order."""
    order = variation.order or tuple(range(len(task.pairs)))
    moved = Task(task.name, tuple(task.pairs[place] for place in order))
    place = {prompt: number for number, prompt in enumerate(order)}
    part = moved.prompts((place[prompt] for prompt in z.index), variation.most)
    patch = Patch(spec.unit, tuple((unit,) for unit in units), spec.ablation, spec.ablate_at)
    with variation.setting():
        z_moved = model.activations(part, spec.unit)
        metric_moved = model.metric(moved.prompts(most=variation.most))
        ablated = work.patching(model)(part, patch, replace(work.beside(variation=variation.name), advance=silent))
    z_moved = z_moved if spec.positions == "all" else z_moved.answer_position()
    metric = np.empty_like(metric_moved)
    metric[list(order)] = metric_moved
    return _in_order(z_moved, order, model.layout(spec.unit)), metric, ablated


def _in_order(values: Activations, order: Sequence[int], layout: Layout) -> Activations:
    """Values on rearranged prompts as values on the prompts where they were."""
    return join({order[place]: [group[0] for group in values.rows([place])] for place in values.index}, layout)


def _require_defined(change: Change, model: Runtime, task: Task, importance: NDArray[Any]) -> None:
    undefined = [name for name, value in change.items() if not math.isfinite(value)]
    if undefined:
        raise ModelError(
            f"reference {model.facts.name} on task {task.name!r}: {', '.join(undefined)} of the reference against "
            f"itself is not finite; the largest importance of a unit is {np.abs(importance).max():.3g} logits. Give "
            "prompt pairs on which its units matter."
        )
