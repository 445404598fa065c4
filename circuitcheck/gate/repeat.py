"""How far the reference moves when nothing but threads, batches, order, attention kernel or loading changes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from circuitcheck.baseline.noise_floor import Change
from circuitcheck.core.activations import ZCache
from circuitcheck.core.errors import ModelError
from circuitcheck.core.prompts import Task
from circuitcheck.core.specification import MeasurementSpec
from circuitcheck.runtimes.pytorch.engine.ablate import ablated_metric
from circuitcheck.runtimes.pytorch.engine.clean import clean_metric, clean_z
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.structure import Head
from circuitcheck.runtimes.pytorch.variations import Source
from circuitcheck.stats.drift import drift_sums, relative_drift
from circuitcheck.stats.ranking import rank_biased_overlap
from circuitcheck.stats.simultaneous import profile_distance


def measured_noise(
    model: HookedModel,
    task: Task,
    spec: MeasurementSpec,
    z: ZCache,
    metric: NDArray[Any],
    effects: NDArray[Any],
    sources: Iterable[Source],
    *,
    heads: Sequence[Head],
    solved: Sequence[int],
    memory: int | None = None,
) -> dict[str, Change]:
    """Repeats the reference's own measurement under every source of noise.

    Args:
        model: the reference.
        task: its prompts.
        spec: what is measured.
        z: the reference's z of some solved prompts.
        metric: the reference's m, `[prompts]`.
        effects: m(clean) - m(head ablated) of the prompts of `z`, `[heads, prompts of z]`.
        sources: what to change.
        heads: the heads whose importances were measured.
        solved: the prompts that the reference solves, of which the metric's change is judged.
        memory: budget in bytes for the sweeps.

    Returns:
        Source to the largest `drift` of any head (relative), `ranking_change` (1 - rank-biased overlap),
        `profile_distance`, and `metric_change` (of the mean metric, relative), each as a candidate's is judged.

    Raises:
        ModelError: one of them is undefined, as where no head matters, so that no limit could be held against it.
    """
    model, importance = model.measured_by(spec.metric), effects.mean(axis=1)
    noise: dict[str, Change] = {}
    mean_metric = metric[list(solved)].astype(np.float64).mean()
    for source in sources:
        again = replace(source.model(), metric=model.metric) if source.model else model
        z_again, metric_again, ablated = _measure_again(again, task, spec, z, source, heads, memory)
        # In float64, as a baseline computes its own: else the reference would differ from itself by a sum's rounding.
        other = (metric_again[list(z.index)][None].astype(np.float64) - ablated).mean(axis=1)
        change = {
            "drift": float(relative_drift(drift_sums(z, z_again)).max()),
            "ranking_change": 1 - rank_biased_overlap(importance, other, persistence=spec.persistence),
            "profile_distance": profile_distance(importance, other),
            "metric_change": float(abs(metric_again[list(solved)].astype(np.float64).mean() / mean_metric - 1)),
        }
        _require_defined(change, model, task, importance)
        noise[source.name] = change
    return noise


def _measure_again(
    model: HookedModel,
    task: Task,
    spec: MeasurementSpec,
    z: ZCache,
    source: Source,
    heads: Sequence[Head],
    memory: int | None,
) -> tuple[ZCache, NDArray[Any], NDArray[Any]]:
    """The z of some prompts, m of all prompts, and m of those prompts with each head ablated, in the task's order."""
    order = source.order or tuple(range(len(task.pairs)))
    moved = Task(task.name, tuple(task.pairs[place] for place in order))
    place = {prompt: number for number, prompt in enumerate(order)}
    index = [place[prompt] for prompt in z.index]
    size = source.batch_size
    options: dict[str, Any] = {"heads": heads, "at": spec.ablate_at, "memory": memory}
    with source.setting():
        z_moved = clean_z(model, moved, index, batch_size=size)
        metric_moved = clean_metric(model, moved, batch_size=size)
        ablated = ablated_metric(model, moved, index, spec.ablation, batch_size=size, **options)
    z_moved = z_moved if spec.positions == "all" else z_moved.answer_position()
    metric = np.empty_like(metric_moved)
    metric[list(order)] = metric_moved
    return _in_order(z_moved, order), metric, ablated


def _in_order(cache: ZCache, order: Sequence[int]) -> ZCache:
    """A cache of rearranged prompts as one of the prompts where they were."""
    prompts = [order[place] for place in cache.index]
    ends = np.cumsum(cache.lengths)
    rows = sorted(range(len(prompts)), key=prompts.__getitem__)
    spans = [slice(int(ends[row]) - cache.lengths[row], int(ends[row])) for row in rows]
    return ZCache(
        index=tuple(prompts[row] for row in rows),
        lengths=tuple(cache.lengths[row] for row in rows),
        layers=tuple(torch.cat([layer[span] for span in spans]) for layer in cache.layers),
    )


def _require_defined(change: Change, model: HookedModel, task: Task, importance: NDArray[Any]) -> None:
    undefined = [name for name, value in change.items() if not math.isfinite(value)]
    if undefined:
        raise ModelError(
            f"reference {model.name} on task {task.name!r}: {', '.join(undefined)} of the reference against itself "
            f"is not finite; the largest importance of a head is {np.abs(importance).max():.3g} logits. Give "
            "prompt pairs on which its attention heads matter."
        )
