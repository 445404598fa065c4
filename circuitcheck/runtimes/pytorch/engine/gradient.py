"""Gradient of the metric with respect to `z`.

Only ever of the reference: many quantized kernels return no gradient, or a wrong one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from circuitcheck.core.activations import ZCache, join
from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.prompts import Task
from circuitcheck.runtimes.pytorch.forward import metric_of
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.hooks import Edit, edit_z, gradient_probe


def z_gradient(model: HookedModel, task: Task, index: Iterable[int]) -> ZCache:
    """dm/dz of the clean prompts at `index`, all positions, in units of the metric per unit of z.

    The derivative is total: it includes what a change of z does to later layers, as in attribution patching
    (Syed et al. 2023, arXiv:2310.10348).

    Raises:
        ConfigurationError: the metric is a function that cannot be differentiated.
    """
    parts = []
    for batch in task.batches(index, model.at_most(None)):
        on_device = batch.to(model.device)
        probes: dict[int, Tensor] = {}
        with (
            torch.enable_grad(),
            edit_z(model, {site.layer: _probe(site.layer, probes) for site in model.structure.layers}),
        ):
            metric = metric_of(model, on_device.clean, on_device.answer, on_device.foil)
        parts.append((batch, gradient_of(model, metric, [probes[site.layer] for site in model.structure.layers])))
    return join(parts, model.structure)


def gradient_of(model: HookedModel, metric: Tensor, probes: Sequence[Tensor]) -> list[Tensor]:
    """The gradient of every prompt's metric, `[batch]`, with respect to each of `probes`, `[batch, ...]`.

    Raises:
        ConfigurationError: the metric carries no gradient.
    """
    if not metric.requires_grad:
        raise ConfigurationError(
            f"metric {model.metric.name} gives values without a gradient; compute them with differentiable operations, "
            "without detach, item or argmax."
        )
    return list(torch.autograd.grad(metric, list(probes), torch.ones_like(metric)))


def _probe(layer: int, probes: dict[int, Tensor]) -> Edit:
    def probe(z: Tensor) -> Tensor:
        probes[layer], shifted = gradient_probe(z)
        return shifted

    return probe
