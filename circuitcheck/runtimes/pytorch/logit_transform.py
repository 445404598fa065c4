"""What a model does to its logits after the unembedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from circuitcheck.runtimes.pytorch.ports.architectures import text_config

Transform = Callable[[Tensor], Tensor]
"""From what the unembedding puts out to the model's own logits, entry by entry, in the type that it is given."""


def logit_transform(config: Any) -> Transform:
    """The transform that a Hugging Face config names.

    Capped: `c tanh(x / c)` with c = `final_logit_softcapping` (Gemma 2, Gemma Team 2024, arXiv:2408.00118, section 2).
    Scaled: times `logit_scale` in Cohere's models, divided by `logits_scaling` in Granite's; elsewhere these names mean
    other things or nothing. A transform that is not named here is found out by the proof of the readout.

    Args:
        config: the model's config, or None for a model without one.

    Returns:
        The transform; the identity where the config names none.
    """
    config = text_config(config)
    kind = str(getattr(config, "model_type", ""))
    cap = _number(config, "final_logit_softcapping")
    if cap:
        return lambda logits: cap * torch.tanh(logits / cap)
    scale = _number(config, "logit_scale") if kind.startswith("cohere") else None
    if scale is not None:
        return lambda logits: scale * logits
    divisor = _number(config, "logits_scaling") if kind.startswith("granite") else None
    return (lambda logits: logits / divisor) if divisor else _identity


def _number(config: Any, name: str) -> float | None:
    value = getattr(config, name, None)
    return float(value) if isinstance(value, (int, float)) else None


def _identity(logits: Tensor) -> Tensor:
    return logits
