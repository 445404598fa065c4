"""Values of units on some prompts of a task, prompts of several lengths behind one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.errors import BaselineError, CandidateError
from circuitcheck.core.units import Layout

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Activations:
    """Values, or their gradients.

    Attributes:
        index: place of each prompt in its task, `[prompts]`.
        lengths: positions kept of each prompt, `[prompts]`; 1 where only the answer position is kept.
        groups: for each group of the layout `[tokens, count, width]`, the prompts' positions behind one another.
    """

    index: tuple[int, ...]
    lengths: tuple[int, ...]
    groups: tuple[FloatArray, ...]

    def rows(self, index: Sequence[int]) -> list[FloatArray]:
        """For each group `[len(index), seq, count, width]`, for prompts of one length."""
        ends = dict(zip(self.index, np.cumsum(self.lengths), strict=True))
        lengths = dict(zip(self.index, self.lengths, strict=True))
        spans = [slice(ends[place] - lengths[place], ends[place]) for place in index]
        return [np.stack([group[span] for span in spans]) for group in self.groups]

    def of_group(self, place: int) -> Activations:
        """The same of one group alone."""
        return Activations(self.index, self.lengths, (self.groups[place],))

    def first(self, prompts: int) -> Activations:
        """The same of the first so many prompts."""
        kept = sum(self.lengths[:prompts])
        return Activations(self.index[:prompts], self.lengths[:prompts], tuple(group[:kept] for group in self.groups))

    def answer_position(self) -> Activations:
        """The same prompts with only their last position kept."""
        last = np.cumsum(self.lengths, dtype=np.int64) - 1
        return Activations(self.index, (1,) * len(self.index), tuple(group[last] for group in self.groups))

    def amplitudes(self) -> list[float]:
        """The largest magnitude in each group; 1 where there are only zeros."""
        return [float(np.abs(group).max(initial=0.0)) or 1.0 for group in self.groups]

    def in_double(self) -> Iterator[NDArray[np.float64]]:
        """For each group `[tokens, count, width]` in float64; one at a time, so that only it is in memory."""
        return (group.astype(np.float64) for group in self.groups)

    def per_prompt(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over the positions of each prompt: `[units, prompts]` of `[tokens, units]`."""
        starts = np.cumsum((0, *self.lengths[:-1]))
        return np.add.reduceat(values, starts, axis=0).T

    def first_not_finite(self) -> str:
        """Group, unit and prompt of the first value that is NaN or infinite, in words; empty where all are finite."""
        for number, group in enumerate(self.groups):
            bad = np.argwhere(~np.isfinite(group).all(-1))
            if len(bad):
                position, unit = (int(place) for place in bad[0])
                prompt = int(np.searchsorted(np.cumsum(self.lengths), position, side="right"))
                return f"group {number}, unit {unit}, prompt {self.index[prompt]} of the task"
        return ""


def join(rows: Mapping[int, Sequence[FloatArray]], layout: Layout) -> Activations:
    """Activations of single prompts, in the order of the task.

    Args:
        rows: place of a prompt to, for each group, `[seq, count, width]`; may be none at all.
        layout: the model's, which fixes the shapes where there are no prompts.
    """
    index = tuple(sorted(rows))
    return Activations(
        index=index,
        lengths=tuple(len(rows[place][0]) for place in index),
        groups=tuple(
            np.concatenate([np.empty((0, group.count, group.width), np.float32), *(rows[at][place] for at in index)])
            for place, group in enumerate(layout.groups)
        ),
    )


def require_comparable(reference: Activations, candidate: Activations) -> None:
    """Nothing, if the candidate's values can be compared with the reference's.

    Raises:
        CandidateError: other prompts, other lengths, other groups, units or widths, no prompts at all, or a value of
            the candidate that is NaN or infinite.
        BaselineError: a value of the reference that is NaN or infinite.
    """
    if not reference.index:
        raise CandidateError("no prompt is left to compare units on; give a task that the reference solves.")
    if reference.index != candidate.index:
        raise CandidateError(
            f"units were read on other prompts: reference {_some(reference.index)}, candidate "
            f"{_some(candidate.index)}; measure both on one task."
        )
    for place, ours, theirs in zip(reference.index, reference.lengths, candidate.lengths, strict=True):
        if ours != theirs:
            raise CandidateError(
                f"prompt {place} has {ours} positions in the reference and {theirs} in the candidate; "
                "keep the same positions of both."
            )
    shapes = [[group.shape[1:] for group in side.groups] for side in (reference, candidate)]
    if shapes[0] != shapes[1]:
        raise CandidateError(
            f"units have the shapes {shapes[0]} in the reference and {shapes[1]} in the candidate ([units, width] of "
            "each group); give a candidate of the reference's architecture."
        )
    bad = candidate.first_not_finite()
    if bad:
        raise CandidateError(f"a value of the candidate is NaN or infinite, first in {bad}; quantize in a wider range.")
    bad = reference.first_not_finite()
    if bad:
        raise BaselineError(f"a value of the reference is NaN or infinite, first in {bad}; it cannot serve as such.")


def _some(index: tuple[int, ...]) -> str:
    return f"{list(index[:5])}{' ...' if len(index) > 5 else ''} ({len(index)})"
