"""Passes without an intervention."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from circuitcheck.hooks.forward import final_hidden, logit_difference
from circuitcheck.hooks.z import record_z
from circuitcheck.models.hooked import HookedModel
from circuitcheck.sweep.cache import ZCache, join
from circuitcheck.tasks.pairs import Task


def clean_metric(model: HookedModel, task: Task, *, batch_size: int | None = None) -> np.ndarray:
    """M of every clean prompt, in logits, float32 `[prompts]`."""
    return _metric(model, task, counterfactual=False, batch_size=batch_size)


def counterfactual_metric(model: HookedModel, task: Task, *, batch_size: int | None = None) -> np.ndarray:
    """M of every counterfactual prompt, with the clean prompt's answer and foil, float32 `[prompts]`."""
    return _metric(model, task, counterfactual=True, batch_size=batch_size)


def _metric(model: HookedModel, task: Task, *, counterfactual: bool, batch_size: int | None) -> np.ndarray:
    metric = np.empty(len(task.pairs), np.float32)
    with torch.no_grad():
        for batch in task.batches(size=batch_size):
            on_device = batch.to(model.device)
            ids = on_device.counterfactual if counterfactual else on_device.clean
            difference = logit_difference(model, final_hidden(model, ids), on_device.answer, on_device.foil)
            metric[list(batch.index)] = difference.cpu().numpy()
    return metric


def clean_z(model: HookedModel, task: Task, index: Iterable[int], *, batch_size: int | None = None) -> ZCache:
    """`z` of the clean prompts at `index`, all positions, float32."""
    parts = []
    with torch.no_grad():
        for batch in task.batches(index, batch_size):
            with record_z(model) as z:
                final_hidden(model, batch.clean.to(model.device))
            parts.append((batch, [z[site.layer] for site in model.structure.layers]))
    return join(parts, model.structure)
