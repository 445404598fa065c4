"""Integrated gradients: a second opinion on the damage, beside the first order, where the reference is at hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from circuitcheck.core.activations import ZCache
from circuitcheck.core.prompts import Batch, Task
from circuitcheck.runtimes.pytorch.forward import metric_of
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.hooks import Edit, edit_z
from circuitcheck.runtimes.pytorch.ports.proofs import measuring

STEPS = 16
"""Midpoints of the path at which the gradient is taken."""


def integrated_damage(
    reference: HookedModel, task: Task, z_reference: ZCache, z_candidate: ZCache, *, steps: int = STEPS
) -> NDArray[np.float64]:
    """Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) from the reference's z to the candidate's.

    In the reference, the z of all layers is set to points of the straight path from z_ref to z_cand. The gradient of
    the metric by each z, the others held, is averaged along the path and multiplied by z_cand - z_ref. Unlike the first
    order at z_ref alone, the sum over heads is what the whole way costs: m(z_cand) - m(z_ref), both in the reference,
    but for the steps' error. A deviation is counted once, in the head where it is set, and not in those behind it.

    Args:
        reference: the float32 reference; it is left as it was found.
        task: the prompts.
        z_reference: the reference's z, as recorded; its prompts are the ones that are run.
        z_candidate: the candidate's z of the same prompts and positions.
        steps: midpoints of the path.

    Returns:
        Signed, in logits, `[heads, prompts]`; below 0 where moving the head's z lowers the metric.

    Raises:
        ValueError: no steps.
        ModelChangedError: the measurement changed the reference.
    """
    if steps < 1:
        raise ValueError(f"a path needs at least one step, not {steps}.")
    place = {prompt: column for column, prompt in enumerate(z_reference.index)}
    result = np.empty((len(reference.heads), len(z_reference.index)))
    with measuring(reference):
        for batch in task.batches(z_reference.index, size=reference.batch_size):
            start, end = (
                [layer.to(reference.device) for layer in cache.rows(batch.index)]
                for cache in (z_reference, z_candidate)
            )
            columns = [place[prompt] for prompt in batch.index]
            result[:, columns] = _along_the_path(reference, batch.to(reference.device), start, end, steps)
    return result


def _along_the_path(
    model: HookedModel, batch: Batch, start: list[Tensor], end: list[Tensor], steps: int
) -> NDArray[Any]:
    """Of one batch, `[heads, batch]`; `start` and `end` hold for each layer `[batch, positions, n_heads, d_head]`."""
    moved = [theirs.double() - ours.double() for ours, theirs in zip(start, end, strict=True)]
    sums = [torch.zeros(layer.shape[0], layer.shape[2], dtype=torch.float64, device=layer.device) for layer in start]
    for step in range(steps):
        share = (step + 0.5) / steps
        points = [
            (ours.double() + share * way).float().requires_grad_() for ours, way in zip(start, moved, strict=True)
        ]
        edits = {site.layer: _put(points[site.layer]) for site in model.structure.layers}
        with torch.enable_grad(), edit_z(model, edits):
            total = metric_of(model, batch.clean, batch.answer, batch.foil).sum()
        for added, gradient, way in zip(sums, torch.autograd.grad(total, points), moved, strict=True):
            added += (gradient.double() * way).sum((1, 3)) / steps
    return torch.cat(sums, dim=1).T.cpu().numpy()


def _put(values: Tensor) -> Edit:
    """Puts `values` at the last positions, as many as there are of them."""

    def put(z: Tensor) -> Tensor:
        kept = z.shape[1] - values.shape[1]
        return values if not kept else torch.cat([z[:, :kept], values], dim=1)

    return put
