"""What a model says comes next, as far as it is kept: the tokens that the reference finds likeliest, and the rest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

KEPT = 32
"""Tokens of a prompt whose probabilities are kept; all others together are one more."""


@dataclass(frozen=True)
class NextToken:
    """Probabilities of the next token after some prompts.

    Attributes:
        tokens: those whose probabilities are given, token ids, int32 `[prompts, kept]`.
        log_probabilities: of these, in nats, float32 `[prompts, kept]`.
        likeliest: of the whole vocabulary, token ids, int32 `[prompts]`.
    """

    tokens: NDArray[np.int32]
    log_probabilities: NDArray[np.float32]
    likeliest: NDArray[np.int32]

    def first(self, prompts: int) -> NextToken:
        """The same after the first so many prompts."""
        return NextToken(self.tokens[:prompts], self.log_probabilities[:prompts], self.likeliest[:prompts])
