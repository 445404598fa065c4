"""How far the importance profile has moved, relative to the head that matters most."""

from __future__ import annotations

import numpy as np


def profile_distance(reference: np.ndarray, candidate: np.ndarray) -> float:
    """`max_h |I_cand - I_ref| / max_h |I_ref|`.

    Args:
        reference: importances in logits, `[heads]`.
        candidate: importances of the same heads in logits, `[heads]`.

    Returns:
        Dimensionless; NaN where no head of the reference has an importance, or any importance is NaN.

    Raises:
        ValueError: shapes that differ, or no heads.
    """
    return float(profile_distance_draws(np.atleast_2d(reference), np.atleast_2d(candidate))[0])


def profile_distance_draws(reference: np.ndarray, candidate: np.ndarray) -> np.ndarray:
    """`profile_distance` of every draw, each relative to the largest |I_ref| of its own.

    Args:
        reference: importances in logits, `[draws, heads]`.
        candidate: importances of the same draws and heads in logits, `[draws, heads]`.

    Returns:
        Dimensionless, `[draws]`; NaN as there.

    Raises:
        ValueError: as there.
    """
    reference, candidate = np.asarray(reference, np.float64), np.asarray(candidate, np.float64)
    if reference.shape != candidate.shape or not reference.size:
        raise ValueError(f"importances of shapes {reference.shape} and {candidate.shape} are not of the same heads.")
    largest = np.abs(reference).max(-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(candidate - reference).max(-1) / np.where(largest == 0, np.nan, largest))
