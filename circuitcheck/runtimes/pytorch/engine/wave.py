"""Rows of many blocks on their way through the layers together, so that each layer's weights are fetched once for all.

Where weights are at hand, one block is a wave: its rows stay in the cache from layer to layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from torch import Tensor

from circuitcheck.runtimes.pytorch.engine.clean_pass import REFUSALS
from circuitcheck.runtimes.pytorch.engine.packing import Block
from circuitcheck.runtimes.pytorch.engine.replay import Replay
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
        first: layer in which they start.
        edits: what replaces their units.
        hidden: what the last layer that they passed gave, and in the end what the unembedding reads.
        error: what ended it, if anything did.
    """

    block: Block
    first: int
    edits: Edits
    hidden: Tensor | None = None
    error: Exception | None = None

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
        started = [run for run in runs if run.first <= site.layer and run.error is None]
        with resident(replay.model.module.get_submodule(site.path)) if started else nullcontext():
            for run in started:
                prompts, sets = run.block.prompts, len(run.block.sets)
                with run.ending():
                    if run.hidden is None:
                        run.hidden = replay.enter(site.layer, prompts, sets, run.edits)
                    else:
                        run.hidden = replay.layer(site.layer, run.hidden, prompts, sets, run.edits)
    for run in runs:
        with run.ending():
            if run.hidden is not None:
                run.hidden = replay.finish(run.hidden)
