"""Plain full passes: what every replay is held against, and what runs where a model cannot be replayed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch
from torch import Tensor

from circuitcheck.core.progress import Advance, silent
from circuitcheck.runtimes.pytorch.engine.packing import Block, ignored, run_blocks, spans
from circuitcheck.runtimes.pytorch.engine.prompts import Prompts
from circuitcheck.runtimes.pytorch.forward import metric_of
from circuitcheck.runtimes.pytorch.hooked import HookedModel
from circuitcheck.runtimes.pytorch.ports.hooks import Edit, edit_z
from circuitcheck.runtimes.pytorch.ports.structure import Head


def full_passes(
    model: HookedModel,
    prompts: Prompts,
    head_sets: Sequence[Collection[Head]],
    advance: Advance = silent,
    *,
    most_prompts: int | None = None,
    halved: Callable[[], None] = ignored,
) -> Tensor:
    """Metric of every prompt under every head set, one pass of the whole model for each set.

    Args:
        model: the model, in evaluation mode.
        prompts: the prompts.
        head_sets: for each run the heads whose `z` is replaced, all at once.
        advance: called with the number of rows that were just finished.
        most_prompts: the most prompts in one pass; all of them by default.
        halved: called whenever prompts that did not fit memory are run in parts.

    Returns:
        m, float32, `[len(head_sets), batch]`.

    Raises:
        MemoryBudgetError: one prompt alone runs out of memory.
    """
    metric = torch.empty(len(head_sets), len(prompts), device=prompts.ids.device)

    def run(block: Block) -> None:
        part = prompts.part(block.prompts)
        for number in block.sets:
            with edit_z(model, _edits(head_sets[number], part.values)):
                metric[number, block.prompts] = metric_of(model, part.ids, part.answer, part.foil)
        advance(block.rows)

    waiting = [
        Block(start, stop, (number,))
        for number in range(len(head_sets))
        for start, stop in spans(len(prompts), most_prompts or len(prompts))
    ]
    with torch.no_grad():
        run_blocks(waiting, run, halved)
    return metric


def _edits(heads: Collection[Head], values: Sequence[Tensor]) -> dict[int, Edit]:
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)
    return {layer: _edit(values[layer], chosen) for layer, chosen in by_layer.items()}


def _edit(value: Tensor, heads: list[int]) -> Edit:
    def edit(z: Tensor) -> Tensor:
        edited = z.clone()
        positions = slice(-1, None) if value.shape[1] == 1 else slice(None)
        edited[:, positions, heads] = value[:, :, heads].to(z.dtype)
        return edited

    return edit
