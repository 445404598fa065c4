"""`z` of a whole task, prompts of several lengths behind one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitcheck.core.prompts import Batch
from circuitcheck.runtimes.pytorch.ports.structure import Structure


@dataclass(frozen=True)
class ZCache:
    """`z`, or its gradient, of some prompts of a task.

    Attributes:
        index: place of each prompt in its task, `[prompts]`.
        lengths: positions kept of each prompt, `[prompts]`; 1 where only the answer position is kept.
        layers: for each layer `[tokens, n_heads, d_head]`, the prompts' positions behind one another; float32.
    """

    index: tuple[int, ...]
    lengths: tuple[int, ...]
    layers: tuple[Tensor, ...]

    def rows(self, index: Sequence[int]) -> list[Tensor]:
        """For each layer `[len(index), seq, n_heads, d_head]`, for prompts of one length."""
        starts = dict(zip(self.index, self._starts(), strict=True))
        lengths = dict(zip(self.index, self.lengths, strict=True))
        spans = [slice(starts[place], starts[place] + lengths[place]) for place in index]
        return [torch.stack([layer[span] for span in spans]) for layer in self.layers]

    def answer_position(self) -> ZCache:
        """The same prompts with only their last position kept."""
        ends = torch.tensor(self._starts(), dtype=torch.long) + torch.tensor(self.lengths, dtype=torch.long) - 1
        return ZCache(self.index, (1,) * len(self.index), tuple(layer[ends] for layer in self.layers))

    def _starts(self) -> list[int]:
        starts, total = [], 0
        for length in self.lengths:
            starts.append(total)
            total += length
        return starts


def join(parts: Sequence[tuple[Batch, Sequence[Tensor]]], structure: Structure) -> ZCache:
    """One cache from batches, in the order of the task.

    Args:
        parts: each batch with, for each layer, `[batch, seq, n_heads, d_head]`; may be none at all.
        structure: the model's, which fixes the shapes where there are no prompts.
    """
    rows: dict[int, list[Tensor]] = {}
    for batch, layers in parts:
        for number, place in enumerate(batch.index):
            rows[place] = [layer[number].float().cpu() for layer in layers]
    index = tuple(sorted(rows))
    return ZCache(
        index=index,
        lengths=tuple(len(rows[place][0]) for place in index),
        layers=tuple(
            torch.cat([torch.empty(0, site.n_heads, site.d_head), *(rows[place][site.layer] for place in index)])
            for site in structure.layers
        ),
    )
