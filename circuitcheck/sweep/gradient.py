"""Gradient of the metric with respect to `z`.

Only ever of the reference: many quantized kernels return no gradient, or a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from circuitcheck.hooks.forward import final_hidden, logit_difference
from circuitcheck.hooks.z import Edit, edit_z, gradient_probe
from circuitcheck.models.hooked import HookedModel
from circuitcheck.sweep.cache import ZCache, join
from circuitcheck.tasks.pairs import Task


def z_gradient(model: HookedModel, task: Task, index: Iterable[int]) -> ZCache:
    """dm/dz of the clean prompts at `index`, all positions, in logits per unit of z.

    The derivative is total: it includes what a change of z does to later layers, as in attribution patching
    (Syed et al. 2023, arXiv:2310.10348).
    """
    parts = []
    for batch in task.batches(index):
        on_device = batch.to(model.device)
        probes: dict[int, Tensor] = {}
        with (
            torch.enable_grad(),
            edit_z(model, {site.layer: _probe(site.layer, probes) for site in model.structure.layers}),
        ):
            hidden = final_hidden(model, on_device.clean)
            total = logit_difference(model, hidden, on_device.answer, on_device.foil).sum()
        layers = [probes[site.layer] for site in model.structure.layers]
        parts.append((batch, torch.autograd.grad(total, layers)))
    return join(parts, model.structure)


def _probe(layer: int, probes: dict[int, Tensor]) -> Edit:
    def probe(z: Tensor) -> Tensor:
        probes[layer], shifted = gradient_probe(z)
        return shifted

    return probe
