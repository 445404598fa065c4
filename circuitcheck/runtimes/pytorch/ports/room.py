"""How long a prompt may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from circuitcheck.core.errors import ModelError
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings")
"""What modules and buffers with one row a position are called. Rotary angles computed on the fly have no end."""


def require_room(model: TorchModel, seq: int) -> None:
    """Refuses prompts for which the model has no positions, before its own code fails on them in its own way.

    Args:
        model: the model.
        seq: tokens of the longest prompt.

    Raises:
        ModelError: the model has fewer positions.
    """
    room = room_of(model)
    if room is not None and seq > room:
        raise ModelError(
            f"{model.name} has {room} positions, and the task has a prompt of {seq} tokens: use shorter prompts."
        )


def room_of(model: TorchModel) -> int | None:
    """The most tokens of one prompt that the model has positions for; None where nothing limits them."""
    config: Any = getattr(model.module, "config", None)
    found = list(_tables(model))
    if getattr(config, "model_type", None) == "mpt":  # its ALiBi is built once, for this many positions
        found.append(config.max_seq_len)
    return min(found, default=None)


def _tables(model: TorchModel) -> Iterator[int]:
    """Rows of each table beside the token embedding or below; a vision tower's tables lie elsewhere."""
    parent = (model.structure.embedding or "").rpartition(".")[0]
    text = model.module.get_submodule(parent)
    for path, part in text.named_modules():
        if path.rpartition(".")[2] in POSITION_TABLES and isinstance(part, nn.Embedding):
            yield part.num_embeddings - _reserved(part)
    for path, table in text.named_buffers():
        if path.rpartition(".")[2] in POSITION_TABLES:
            yield len(table)


def _reserved(table: nn.Embedding) -> int:
    """Rows in front of the first position: OPT's offset, and those up to RoBERTa's padding token."""
    offset = getattr(table, "offset", None)
    if isinstance(offset, int):
        return offset
    return 0 if table.padding_idx is None else table.padding_idx + 1
