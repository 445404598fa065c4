"""The noise floor: how far the reference moves when nothing but threads, batch size or attention kernel changes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.errors import ModelError
from circuitcheck.measures.drift import drift_sums, relative_drift
from circuitcheck.measures.profile import profile_distance
from circuitcheck.measures.ranking import rank_biased_overlap
from circuitcheck.models.hooked import HookedModel
from circuitcheck.sites.structure import Head
from circuitcheck.spec import MeasurementSpec
from circuitcheck.sweep.ablate import ablated_metric
from circuitcheck.sweep.cache import ZCache
from circuitcheck.sweep.clean import clean_metric, clean_z
from circuitcheck.sweep.threads import computing_threads
from circuitcheck.tasks.pairs import Task

OTHER_ATTENTION = "sdpa"


def noise_floor(
    model: HookedModel,
    task: Task,
    spec: MeasurementSpec,
    z: ZCache,
    metric: NDArray[Any],
    effects: NDArray[Any],
    *,
    heads: Sequence[Head],
    memory: int | None = None,
) -> dict[str, float]:
    """Repeats the reference's own measurement under every source of noise that this machine offers.

    Args:
        model: the reference.
        task: its prompts.
        spec: what is measured.
        z: the reference's z of some solved prompts.
        metric: the reference's m, `[prompts]`.
        effects: m(clean) - m(head ablated) of the prompts of `z`, `[heads, prompts of z]`.
        heads: the heads whose importances were measured.
        memory: budget in bytes for the sweeps.

    Returns:
        The largest `drift` of any head (relative), `ranking_change` (1 - rank-biased overlap), `profile_distance`, and
        `metric_change` (relative to the mean metric), over one thread, one prompt a batch and another attention kernel.

    Raises:
        ModelError: one of them is undefined, as where no head matters, so that no limit could be held against it.
    """
    importance = effects.mean(axis=1)
    floor = {"drift": 0.0, "ranking_change": 0.0, "profile_distance": 0.0, "metric_change": 0.0}
    for variation, batch_size in _variations(model):
        with variation():
            again = clean_z(model, task, z.index, batch_size=batch_size)
            metric_again = clean_metric(model, task, batch_size=batch_size)
            ablated = ablated_metric(
                model, task, z.index, spec.ablation, heads=heads, batch_size=batch_size, memory=memory
            )
        other = (metric_again[list(z.index)][None] - ablated).mean(axis=1)
        again = again if spec.positions == "all" else again.answer_position()
        seen = {
            "drift": float(relative_drift(drift_sums(z, again)).max()),
            "ranking_change": 1 - rank_biased_overlap(importance, other, persistence=spec.persistence),
            "profile_distance": profile_distance(importance, other),
            "metric_change": float(np.abs(metric_again - metric).max() / np.abs(metric).mean()),
        }
        undefined = [name for name, value in seen.items() if not math.isfinite(value)]
        if undefined:
            raise ModelError(
                f"reference {model.name} on task {task.name!r}: {', '.join(undefined)} of the reference against itself "
                f"is not finite; the largest importance of a head is {np.abs(importance).max():.3g} logits. Give "
                "prompt pairs on which its attention heads matter."
            )
        floor = {name: max(floor[name], value) for name, value in seen.items()}
    return floor


Variation = tuple[Callable[[], AbstractContextManager[Any]], int | None]


def _variations(model: HookedModel) -> Sequence[Variation]:
    found: list[Variation] = [(lambda: computing_threads(1), None), (nullcontext, 1)]
    setter = getattr(model.module, "set_attn_implementation", None)
    supports = getattr(model.module, "_supports_sdpa", False)
    if setter is not None and supports:
        found.append((lambda: other_attention(model), None))
    return found


@contextmanager
def other_attention(model: HookedModel) -> Iterator[None]:
    """Another attention kernel, for as long as the block runs."""
    module: Any = model.module
    usual = module.config._attn_implementation
    module.set_attn_implementation(OTHER_ATTENTION)
    try:
        yield
    finally:
        module.set_attn_implementation(usual)
