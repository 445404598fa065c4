"""Rows of many blocks on their way through the layers together, so that each layer's weights are fetched once for all.

Where weights are at hand, one block is a wave: its rows stay in the cache from layer to layer. A row joins its block in
the layer in which it starts.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from circuitcheck.runtimes.pytorch.engine.clean_pass import REFUSALS
from circuitcheck.runtimes.pytorch.engine.replay import Replay
from circuitcheck.runtimes.pytorch.engine.row_blocks import Block
from circuitcheck.runtimes.pytorch.offload import resident
from circuitcheck.runtimes.pytorch.ports.edits import Edits
from circuitcheck.runtimes.pytorch.ports.ports import CannotEditError

ENDINGS = (MemoryError, CannotEditError, *REFUSALS)
"""What may end one block and leave the others be."""


@dataclass
class Run:
    """One block on its way.

    Attributes:
        block: its rows.
        starts: layer in which each of its sets starts, in ascending order.
        edits: what replaces their units.
        hidden: what the last layer that they passed gave, and in the end what the unembedding reads.
        error: what ended it, if anything did.
    """

    block: Block
    starts: Sequence[int]
    edits: Edits
    hidden: Tensor | None = None
    error: Exception | None = None

    def at(self, layer: int) -> tuple[int, int]:
        """How many of its sets are under way in a layer, and how many start in it."""
        under_way = bisect_left(self.starts, layer)
        return under_way, bisect_right(self.starts, layer) - under_way

    @contextmanager
    def ending(self) -> Iterator[None]:
        """A part of the way; what the model's own code or an allocator raises in it ends this run alone."""
        try:
            yield
        except ENDINGS as error:
            self.hidden, self.error = None, error


def run_wave(replay: Replay, runs: Sequence[Run]) -> None:
    """Takes every run from its first layer to the unembedding, layer by layer."""
    for site in replay.model.structure.layers:
        started = [run for run in runs if run.starts[0] <= site.layer and run.error is None]
        with resident(replay.model.module.get_submodule(site.path)) if started else nullcontext():
            for run in started:
                with run.ending():
                    prompts, (under_way, starting), parts = run.block.prompts, run.at(site.layer), list[Tensor]()
                    if run.hidden is not None:
                        edits = run.edits.of_sets(slice(0, under_way))
                        parts.append(replay.layer(site.layer, run.hidden, prompts, under_way, edits))
                    if starting:
                        edits = run.edits.of_sets(slice(under_way, under_way + starting))
                        parts.append(replay.enter(site.layer, prompts, starting, edits))
                    run.hidden = torch.cat(parts) if len(parts) > 1 else parts[0]
    for run in runs:
        with run.ending():
            if run.hidden is not None:
                run.hidden = replay.finish(run.hidden)
