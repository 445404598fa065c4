"""Repair: the reference's `z` put back into chosen heads of the candidate's run."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from circuitcheck.models.hooked import HookedModel
from circuitcheck.sites.structure import Head
from circuitcheck.sweep.cache import ZCache
from circuitcheck.sweep.intervene import intervene
from circuitcheck.sweep.progress import Advance, silent
from circuitcheck.tasks.pairs import Task


def repaired_metric(
    model: HookedModel,
    task: Task,
    reference: ZCache,
    head_sets: Sequence[Collection[Head]],
    advance: Advance = silent,
) -> np.ndarray:
    """The metric of the candidate with the reference's `z` in each set of heads.

    Args:
        model: the candidate, in evaluation mode.
        task: the task.
        reference: the reference's `z`; its prompts are the ones that are run.
        head_sets: for each run the heads that are repaired together.
        advance: called with the number of (head set, prompt) rows that were just finished.

    Returns:
        float32, `[len(head_sets), prompts of the cache]`.
    """
    place = {prompt: column for column, prompt in enumerate(reference.index)}
    metric = np.empty((len(head_sets), len(reference.index)), np.float32)
    for batch in task.batches(reference.index):
        values = [layer.to(model.device) for layer in reference.rows(batch.index)]
        on_device = batch.to(model.device)
        result = intervene(model, on_device.clean, on_device.answer, on_device.foil, values, head_sets, advance)
        metric[:, [place[prompt] for prompt in batch.index]] = result.cpu().numpy()
    return metric
