"""Ablation sweeps: the metric with one head at a time taken out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from circuitcheck.core.progress import Advance, silent
from circuitcheck.core.prompts import Batch, Task
from circuitcheck.core.specification import Positions
from circuitcheck.runtimes.pytorch.engine.intervene import intervene
from circuitcheck.runtimes.pytorch.forward import run_model
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.hooks import record_z
from circuitcheck.runtimes.pytorch.ports.structure import Head

AblationKind = Literal["resample", "mean", "zero"]
KINDS: tuple[AblationKind, ...] = get_args(AblationKind)


def ablated_metric(
    model: HookedModel,
    task: Task,
    index: Iterable[int],
    kind: AblationKind,
    advance: Advance = silent,
    *,
    heads: Sequence[Head] | None = None,
    at: Positions = "all",
    batch_size: int | None = None,
    memory: int | None = None,
    notes: list[str] | None = None,
) -> np.ndarray:
    """The metric with each head ablated alone.

    Args:
        model: the model, in evaluation mode.
        task: the task.
        index: which of its prompts.
        kind: what stands in for `z`: `resample` (from the paired counterfactual), `mean` (over the task's clean and
            counterfactual prompts, per position counted back from the answer) or `zero`.
        advance: called with the number of (head, prompt) rows that were just finished.
        heads: which heads; all of the model's, in its order, by default.
        at: positions whose `z` is replaced: `all`, or only the `answer` position.
        batch_size: the most prompts in one batch; as many as the model allows by default.
        memory: budget in bytes, as in `intervene`.
        notes: what a reader of the report must know, as in `intervene`.

    Returns:
        float32, `[heads, len(index)]`, in the order of `heads`.

    Raises:
        MemoryBudgetError: one prompt and head alone does not fit the budget or the machine.
    """
    index = list(index)
    place = {prompt: column for column, prompt in enumerate(index)}
    head_sets = [{head} for head in (model.heads if heads is None else heads)]
    metric = np.empty((len(head_sets), len(index)), np.float32)
    # The mean is the whole task's, so that a prompt's ablated metric does not depend on which others are measured.
    means = task_means(model, task, batch_size) if kind == "mean" and index else []
    batches = task.batches(index, model.at_most(batch_size))
    for batch, values in replacements(model, batches, kind, means, at):
        on_device = batch.to(model.device)
        ids, answer, foil = on_device.clean, on_device.answer, on_device.foil
        result = intervene(model, ids, answer, foil, values, head_sets, advance, memory=memory, notes=notes)
        metric[:, [place[prompt] for prompt in batch.index]] = result.cpu().numpy()
    return metric


def replacements(
    model: HookedModel, batches: Sequence[Batch], kind: AblationKind, means: Sequence[Tensor], at: Positions = "all"
) -> Iterator[tuple[Batch, list[Tensor]]]:
    """Each batch with what stands in for `z`, for each layer `[batch, seq, n_heads, d_head]`, or one position of that.

    Args:
        model: the model.
        batches: of one task.
        kind: as in `ablated_metric`.
        means: `task_means` of the task where the kind is `mean`, else unused.
        at: positions whose `z` is replaced: `all`, or only the `answer` position.
    """
    for batch in batches:
        positions = 1 if at == "answer" else batch.clean.shape[1]
        shape = (len(batch.index), positions)
        if kind == "mean":
            yield batch, [mean[-positions:].expand(*shape, *mean.shape[1:]) for mean in means]
        elif kind == "resample":
            yield batch, [z[:, -positions:] for z in _z(model, batch.counterfactual)]
        else:
            zero = torch.zeros((), device=model.device)
            yield batch, [zero.expand(*shape, site.n_heads, site.d_head) for site in model.structure.layers]


def _z(model: HookedModel, ids: Tensor) -> list[Tensor]:
    with torch.no_grad(), record_z(model) as z:
        run_model(model, ids.to(model.device))
    return [z[site.layer] for site in model.structure.layers]


def task_means(model: HookedModel, task: Task, batch_size: int | None = None) -> list[Tensor]:
    """Mean `z` of the task, for each layer `[longest seq, n_heads, d_head]`, aligned at the answer position, float32.

    Args:
        model: the model.
        task: the task, of which every clean and counterfactual prompt counts.
        batch_size: the most prompts in one batch; as many as the model allows by default.
    """
    batches = task.batches(size=model.at_most(batch_size))
    longest = max(batch.clean.shape[1] for batch in batches)
    totals: list[Tensor] = []
    counts = torch.zeros(longest, 1, 1, device=model.device)
    for batch in batches:
        both = torch.cat([batch.clean, batch.counterfactual])
        counts[-both.shape[1] :] += len(both)
        for ids in torch.split(both, model.at_most(len(both)) or len(both)):
            for layer, z in enumerate(_z(model, ids)):
                if layer == len(totals):
                    totals.append(torch.zeros(longest, *z.shape[2:], device=model.device))
                totals[layer][-ids.shape[1] :] += z.float().sum(0)
    return [total / counts for total in totals]
