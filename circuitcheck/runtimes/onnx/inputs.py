"""What a graph is fed beside the token ids: masks, positions, and a past, empty or of earlier positions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import ModelError
from circuitcheck.core.phrases import listed

PROBE_TOKENS = 5
"""Length of the prompts that a graph is tried on, before any task is known."""

IDS = ("input_ids", "input", "tokens")
ELEMENTS = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
}
PAST = "past"
"""How inputs are called that hold keys and values of earlier positions."""

Past = Mapping[str, NDArray[Any]]
"""Name of such an input to its value; empty where there are no earlier positions."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of a graph.

    Attributes:
        ids: name of the one that takes token ids.
        kinds: name to the type of its numbers, as numpy has it.
        shapes: name to its shape; sizes that are no numbers may be any.
    """

    ids: str
    kinds: dict[str, Any]
    shapes: dict[str, tuple[Any, ...]]

    @property
    def batch(self) -> int | None:
        """The one number of rows that it takes; None for any."""
        size = self.shapes[self.ids][0]
        return size if isinstance(size, int) else None

    @property
    def past(self) -> tuple[str, ...]:
        """Those that hold keys and values of earlier positions, `[batch, heads, positions, width]`."""
        return tuple(name for name, shape in self.shapes.items() if name.startswith(PAST) and len(shape) == 4)

    @property
    def past_bytes(self) -> int:
        """What one position of one row takes in all of these."""
        sizes = {name: (size for size in self.shapes[name][1:] if isinstance(size, int)) for name in self.past}
        return sum(np.dtype(self.kinds[name]).itemsize * prod(known) for name, known in sizes.items())

    def feed(self, ids: NDArray[np.int64], past: Past | None = None) -> dict[str, NDArray[Any]]:
        """All of them, for token ids `[batch, seq]` behind a past, or without one."""
        before = next(iter(past.values())).shape[2] if past else 0
        return {name: (past or {}).get(name, self._value(name, ids, before)) for name in self.kinds}

    def _value(self, name: str, ids: NDArray[np.int64], before: int) -> NDArray[Any]:
        kind, shape, (batch, seq) = self.kinds[name], self.shapes[name], ids.shape
        if name == self.ids:
            return ids.astype(kind)
        if name in self.past:
            return np.zeros((batch, *(size if isinstance(size, int) else 0 for size in shape[1:])), kind)
        return np.asarray(KNOWN[name](batch, seq, before), kind)


KNOWN: dict[str, Any] = {
    "attention_mask": lambda batch, seq, before: np.ones((batch, before + seq)),
    "position_ids": lambda batch, seq, before: np.tile(np.arange(before, before + seq), (batch, 1)),
    "cache_position": lambda _, seq, before: np.arange(before, before + seq),
    "token_type_ids": lambda batch, seq, _: np.zeros((batch, seq)),
    "segment_ids": lambda batch, seq, _: np.zeros((batch, seq)),
    "use_cache_branch": lambda _, __, before: np.full(1, before > 0),
    "num_logits_to_keep": lambda *_: np.ones(()),
    "logits_to_keep": lambda *_: np.ones(()),
    "seqlens_k": lambda batch, seq, before: np.full(batch, before + seq - 1),
    "total_sequence_length": lambda _, seq, before: np.full((), before + seq),
}
"""Inputs that exporters and builders give a model, by name, for rows of tokens and the positions before them."""


def inputs_of(session: Any, name: str, states: Sequence[tuple[int, int]] = ()) -> Inputs:
    """The inputs of a session.

    Args:
        session: of the graph.
        name: how messages call it.
        states: heads and width of each layer's keys and values, for inputs that leave them open.

    Raises:
        ModelError: names those that are not known, or that take only one length.
    """
    found = {given.name: given for given in session.get_inputs()}
    ids = next((key for key in IDS if key in found), None)
    if ids is None:
        raise ModelError(f"{name} takes no token ids: none of its inputs ({listed(found, 8)}) is called input_ids.")
    unknown = [
        f"{key} ({given.type}, {given.shape})"
        for key, given in found.items()
        if key != ids
        and (given.type not in ELEMENTS or not (key in KNOWN or (key.startswith(PAST) and len(given.shape) == 4)))
    ]
    if unknown:
        raise ModelError(
            f"{name} has inputs that are not known: {listed(unknown, 5)}. Known are {ids}, {', '.join(KNOWN)} and a "
            "past of keys and values [batch, heads, positions, width]; export the model with these."
        )
    shape = found[ids].shape
    if len(shape) != 2 or found[ids].type not in ("tensor(int64)", "tensor(int32)"):
        raise ModelError(f"{name}: its {ids} are {found[ids].type} {shape}, and not token ids [batch, seq].")
    if isinstance(shape[1], int) or (isinstance(shape[0], int) and shape[0] != 1):
        raise ModelError(f"{name} takes token ids of the shape {shape} alone; export it with dynamic axes.")
    return Inputs(
        ids,
        {key: ELEMENTS[given.type] for key, given in found.items()},
        {key: _closed(key, given.shape, states) for key, given in found.items()},
    )


def _closed(name: str, shape: Sequence[Any], states: Sequence[tuple[int, int]]) -> tuple[Any, ...]:
    layer = re.search(r"\d+", name)
    if not (name.startswith(PAST) and len(shape) == 4 and layer and int(layer[0]) < len(states)):
        return tuple(shape)
    heads, width = states[int(layer[0])]
    known = (shape[0], heads, shape[2], width)
    return tuple(size if isinstance(size, int) else other for size, other in zip(shape, known, strict=True))
