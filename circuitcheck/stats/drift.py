"""How far each head's `z` has moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitcheck.core.activations import ZCache
from circuitcheck.stats.bootstrap import weighted_means
from circuitcheck.stats.caches import check_comparable, layers_of, per_prompt


@dataclass(frozen=True)
class DriftSums:
    """Sums over positions and head dimensions, float64; all that drift and cosine need of `z`.

    Attributes:
        difference: squared norm of z_ref - z_cand, `[heads, prompts]`.
        reference: squared norm of z_ref, `[heads, prompts]`.
        candidate: squared norm of z_cand, `[heads, prompts]`.
        dot: z_ref . z_cand, `[heads, prompts]`.
    """

    difference: np.ndarray
    reference: np.ndarray
    candidate: np.ndarray
    dot: np.ndarray


def drift_sums(reference: ZCache, candidate: ZCache) -> DriftSums:
    """The sums of two caches of the same prompts, heads in the order of layers and, within one, of heads.

    Raises:
        CandidateError: the caches differ in prompts, lengths or shapes, hold no prompts, or the candidate holds NaN or
            infinite values.
        BaselineError: the reference holds NaN or infinite values.
    """
    check_comparable(reference, candidate)
    layers = []
    for ours, theirs in zip(layers_of(reference), layers_of(candidate), strict=True):
        products = (np.square(ours - theirs), np.square(ours), np.square(theirs), ours * theirs)
        layers.append([per_prompt(product.sum(-1), reference) for product in products])
    return DriftSums(*(np.concatenate(parts) for parts in zip(*layers, strict=True)))


def relative_drift(sums: DriftSums) -> np.ndarray:
    """`norm(z_ref - z_cand) / norm(z_ref)`, Frobenius over prompts and positions; dimensionless, `[heads]`.

    A head whose reference is all zeros has drift 0 if the candidate is too, and infinity if not.
    """
    return _root_ratio(sums.difference.sum(-1), sums.reference.sum(-1))


def cosine(sums: DriftSums) -> np.ndarray:
    """Cosine of z_ref and z_cand over prompts and positions; dimensionless, `[heads]`.

    1 for two vectors of zeros; 0 where one of them is zero and the other is not.
    """
    reference, candidate, dot = sums.reference.sum(-1), sums.candidate.sum(-1), sums.dot.sum(-1)
    norms = np.sqrt(reference * candidate)
    ratio = np.clip(dot / np.where(norms == 0, 1.0, norms), -1.0, 1.0)  # rounding may leave it a hair outside
    return np.asarray(np.where(norms == 0, np.where(reference == candidate, 1.0, 0.0), ratio))


def drift_draws(sums: DriftSums, weights: np.ndarray) -> np.ndarray:
    """Relative drift on every bootstrap draw.

    Args:
        sums: of all prompts.
        weights: `[draws, prompts]`.

    Returns:
        `[draws, heads]`, dimensionless.
    """
    return _root_ratio(weighted_means(weights, sums.difference), weighted_means(weights, sums.reference))


def _root_ratio(difference: np.ndarray, reference: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where((reference == 0) & (difference == 0), 0.0, difference / reference)
    return np.asarray(np.sqrt(ratio))
