"""Texts of the embedded model's corpus, as token ids, that candidates are trained and compared on."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from circuitcheck.embedded.corpus import build_tokenizer
from circuitcheck.embedded.train import BATCH, batches

EVALUATION_SEED = 20_000
"""Far from the seeds of trainings, which count from 0, so that no candidate was trained on what it is compared on."""


def training_text(seed: int) -> Iterator[Tensor]:
    """Endless token ids `[128, 32]`."""
    return batches(build_tokenizer(), random.Random(seed))


@cache
def evaluation_text(rows: int = 2 * BATCH) -> Tensor:
    """The text that every detector sees, token ids `[rows, 32]`."""
    stream = training_text(EVALUATION_SEED)
    return torch.cat([next(stream) for _ in range(-(-rows // BATCH))])[:rows]
