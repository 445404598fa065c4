"""How far each unit's values have moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from circuitcheck.core.activations import Activations, require_comparable
from circuitcheck.stats.bootstrap import weighted_means


@dataclass(frozen=True)
class DriftSums:
    """Sums over positions and a unit's numbers, float64; all that drift and cosine need of them.

    Attributes:
        difference: squared norm of z_ref - z_cand, `[units, prompts]`.
        reference: squared norm of z_ref, `[units, prompts]`.
        candidate: squared norm of z_cand, `[units, prompts]`.
        dot: z_ref . z_cand, `[units, prompts]`.
    """

    difference: np.ndarray
    reference: np.ndarray
    candidate: np.ndarray
    dot: np.ndarray


def joined_sums(parts: Sequence[DriftSums]) -> DriftSums:
    """The sums of several groups, one behind the other."""
    names = [field.name for field in fields(DriftSums)]
    return DriftSums(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def drift_sums(reference: Activations, candidate: Activations) -> DriftSums:
    """The sums of values on the same prompts, units in the order of the layout.

    Raises:
        CandidateError: the sides differ in prompts, lengths or shapes, hold no prompts, or the candidate holds NaN or
            infinite values.
        BaselineError: the reference holds NaN or infinite values.
    """
    require_comparable(reference, candidate)
    groups = []
    for ours, theirs in zip(reference.in_double(), candidate.in_double(), strict=True):
        apart = ours - theirs
        pairs = (apart, apart), (ours, ours), (theirs, theirs), (ours, theirs)
        # One product at a time: of what units write, each is several times as large as their values.
        groups.append([reference.per_prompt((one * other).sum(-1)) for one, other in pairs])
    return DriftSums(*(np.concatenate(parts) for parts in zip(*groups, strict=True)))


def relative_drift(sums: DriftSums) -> np.ndarray:
    """`norm(z_ref - z_cand) / norm(z_ref)`, Frobenius over prompts and positions; dimensionless, `[units]`.

    A unit whose reference is all zeros has drift 0 if the candidate is too, and infinity if not.
    """
    return _root_ratio(sums.difference.sum(-1), sums.reference.sum(-1))


def pooled_sums(sums: DriftSums) -> DriftSums:
    """The sums of all units together, as if they were one."""
    return DriftSums(*(getattr(sums, field.name).sum(0, keepdims=True) for field in fields(sums)))


def moves(sums: DriftSums) -> np.ndarray:
    """Root mean square over prompts of `norm(w_ref - w_cand)`, in the unit of the values, `[units]`."""
    return np.asarray(np.sqrt(sums.difference.mean(-1)))


def cosine(sums: DriftSums) -> np.ndarray:
    """Cosine of z_ref and z_cand over prompts and positions; dimensionless, `[units]`.

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
        `[draws, units]`, dimensionless.
    """
    return _root_ratio(weighted_means(weights, sums.difference), weighted_means(weights, sums.reference))


def _root_ratio(difference: np.ndarray, reference: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = np.where((reference == 0) & (difference == 0), 0.0, difference / reference)
    return np.asarray(np.sqrt(ratio))
