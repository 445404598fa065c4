"""Proves on the loaded model that a replay without an intervention reproduces its clean pass."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
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
from circuitcheck.runtimes.pytorch.ports.edits import CannotEditError, Edits
from circuitcheck.runtimes.pytorch.ports.ports import layout_of
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


def prove_replay(model: TorchModel, clean: CleanPass) -> Replay:
    """Replays the record of a clean pass, layer by layer, and compares.

    A model that runs one row at a time is replayed without savings, and has to agree bit for bit: what a row gives is
    then what a plain pass of that prompt alone gives.

    Args:
        model: the model, in evaluation mode.
        clean: the record of its clean pass.

    Returns:
        A replay with the most savings that hold on this model, and with no more of the record than it needs.

    Raises:
        CannotReplayError: even without savings a layer's output is not what it was in the clean pass.
    """
    problem: str | None = None
    some = [Savings(entry, last_position) for entry, last_position in product(ENTRIES, (True, False))]
    for savings in [NO_SAVINGS] if model.batch_size == 1 else some:
        proof = _Proof(model, clean, savings)
        problem = proof.problem()
        if problem is None:
            layers = [
                record if layer in proof.beside else replace(record, mlp=None)
                for layer, record in enumerate(clean.layers)
            ]
            return Replay(model, replace(clean, layers=tuple(layers)), proof.savings)
    raise CannotReplayError(str(problem))


class _Proof:
    """The checks of one clean pass under some savings; each returns what is wrong, or None.

    Attributes:
        savings: what is left out.
        alone: whether every row runs alone, so that the decoys run after the rows and not beside them.
        beside: layers whose MLP was seen to run beside their attention, on what does not depend on it.
    """

    def __init__(self, model: TorchModel, clean: CleanPass, savings: Savings) -> None:
        self.model, self.clean, self.savings = model, clean, savings
        self.alone = model.batch_size == 1
        self.beside: set[int] = set()
        self.prompts = slice(0, min(PROMPTS, len(clean.ids)))
        self.count = self.prompts.stop
        self.last = len(clean.layers) - 1
        ports = model.ports("head")
        z = [port.split(DECOY * record.z[self.prompts]) for port, record in zip(ports, clean.layers, strict=True)]
        self.edits = Edits.of(ports, [(), layout_of(ports, "head").units], z)

    def problem(self) -> str | None:
        """What is wrong with any layer.

        In order of execution, so that a layer that carries something over to the next meets the proof's rows there.
        """
        for layer in range(self.last + 1):
            problem = self._entry(layer) or (self._layer(layer) if layer else None)
            if problem:
                return problem
        return None

    def _entry(self, layer: int) -> str | None:
        """Whether rows that start in `layer` leave it with the recorded output."""
        replay = Replay(self.model, self.clean, self.savings)

        def run() -> Tensor:
            hidden = self._run(lambda _, sets, edits: replay.enter(layer, self.prompts, sets, edits))
            return replay.finish(hidden) if layer == self.last else hidden

        with ExitStack() as stack:
            mlp = self.model.structure.layers[layer].mlp
            if mlp is not None and self.savings.entry != "rows":
                stack.enter_context(pre_hook(self.model.module.get_submodule(mlp), self._watch(layer)))
            return self._compare(f"layer {layer} with its recorded attention", layer, run)

    def _watch(self, layer: int) -> Callable[..., None]:
        def watch(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            # Two sets are under way: one row cannot depend on either.
            if arguments and isinstance(arguments[0], Tensor) and len(arguments[0]) == 1:
                self.beside.add(layer)

        return watch

    def _layer(self, layer: int) -> str | None:
        """Whether rows that run through all of `layer` leave it with the recorded output."""
        hidden = self.clean.layers[layer].hidden[self.prompts]
        return self._compare(f"layer {layer}", layer, lambda: self._through(layer, hidden, self.savings))

    def _through(self, layer: int, hidden: Tensor, savings: Savings) -> Tensor:
        replay = Replay(self.model, self.clean, savings)

        def run(decoy: float | None, sets: int, edits: Edits) -> Tensor:
            rows = torch.cat([hidden, DECOY * hidden]) if decoy is None else decoy * hidden
            return replay.layer(layer, rows, self.prompts, sets, edits)

        output = self._run(run)
        return replay.finish(output) if layer == self.last else output

    def _run(self, run: Callable[[float | None, int, Edits], Tensor]) -> Tensor:
        """Runs the proof's rows with their decoys.

        Args:
            run: runs some rows; given what the hidden state is multiplied by, or None for rows of both kinds, the
                number of sets, and the edits.
        """
        if not self.alone:
            return run(None, 2, self.edits)
        output = run(1.0, 1, replace(self.edits, masks={}))
        # A layer that carries something over to the next one is to carry the decoy's.
        run(DECOY, 1, replace(self.edits, masks={place: mask[1:] for place, mask in self.edits.masks.items()}))
        return output

    def _compare(self, what: str, layer: int, run: Callable[[], Tensor]) -> str | None:
        try:
            return self._difference(what, layer, run()[: self.count])
        except CannotEditError as error:
            return f"{what} cannot be run alone ({error})"
        except REFUSALS as error:
            if not is_refusal(error):
                raise
            return f"{what} cannot be run alone ({refusal(error)})"

    def _difference(self, what: str, layer: int, found: Tensor) -> str | None:
        given = self.clean.layers[layer].hidden[self.prompts]
        if layer < self.last:
            expected = self.clean.layers[layer + 1].hidden[self.prompts]
        else:
            expected = self.clean.final[self.prompts]
            given = torch.zeros_like(expected)
        if found.shape != expected.shape:
            return f"{what} gives {list(found.shape)} instead of {list(expected.shape)}"
        if torch.equal(found, expected):
            return None
        if self.alone:
            return f"{what} does not reproduce the clean pass bit for bit"
        error = relative_error(found, expected, given)
        if error <= rounding(expected.dtype) or error <= self._own_rounding(layer, given):
            return None
        return f"{what} does not reproduce the clean pass (relative error {error:.2g})"

    def _own_rounding(self, layer: int, given: Tensor) -> float:
        """How far the layer's output moves when its input moves by what rounding explains.

        A layer that rounds activations to a coarse grid turns the last bit of a sum into a whole step of that grid.
        """
        hidden = self.clean.layers[layer].hidden[self.prompts]
        sign = torch.ones_like(hidden)
        sign.view(-1)[::2] = -1
        moved = (hidden.float() * (1 + rounding(hidden.dtype) * sign)).to(hidden.dtype)
        outputs = [self._through(layer, value, NO_SAVINGS)[: self.count] for value in (hidden, moved)]
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
