"""One forward pass, and the metric read from it."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from circuitcheck.hooks.z import record_input
from circuitcheck.models.hooked import HookedModel


def final_hidden(model: HookedModel, ids: Tensor) -> Tensor:
    """Runs the model and returns what its unembedding reads at the last position.

    Args:
        model: the model, whose own code runs unchanged.
        ids: token ids, `[batch, seq]`, on the model's device.

    Returns:
        `[batch, d_model]`, in the model's own dtype.
    """
    with record_input(model.module.get_submodule(model.structure.output_layer)) as inputs:
        model.module(ids, **_pass_options(model.module))
    return inputs[-1][:, -1]


def last_logits(model: HookedModel, ids: Tensor) -> Tensor:
    """The model's own logits at the last position, `[batch, vocabulary]`, after whatever it does to them."""
    output = model.module(ids, **_pass_options(model.module))
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits[:, -1]


def logit_difference(model: HookedModel, hidden: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """The metric m: logit(answer) - logit(foil), in logits.

    The two rows of the unembedding are applied in float32, because a half-precision unembedding rounds logits to steps
    of up to 1. A quantized unembedding is used as it is.

    Args:
        model: the model that `hidden` comes from.
        hidden: input of the unembedding, `[rows, d_model]`.
        answer: token ids, `[rows]`.
        foil: token ids, `[rows]`.

    Returns:
        float32, `[rows]`.
    """
    output = model.module.get_submodule(model.structure.output_layer)
    rows = float_rows(output)
    if rows is None:
        logits: Tensor = output(hidden).float()
        number = torch.arange(len(hidden), device=hidden.device)
        return logits[number, answer] - logits[number, foil]
    weight, bias = rows
    difference = ((weight[answer].float() - weight[foil].float()) * hidden.float()).sum(-1)
    return difference if bias is None else difference + bias[answer].float() - bias[foil].float()


def float_rows(output: nn.Module) -> tuple[Tensor, Tensor | None] | None:
    """Weight `[vocabulary, d_model]` and bias `[vocabulary]` of a plain unembedding; None where it is quantized."""
    weight = plain_weight(output)
    return (weight, output.bias) if isinstance(output, nn.Linear) and weight is not None else None


def plain_weight(module: nn.Module) -> Tensor | None:
    """The module's weight, if it is an ordinary floating-point tensor and not a quantized one in disguise."""
    weight = getattr(module, "weight", None)
    plain = isinstance(weight, Tensor) and type(weight) in (Tensor, nn.Parameter)
    return weight if plain and weight.is_floating_point() else None  # type: ignore[union-attr]


def _pass_options(module: nn.Module) -> dict[str, Any]:
    """No cache (a new pass every time) and only the last position's logits, where the model has these options."""
    known = inspect.signature(module.forward).parameters
    return {name: value for name, value in (("use_cache", False), ("logits_to_keep", 1)) if name in known}
