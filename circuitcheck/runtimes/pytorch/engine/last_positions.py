"""A clean pass of the last positions alone, beside the keys and values that the earlier positions left.

What is replaced at a position changes no earlier one of a causal model: their keys and values stay those of the clean
run. So a row costs one token where only the answer position is replaced, and where values come from a counterfactual
prompt, the tokens from the first on that differs. Transformers has its models decode in this way, and its cache is what
a row is given; that the model at hand does is proven, not believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache

from circuitcheck.runtimes.pytorch.engine.clean_pass import (
    REFUSALS,
    CannotReplayError,
    CleanPass,
    OfPrompts,
    is_refusal,
    record_clean_pass,
    refusal,
)
from circuitcheck.runtimes.pytorch.engine.replay_proof import relative_error, rounding
from circuitcheck.runtimes.pytorch.forward import final_hidden
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

FEW = 5
"""Prompts by which it is seen which arguments have an entry for each: as many as few arguments have rows of their own,
such as two for cosine and sine, or three for positions in images."""


class EarlierPositions(DynamicCache, OfPrompts):  # type: ignore[misc]  # transformers types no cache
    """Keys and values of prompts, `[batch, heads, seq, d_head]` for each layer; all of a window, too."""

    def rows(self, prompts: slice, copies: int) -> EarlierRows:
        """The same for rows of some prompts."""
        return EarlierRows(self, prompts, copies)

    @contextmanager
    def of_first(self, count: int) -> Iterator[None]:
        """Holds the first prompts alone for as long as the block runs; what is added meanwhile goes with it."""
        kept = [(layer.keys, layer.values) for layer in self.layers]
        for layer, (keys, values) in zip(self.layers, kept, strict=True):
            layer.keys, layer.values = keys[:count], values[:count]
        try:
            yield
        finally:
            for layer, (keys, values) in zip(self.layers, kept, strict=True):
                layer.keys, layer.values = keys, values


class EarlierRows(DynamicCache):  # type: ignore[misc]  # transformers types no cache
    """What rows attend to: the clean run's keys and values, and behind them the row's own, which are not kept.

    Args:
        earlier: of the prompts.
        prompts: the rows' prompts.
        copies: rows of each.
    """

    def __init__(self, earlier: EarlierPositions, prompts: slice, copies: int) -> None:
        super().__init__()
        self.layers = earlier.layers
        self._prompts, self._copies = prompts, copies

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values of all positions, `[copies * prompts, heads, seq, d_head]`."""
        layer = self.layers[layer_idx]
        return self._behind(layer.keys, key_states), self._behind(layer.values, value_states)

    def _behind(self, earlier: Tensor, own: Tensor) -> Tensor:
        kept = earlier[self._prompts].expand(self._copies, -1, -1, -1, -1)
        # One copy of what is shared, instead of one for the rows and another behind which the new positions stand.
        return torch.cat([kept, own.view(*kept.shape[:2], *own.shape[1:])], -2).flatten(0, 1)


def record_last_positions(model: TorchModel, ids: Tensor, count: int) -> CleanPass:
    """Runs the prompts, and records every layer at the last positions.

    What each layer was given and gave there is taken from a pass of the whole prompts, so that a proof of the replay
    holds it against that; how a layer is called for these positions, from a pass of them, of a few prompts where it
    is called alike for all.

    Args:
        model: the model, in evaluation mode.
        ids: token ids, `[batch, seq]`, on the model's device.
        count: how many positions, fewer than there are.

    Raises:
        CannotReplayError: the model keeps no keys and values, changes with them, or lets an earlier position see a
            later one.
    """
    if model.batch_size == 1:
        raise CannotReplayError("it is measured one whole prompt at a time")
    require_causal(model, ids[:1], count)
    earlier = EarlierPositions()
    whole = record_clean_pass(model, ids, earlier)
    _require_all(earlier, whole)
    earlier.crop(-count)
    some = ids[:FEW] if all(record.is_called_alike for record in whole.layers) else ids
    with earlier.of_first(len(some)):
        last = record_clean_pass(model, some[:, -count:], earlier)
    layers = [
        replace(
            there,
            hidden=record.hidden[:, -count:].clone(),
            z=record.z[:, -count:].clone(),
            mlp=None if record.mlp is None else record.mlp[:, -count:].clone(),
        )
        for there, record in zip(last.layers, whole.layers, strict=True)
    ]
    return CleanPass(ids[:, -count:], tuple(layers), whole.final)


def require_causal(model: TorchModel, ids: Tensor, count: int) -> None:
    """Other last tokens, and keeping keys and values, change nothing at earlier positions; tried once for a length.

    Args:
        model: the model, in evaluation mode.
        ids: token ids of one prompt, `[1, seq]`.
        count: how many last tokens.

    Raises:
        CannotReplayError: something does, or the model's own code refuses.
    """
    known, what = model.proven_here.causal, (ids.shape[1], count)
    if what not in known:
        try:
            _prove_causal(model, ids, count)
        except CannotReplayError as error:
            known[what] = str(error)
        else:
            known[what] = None
    reason = known[what]
    if reason is not None:
        raise CannotReplayError(reason)


def _prove_causal(model: TorchModel, ids: Tensor, count: int) -> None:
    last = ids[:, -count:]
    rows = torch.cat([ids, torch.cat([ids[:, :-count], torch.where(last > 0, last - 1, last + 1)], 1)])
    earlier = EarlierPositions()
    try:
        plain, kept = final_hidden(model, rows), final_hidden(model, rows, earlier)
    except REFUSALS as error:
        if not is_refusal(error):
            raise
        raise CannotReplayError(f"it keeps no keys and values ({refusal(error)})") from error
    if not _agree(kept[: len(ids)], plain[: len(ids)], 1):
        raise CannotReplayError("it computes something else where it keeps keys and values")
    for number, layer in enumerate(earlier.layers):
        for values in (layer.keys, layer.values):
            if not isinstance(values, Tensor) or len(values) != len(rows):
                raise CannotReplayError(f"layer {number} keeps no keys and values of every row")
            own, others = values[: len(ids), ..., :-count, :], values[len(ids) :, ..., :-count, :]
            if not _agree(others, own, number + 1):
                raise CannotReplayError(f"earlier positions see the last one in layer {number}")


def _agree(found: Tensor, expected: Tensor, layers: int) -> bool:
    """Whether values are equal but for what rounding in some layers explains."""
    error = relative_error(found, expected, torch.zeros_like(expected))
    return torch.equal(found, expected) or error <= layers * rounding(expected.dtype)


def _require_all(earlier: EarlierPositions, whole: CleanPass) -> None:
    batch, seq = whole.ids.shape
    kept = [layer.keys for layer in earlier.layers]
    if len(kept) != len(whole.layers) or any(
        not isinstance(keys, Tensor) or (len(keys), keys.shape[-2]) != (batch, seq) for keys in kept
    ):
        raise CannotReplayError("it does not keep the keys and values of every layer and position")
