"""How far two models differ in what they say comes next."""

from __future__ import annotations

import numpy as np

LEAST = 1e-12
"""Probability below which one is taken for this much: a divergence from nothing is infinite."""


def kl_divergence(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """Kullback-Leibler divergence of the candidate from the reference, of some tokens and of all others as one.

    Grouping tokens can only lower it (the data processing inequality), and by little where the tokens are the
    reference's likeliest.

    Args:
        reference: log-probabilities in nats, `[prompts, tokens]`.
        candidate: of the same tokens, `[prompts, tokens]`.

    Returns:
        In nats, at least 0, float64 `[prompts]`; NaN where a log-probability is.
    """
    ours, theirs = (_with_rest(np.asarray(side, np.float64)) for side in (reference, candidate))
    terms = np.where(ours > 0, ours * np.log(np.maximum(ours, LEAST) / np.maximum(theirs, LEAST)), ours)
    return np.asarray(np.maximum(terms.sum(-1), 0.0))


def _with_rest(log_probabilities: np.ndarray) -> np.ndarray:
    known = np.exp(log_probabilities)
    return np.concatenate([known, np.maximum(1 - known.sum(-1, keepdims=True), 0.0)], -1)
