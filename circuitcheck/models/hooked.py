"""A model together with everything that circuitcheck needs to know to hook it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from circuitcheck.sites.structure import Head, Structure


@dataclass(frozen=True)
class HookedModel:
    """A model as it is shipped, with its hook sites.

    Attributes:
        module: the model itself; never folded, re-centred or re-implemented.
        structure: where its heads are.
        tokenizer: its Hugging Face tokenizer, or None for tasks in token ids.
        name: how reports call it.
        precision: the candidate spec that it was loaded as (`f32` for a reference).
        fingerprints: `weights` and `tokenizer`, as hexadecimal SHA-256.
        notes: what a reader of the report must know about how it was loaded.
    """

    module: nn.Module
    structure: Structure
    tokenizer: Any = None
    name: str = "model"
    precision: str = "f32"
    fingerprints: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return next(self.module.parameters()).device

    @property
    def heads(self) -> list[Head]:
        """All heads, in the order of every per-head array."""
        return self.structure.heads

    @property
    def architecture(self) -> dict[str, Any]:
        """What must agree between a reference and a candidate for their heads to be comparable."""
        first = self.structure.layers[0]
        return {
            "class": type(self.module).__name__,
            "n_layers": len(self.structure.layers),
            "n_heads": first.n_heads,
            "d_head": first.d_head,
        }
