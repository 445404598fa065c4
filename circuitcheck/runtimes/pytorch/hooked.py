"""A model together with everything that circuitcheck needs to know to hook it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from circuitcheck.core.census import Census
from circuitcheck.core.metric import LOGIT_DIFFERENCE, Metric, metric_from_settings
from circuitcheck.runtimes.pytorch.ports.structure import Head, Structure


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
        census: what was really loaded; None where nobody looked.
        batch_size: the most rows in one forward pass; 1 where a prompt's logits depend on its batch mates.
        metric: what is measured of a prompt; `record_reference` and `measure` bind the one that the spec names.
    """

    module: nn.Module
    structure: Structure
    tokenizer: Any = None
    name: str = "model"
    precision: str = "f32"
    fingerprints: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    census: Census | None = None
    batch_size: int | None = None
    metric: Metric = LOGIT_DIFFERENCE

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

    def at_most(self, rows: int | None) -> int | None:
        """The most rows in one forward pass where `rows` are allowed; None where there is no limit."""
        limits = [limit for limit in (rows, self.batch_size) if limit is not None]
        return min(limits, default=None)

    def measured_by(self, metric: str) -> HookedModel:
        """The same model with the metric of that name; one that it was hooked with stays if that is its name.

        Raises:
            ConfigurationError: no metric has that name.
        """
        return self if self.metric.name == metric else replace(self, metric=metric_from_settings(metric))
