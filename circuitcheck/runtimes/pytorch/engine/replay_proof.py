"""Proves on the loaded model that a replay without an intervention reproduces its clean pass."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from circuitcheck.runtimes.pytorch.engine.clean_pass import (
    REFUSALS,
    CannotReplayError,
    CleanPass,
    is_refusal,
    refusal,
)
from circuitcheck.runtimes.pytorch.engine.replay import ENTRIES, Replay, Savings
from circuitcheck.runtimes.pytorch.hooks import pre_hook
from circuitcheck.runtimes.pytorch.offload import resident
from circuitcheck.runtimes.pytorch.ports.edits import Edits
from circuitcheck.runtimes.pytorch.ports.ports import CannotEditError, layout_of
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

PROMPTS = 2
"""Prompts that the proof runs; two, so that rows of different prompts meet in one batch."""

DECOY = 2.0
"""Every proven row has a neighbour whose `z` and hidden state are this many times larger, and is not to notice it."""

STEPS = 2
"""Rounding errors of the model's own type that a layer's output may differ by. The same sums over other batch shapes
are rounded in another order; each of the five or so operations in a layer adds about half a step, and they add up like
a random walk."""

NO_SAVINGS = Savings("rows", last_position=False)
"""Every layer is given what it is given in a full pass, in the same shape."""

SUM_STEPS = 64
"""The same for the float32 that sums are accumulated in: the rounding of a sum of n terms grows with the root of n,
and a layer sums over at most some ten thousand."""


def prove_replay(model: TorchModel, clean: CleanPass, seq: int | None = None) -> Replay:
    """Replays the record of a clean pass, layer by layer, and compares; once for prompts of one length.

    A model that runs one row at a time is replayed without savings, and has to agree bit for bit: what a row gives is
    then what a plain pass of that prompt alone gives.

    Args:
        model: the model, in evaluation mode.
        clean: the record of its clean pass, of all positions or of the last.
        seq: tokens of a prompt, where the record is not of all.

    Returns:
        A replay with the most savings that hold on this model, and with no more of the record than it needs.

    Raises:
        CannotReplayError: even without savings a layer's output is not what it was in the clean pass.
    """
    proven = model.proven_here.replays
    what = seq or clean.ids.shape[1], clean.ids.shape[1], min(PROMPTS, len(clean.ids)), model.batch_size
    if what in proven:
        return _replay(model, clean, *proven[what])
    problem: str | None = None
    some = [Savings(entry, last_position) for entry, last_position in product(ENTRIES, (True, False))]
    for savings in [NO_SAVINGS] if model.batch_size == 1 else some:
        probe = _Probe.of(Replay(model, clean, savings))
        # In order of execution, so that a layer that carries something over to the next meets the proof's rows there.
        for layer, enters in probe.checks:
            with resident(model.module.get_submodule(model.structure.layers[layer].path)):
                problem = probe.problem(layer, enters=enters)
            if problem is not None:
                break
        else:
            proven[what] = savings, probe.beside
            return _replay(model, clean, savings, probe.beside)
    proven[what] = str(problem), ()
    return _replay(model, clean, *proven[what])


def _replay(model: TorchModel, clean: CleanPass, savings: Savings | str, beside: Collection[int]) -> Replay:
    """A replay that keeps what MLPs put out only of layers in which they run beside attention.

    Raises:
        CannotReplayError: instead of savings there is a reason why nothing can be replayed.
    """
    if isinstance(savings, str):
        raise CannotReplayError(savings)
    layers = [record if layer in beside else replace(record, mlp=None) for layer, record in enumerate(clean.layers)]
    return Replay(model, replace(clean, layers=tuple(layers)), savings)


@dataclass(frozen=True)
class _Probe:
    """Rows that show whether a replay stands for the clean pass, and what they have shown.

    Attributes:
        replay: the replay.
        prompts: those that are run.
        edits: for two sets of units, of which the first replaces nothing and the second makes the decoy.
        beside: layers whose MLP was seen to run beside their attention, on what does not depend on it.
    """

    replay: Replay
    prompts: slice
    edits: Edits
    beside: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, replay: Replay) -> _Probe:
        """A probe of a few of the replay's prompts."""
        clean, ports = replay.clean, replay.model.ports("head")
        prompts = slice(0, min(PROMPTS, len(clean.ids)))
        z = [port.split(DECOY * record.z[prompts]) for port, record in zip(ports, clean.layers, strict=True)]
        return cls(replay, prompts, Edits.of(ports, [(), layout_of(ports, "head").units], z))

    @property
    def checks(self) -> list[tuple[int, bool]]:
        """Each layer, entered with its recorded attention and, but for the first, run through as a whole."""
        layers = range(len(self.replay.clean.layers))
        return [(layer, enters) for layer in layers for enters in ((True, False) if layer else (True,))]

    def problem(self, layer: int, *, enters: bool) -> str | None:
        """What is wrong with the rows that a layer gives; None where they are those of the clean pass."""
        replay, last = self.replay, len(self.replay.clean.layers) - 1
        what = f"layer {layer} with its recorded attention" if enters else f"layer {layer}"
        try:
            outputs = []
            with self._watching(layer, enters=enters):
                for sets, edits, hidden in self._rows(layer):
                    if enters:
                        outputs.append(replay.enter(layer, self.prompts, sets, edits))
                    else:
                        outputs.append(replay.layer(layer, hidden, self.prompts, sets, edits))
                found = replay.finish(outputs[0]) if layer == last else outputs[0]
            return self._difference(what, layer, found[: self.prompts.stop])
        except CannotEditError as error:
            return f"{what} cannot be run alone ({error})"
        except REFUSALS as error:
            if not is_refusal(error):
                raise
            return f"{what} cannot be run alone ({refusal(error)})"

    def _rows(self, layer: int) -> list[tuple[int, Edits, Tensor]]:
        """Number of sets, edits and hidden state of the passes through a layer: rows with their decoys beside them.

        Where every row runs alone, the decoys run after the rows, so that a layer that carries something over to the
        next one carries the decoy's.
        """
        hidden, edits = self.replay.clean.layers[layer].hidden[self.prompts], self.edits
        if self.replay.model.batch_size != 1:
            return [(2, edits, torch.cat([hidden, DECOY * hidden]))]
        decoy = replace(edits, masks={place: mask[1:] for place, mask in edits.masks.items()})
        return [(1, replace(edits, masks={}), hidden), (1, decoy, DECOY * hidden)]

    def _watching(self, layer: int, *, enters: bool) -> AbstractContextManager[None]:
        """Notes whether the layer's MLP runs on one row while two sets are under way: it cannot depend on either."""
        mlp = self.replay.model.structure.layers[layer].mlp
        if mlp is None or not enters or self.replay.savings.entry == "rows":
            return nullcontext()

        def watch(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            if arguments and isinstance(arguments[0], Tensor) and len(arguments[0]) == 1:
                self.beside.add(layer)

        return pre_hook(self.replay.model.module.get_submodule(mlp), watch)

    def _difference(self, what: str, layer: int, found: Tensor) -> str | None:
        clean, is_last = self.replay.clean, layer == len(self.replay.clean.layers) - 1
        expected = (clean.final if is_last else clean.layers[layer + 1].hidden)[self.prompts]
        given = torch.zeros_like(expected) if is_last else clean.layers[layer].hidden[self.prompts]
        if found.shape != expected.shape:
            return f"{what} gives {list(found.shape)} instead of {list(expected.shape)}"
        if torch.equal(found, expected):
            return None
        if self.replay.model.batch_size == 1:
            return f"{what} does not reproduce the clean pass bit for bit"
        error = relative_error(found, expected, given)
        if error <= rounding(expected.dtype) or error <= self._own_rounding(layer, given):
            return None
        return f"{what} does not reproduce the clean pass (relative error {error:.2g})"

    def _own_rounding(self, layer: int, given: Tensor) -> float:
        """How far the layer's output moves when its input moves by what rounding explains.

        A layer that rounds activations to a coarse grid turns the last bit of a sum into a whole step of that grid.
        """
        plain = replace(self.replay, savings=NO_SAVINGS)
        hidden = plain.clean.layers[layer].hidden[self.prompts]
        sign = torch.ones_like(hidden)
        sign.view(-1)[::2] = -1
        moved = (hidden.float() * (1 + rounding(hidden.dtype) * sign)).to(hidden.dtype)
        outputs = []
        for value in (hidden, moved):
            rows = torch.cat([value, DECOY * value])
            output = plain.layer(layer, rows, self.prompts, 2, self.edits)
            output = plain.finish(output) if layer == len(plain.clean.layers) - 1 else output
            outputs.append(output[: self.prompts.stop])
        return relative_error(outputs[1], outputs[0], given)


def rounding(dtype: torch.dtype) -> float:
    """Relative error of a layer's output that rounding in `dtype` explains."""
    return STEPS * torch.finfo(dtype).eps + SUM_STEPS * torch.finfo(torch.float32).eps


def relative_error(found: Tensor, expected: Tensor, given: Tensor) -> float:
    """Largest root mean square error of a prompt, each entry relative to what it is made of.

    An entry is the layer's input plus what the layer adds, so it is held against its own size and the typical size of
    what was added; a few huge entries, which residual streams have, then excuse no error elsewhere.

    Args:
        found: `[prompts, ...]`.
        expected: `[prompts, ...]`.
        given: what the layer started from, `[prompts, ...]`.
    """
    found, expected, given = (value.double().flatten(1) for value in (found, expected, given))
    added = (expected - given).square().mean(1, keepdim=True).sqrt()
    scale = (expected.abs() + added).clamp_min(torch.finfo(torch.float32).tiny)
    error = ((found - expected) / scale).square().mean(1).sqrt().max().item()
    return error if error == error else float("inf")
