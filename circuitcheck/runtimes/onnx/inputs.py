"""What a graph is fed beside the token ids: masks, positions, and an empty past."""

from __future__ import annotations

from dataclasses import dataclass
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

    def feed(self, ids: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """All of them, for token ids `[batch, seq]` without a past."""
        made = {name: self._value(name, ids) for name in self.kinds}
        return {name: value for name, value in made.items() if value is not None}

    def _value(self, name: str, ids: NDArray[np.int64]) -> NDArray[Any] | None:
        kind, shape, (batch, seq) = self.kinds[name], self.shapes[name], ids.shape
        if name == self.ids:
            return ids.astype(kind)
        if name.startswith(PAST) and len(shape) == 4:
            return np.zeros((batch, *(size if isinstance(size, int) else 0 for size in shape[1:])), kind)
        made = KNOWN[name](batch, seq)
        return np.asarray(made, kind)


KNOWN: dict[str, Any] = {
    "attention_mask": lambda batch, seq: np.ones((batch, seq)),
    "position_ids": lambda batch, seq: np.tile(np.arange(seq), (batch, 1)),
    "cache_position": lambda _, seq: np.arange(seq),
    "token_type_ids": lambda batch, seq: np.zeros((batch, seq)),
    "segment_ids": lambda batch, seq: np.zeros((batch, seq)),
    "use_cache_branch": lambda _, __: np.zeros(1),
    "num_logits_to_keep": lambda _, __: np.ones(()),
    "logits_to_keep": lambda _, __: np.ones(()),
    "seqlens_k": lambda batch, seq: np.full(batch, seq - 1),
    "total_sequence_length": lambda _, seq: np.full((), seq),
}
"""Inputs that exporters and builders give a model, by name."""


def inputs_of(session: Any, name: str) -> Inputs:
    """The inputs of a session.

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
        {key: tuple(given.shape) for key, given in found.items()},
    )
