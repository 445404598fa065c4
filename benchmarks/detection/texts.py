"""Text of the embedded model's corpus, as token ids."""

from __future__ import annotations

import random
from collections.abc import Iterator

from torch import Tensor

from circuitcheck.embedded.corpus import build_tokenizer
from circuitcheck.embedded.train import batches


def training_text(seed: int) -> Iterator[Tensor]:
    """Endless token ids `[128, 32]`; trainings count seeds from 0, evaluations from 10,000."""
    return batches(build_tokenizer(), random.Random(seed))
