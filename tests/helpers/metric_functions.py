"""Metrics as Python functions, importable by name, as a user writes them for an encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MASK = 3
"""Token that stands where a word is missing."""


def masked_difference(output: Any, ids: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """Logit of the answer minus that of the foil where the mask stands, `[batch]`."""
    number = torch.arange(len(ids), device=ids.device)
    logits = output.logits[number, (ids == MASK).int().argmax(1)]
    return logits[number, answer] - logits[number, foil]


def class_difference(output: Any, ids: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """Logit of one class minus that of another, `[batch]`."""
    number = torch.arange(len(ids), device=ids.device)
    return output.logits[number, answer] - output.logits[number, foil]


def last_difference(output: Any, ids: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """The logit difference that has a name, from the model's own logits, `[batch]`."""
    number = torch.arange(len(ids), device=ids.device)
    return output.logits[number, -1, answer] - output.logits[number, -1, foil]


def without_gradient(output: Any, ids: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """Detached from what it was computed from."""
    return last_difference(output, ids, answer, foil).detach()


def one_number(output: Any, ids: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """One number for all prompts."""
    return last_difference(output, ids, answer, foil).mean()


def whole_numbers(output: Any, ids: Tensor, answer: Tensor, foil: Tensor) -> Tensor:
    """No floats."""
    return last_difference(output, ids, answer, foil).round().long()


def no_tensor(output: Any, ids: Tensor, answer: Tensor, foil: Tensor) -> Any:
    """A list."""
    return last_difference(output, ids, answer, foil).tolist()


not_a_function = 3
