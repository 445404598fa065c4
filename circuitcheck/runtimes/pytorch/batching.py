"""Whether a prompt's logits depend on what runs beside it.

A kernel with one activation scale for a whole batch gives a prompt other logits beside other prompts; others sum in
another order under another batch size or number of threads. Both would be taken for effects of an ablation.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from circuitcheck.runtimes.pytorch.forward import last_logits
from circuitcheck.runtimes.pytorch.threads import computing_threads
from circuitcheck.runtimes.pytorch.torch_model import TorchModel

Model = TypeVar("Model", bound=TorchModel)

SUMMED_STEPS, STORED_STEPS = 64, 8
"""Rounding errors that explain a difference, relative to the largest logit: of float32, in which sums are taken, and of
the model's own type, in which their results are stored; as in the proofs of the hooks."""

MATES = 3
"""Prompts of the probe: one that is looked at, and two that take turns beside it."""

WITHIN_ROUNDING = (
    "A prompt's logits vary with the size of its batch or with threads, within rounding; batch shapes, order and "
    "threads are the same in every pass that is compared."
)


def needs_probe(model: TorchModel) -> bool:
    """Whether a prompt's logits may depend on its batch mates, as far as can be told without a pass.

    Float32 kernels only sum in another order. That a model is called `f32` is no reason to trust it: so is every model
    in memory whose owner says nothing else.
    """
    if model.batch_size is not None:
        return False
    return model.precision != "f32" or model.census is None or not model.census.is_float32


def with_batching(model: Model, ids: Tensor) -> Model:
    """The same model, with the batch size that it has to be measured at, and a note where anything varied.

    Five passes over at most four prompts.

    Args:
        model: a candidate, in evaluation mode.
        ids: token ids of prompts of one length, `[batch, seq]`, on the model's device; the first three are used.
    """
    rows = probe_rows(ids)
    first, one, other = rows[:1], rows[1:2], rows[2:3]
    with torch.no_grad():
        beside = last_logits(model, torch.cat([first, one]))[0]
        if not torch.equal(beside, last_logits(model, torch.cat([first, other]))[0]):
            return _alone(model, "a prompt's logits depend on the other prompts of its batch")
        seen = {
            "batch size": difference(beside, last_logits(model, first)[0]),
            "a larger batch": difference(beside, last_logits(model, torch.cat([first, one, other, one]))[0]),
        }
        if torch.get_num_threads() > 1:
            with computing_threads(1):
                seen["number of threads"] = difference(beside, last_logits(model, torch.cat([first, one]))[0])
    name = max(seen, key=lambda key: seen[key])
    allowed = rounding(model)
    if not seen[name] <= allowed:
        return _alone(
            model, f"a prompt's logits depend on {name} by {seen[name]:.2g} of the largest (rounding: {allowed:.2g})"
        )
    if seen[name] == 0:
        return model
    return replace(model, notes=(*model.notes, WITHIN_ROUNDING))


def probe_rows(ids: Tensor) -> Tensor:
    """Three different prompts; where there are fewer, the first one turned around."""
    rows = [ids[number % len(ids)].roll(number // len(ids)) for number in range(MATES)]
    return torch.stack(rows)


def _alone(model: Model, reason: str) -> Model:
    note = f"Measured one row at a time, because {reason}."
    return replace(model, batch_size=1, notes=(*model.notes, note))


def difference(first: Tensor, second: Tensor) -> float:
    """Largest difference, relative to the largest logit; NaN where either is."""
    return ((first.double() - second.double()).abs().max() / first.double().abs().max().clamp_min(1e-30)).item()


def rounding(model: TorchModel) -> float:
    """How far logits may differ, relative to the largest, for the order of sums alone."""
    stored = getattr(getattr(model.module, "config", None), "dtype", None)
    stored = stored if isinstance(stored, torch.dtype) else next(model.module.parameters()).dtype
    steps = torch.finfo(stored).eps if stored.is_floating_point else torch.finfo(torch.float32).eps
    return SUMMED_STEPS * torch.finfo(torch.float32).eps + STORED_STEPS * steps
