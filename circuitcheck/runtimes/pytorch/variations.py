"""Ways to compute the same thing: everything that may change a number though the model stays the same."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from circuitcheck.core.runtime import Runtime, Variation
from circuitcheck.runtimes.pytorch.threads import computing_threads, thread_count
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

OTHER_ATTENTION = "sdpa"
ATTENTIONS = ("eager", OTHER_ATTENTION)
BATCH_SIZES = (1, 2, 8)
SHUFFLES = (0, 1)
"""Seeds of the prompt orders that are tried beside the reversed one."""


def usual_variations(model: TorchModel) -> list[Variation]:
    """One of each kind that needs nothing but the model: what is tried whenever a reference is recorded."""
    # Of one thread no second one is made: a process that has more of them can no longer be forked.
    return [*([_threads(1)] if thread_count() > 1 else []), _batches(1), *_attentions(model)]


def all_variations(model: TorchModel, prompts: int, reload: Callable[[], Runtime] | None = None) -> list[Variation]:
    """Thread counts, batch sizes, prompt orders, attention implementations and a reload: what a calibration tries.

    Args:
        model: the reference.
        prompts: how many its task has.
        reload: loads it anew.
    """
    counts, cores = [1], os.cpu_count() or 1
    while counts[-1] < cores:
        counts.append(min(2 * counts[-1], cores))
    orders = {"reversed": tuple(reversed(range(prompts)))}
    for seed in SHUFFLES:
        shuffled = list(range(prompts))
        random.Random(seed).shuffle(shuffled)
        orders[f"shuffle {seed}"] = tuple(shuffled)
    return [
        *(_threads(count) for count in counts),
        *(_batches(size) for size in BATCH_SIZES if size < prompts),
        *(Variation(f"prompt order: {name}", order=order) for name, order in orders.items()),
        *_attentions(model),
        *([Variation("loaded again", reload=reload)] if reload else []),
        Variation("as recorded"),
    ]


def _threads(count: int) -> Variation:
    return Variation("one thread" if count == 1 else f"{count} threads", lambda: computing_threads(count))


def _batches(size: int) -> Variation:
    return Variation("one prompt a batch" if size == 1 else f"{size} prompts a batch", most=size)


def _attentions(model: TorchModel) -> Sequence[Variation]:
    setter = getattr(model.module, "set_attn_implementation", None)
    if setter is None or not getattr(model.module, "_supports_sdpa", False):
        return []
    usual = getattr(getattr(model.module, "config", None), "_attn_implementation", None)
    return [
        Variation(f"{name} attention", lambda name=name: other_attention(model, name))  # type: ignore[misc]
        for name in ATTENTIONS
        if name != usual
    ]


@contextmanager
def other_attention(model: TorchModel, name: str = OTHER_ATTENTION) -> Iterator[None]:
    """Another attention implementation, for as long as the block runs."""
    module: Any = model.module
    usual = module.config._attn_implementation
    module.set_attn_implementation(name)
    try:
        yield
    finally:
        module.set_attn_implementation(usual)
