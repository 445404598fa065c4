"""Passes without an intervention."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch

from circuitcheck.core.activations import ZCache, join
from circuitcheck.core.metric import LOGIT_DIFFERENCE
from circuitcheck.core.prompts import Task
from circuitcheck.runtimes.pytorch.forward import metric_of, run_model
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.hooks import record_z


def clean_metric(model: HookedModel, task: Task, *, batch_size: int | None = None) -> np.ndarray:
    """The model's metric m of every clean prompt, float32 `[prompts]`."""
    return _metric(model, task, counterfactual=False, batch_size=batch_size)


def counterfactual_metric(model: HookedModel, task: Task, *, batch_size: int | None = None) -> np.ndarray:
    """M of every counterfactual prompt, with the clean prompt's answer and foil, float32 `[prompts]`."""
    return _metric(model, task, counterfactual=True, batch_size=batch_size)


def clean_preference(model: HookedModel, task: Task, metric: np.ndarray) -> np.ndarray:
    """What says of every clean prompt whether the model solves it: above 0 where it prefers the answer to the foil.

    Args:
        model: the model, and what is measured of it.
        task: the prompts.
        metric: the model's metric m of them, `[prompts]`.

    Returns:
        `metric` itself, or the logit difference where m is a log-probability, which no sign tells anything of;
        float32 `[prompts]`.
    """
    return metric if model.metric.is_preference else clean_metric(replace(model, metric=LOGIT_DIFFERENCE), task)


def _metric(model: HookedModel, task: Task, *, counterfactual: bool, batch_size: int | None) -> np.ndarray:
    metric = np.empty(len(task.pairs), np.float32)
    with torch.no_grad():
        for batch in task.batches(size=model.at_most(batch_size)):
            on_device = batch.to(model.device)
            ids = on_device.counterfactual if counterfactual else on_device.clean
            metric[list(batch.index)] = metric_of(model, ids, on_device.answer, on_device.foil).cpu().numpy()
    return metric


def clean_z(model: HookedModel, task: Task, index: Iterable[int], *, batch_size: int | None = None) -> ZCache:
    """`z` of the clean prompts at `index`, all positions, float32."""
    parts = []
    with torch.no_grad():
        for batch in task.batches(index, model.at_most(batch_size)):
            with record_z(model) as z:
                run_model(model, batch.clean.to(model.device))
            parts.append((batch, [z[site.layer] for site in model.structure.layers]))
    return join(parts, model.structure)
