"""Two caches of the same prompts as arrays, position by position."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from circuitcheck.core.activations import ZCache
from circuitcheck.core.errors import BaselineError, CandidateError


def check_comparable(reference: ZCache, candidate: ZCache) -> None:
    """Nothing, if the candidate's `z` can be compared with the reference's.

    Raises:
        CandidateError: other prompts, other lengths, other layers, heads or head sizes, no prompts at all, or a value
            of the candidate that is NaN or infinite.
        BaselineError: a value of the reference that is NaN or infinite.
    """
    if not reference.index:
        raise CandidateError("no prompt is left to compare z on; give a task that the reference solves.")
    if reference.index != candidate.index:
        raise CandidateError(
            f"z is of other prompts: reference {_some(reference.index)}, candidate {_some(candidate.index)}; "
            "measure both on one task."
        )
    for place, ours, theirs in zip(reference.index, reference.lengths, candidate.lengths, strict=True):
        if ours != theirs:
            raise CandidateError(
                f"prompt {place} has {ours} positions in the reference and {theirs} in the candidate; "
                "keep the same positions of both."
            )
    if len(reference.layers) != len(candidate.layers):
        raise CandidateError(
            f"the reference has {len(reference.layers)} layers, the candidate {len(candidate.layers)}; "
            "give a candidate of the reference's architecture."
        )
    for layer, (z_ref, z_cand) in enumerate(zip(reference.layers, candidate.layers, strict=True)):
        if z_ref.shape != z_cand.shape:
            raise CandidateError(
                f"z of layer {layer} has shape {list(z_ref.shape)} in the reference and {list(z_cand.shape)} in the "
                "candidate ([positions, heads, d_head]); give a candidate of the reference's architecture."
            )
    bad = first_not_finite(candidate)
    if bad:
        raise CandidateError(f"the candidate's z is NaN or infinite, first in {bad}; quantize it in a wider range.")
    bad = first_not_finite(reference)
    if bad:
        raise BaselineError(f"the reference's z is NaN or infinite, first in {bad}; it cannot serve as a reference.")


def layers_of(cache: ZCache) -> Iterator[np.ndarray]:
    """For each layer `[positions, heads, d_head]` in float64; one layer at a time, so that only it is in memory."""
    for layer in cache.layers:
        yield layer.double().numpy()


def per_prompt(values: np.ndarray, cache: ZCache) -> np.ndarray:
    """Sums over the positions of each prompt.

    Args:
        values: a number for every position and head of one layer, `[positions, heads]`.
        cache: whose prompts the positions belong to.

    Returns:
        `[heads, prompts]`.
    """
    starts = np.cumsum((0, *cache.lengths[:-1]))
    return np.add.reduceat(values, starts, axis=0).T


def first_not_finite(cache: ZCache) -> str:
    """Layer, head and prompt of the first value that is NaN or infinite, in words; empty where all are finite."""
    for number, layer in enumerate(layers_of(cache)):
        bad = np.argwhere(~np.isfinite(layer).all(-1))
        if len(bad):
            position, head = (int(place) for place in bad[0])
            prompt = int(np.searchsorted(np.cumsum(cache.lengths), position, side="right"))
            return f"layer {number}, head {head}, prompt {cache.index[prompt]} of the task"
    return ""


def _some(index: tuple[int, ...]) -> str:
    return f"{list(index[:5])}{' ...' if len(index) > 5 else ''} ({len(index)})"
