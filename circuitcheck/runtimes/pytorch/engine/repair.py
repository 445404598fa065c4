"""Repair: the reference's `z` put back into chosen heads of the candidate's run."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from circuitcheck.core.activations import ZCache
from circuitcheck.core.progress import Advance, silent
from circuitcheck.core.prompts import Task
from circuitcheck.runtimes.pytorch.engine.intervene import intervene
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.structure import Head


def repaired_metric(
    model: HookedModel,
    task: Task,
    reference: ZCache,
    head_sets: Sequence[Collection[Head]],
    advance: Advance = silent,
    *,
    memory: int | None = None,
    notes: list[str] | None = None,
) -> np.ndarray:
    """The metric of the candidate with the reference's `z` in each set of heads.

    Args:
        model: the candidate, in evaluation mode.
        task: the task.
        reference: the reference's `z`; its prompts are the ones that are run.
        head_sets: for each run the heads that are repaired together.
        advance: called with the number of (head set, prompt) rows that were just finished.
        memory: budget in bytes, as in `intervene`.
        notes: what a reader of the report must know, as in `intervene`.

    Returns:
        float32, `[len(head_sets), prompts of the cache]`.

    Raises:
        MemoryBudgetError: one prompt under one head set alone does not fit the budget or the machine.
    """
    place = {prompt: column for column, prompt in enumerate(reference.index)}
    metric = np.empty((len(head_sets), len(reference.index)), np.float32)
    for batch in task.batches(reference.index, model.at_most(None)):
        values = [layer.to(model.device) for layer in reference.rows(batch.index)]
        on_device = batch.to(model.device)
        ids, answer, foil = on_device.clean, on_device.answer, on_device.foil
        result = intervene(model, ids, answer, foil, values, head_sets, advance, memory=memory, notes=notes)
        metric[:, [place[prompt] for prompt in batch.index]] = result.cpu().numpy()
    return metric
