"""Integrated gradients: a second opinion on the damage, beside the first order, where the reference is at hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.activations import Activations
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.runtime import Runtime

STEPS = 16
"""Midpoints of the path at which the gradient is taken."""


def integrated_damage(
    reference: Runtime, prompts: Prompts, kind: str, start: Activations, end: Activations, *, steps: int = STEPS
) -> NDArray[np.float64]:
    """Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) from the reference's values to the candidate's.

    In the reference, all units are set to points of the straight path from its own values to the candidate's. The
    gradient of the metric by each unit, the others held, is averaged along the path and multiplied by the way. Unlike
    the first order at the start alone, the sum over units is what the whole way costs: m(end) - m(start), both in the
    reference, but for the steps' error. A deviation is counted once, in the unit where it is set, and not in those
    behind it.

    Args:
        reference: the float32 reference; it is left as it was found.
        prompts: those of the values.
        kind: of the units.
        start: the reference's values, as recorded.
        end: the candidate's values on the same prompts and positions.
        steps: midpoints of the path.

    Returns:
        Signed, in logits, `[units, prompts]`; below 0 where moving the unit's values lowers the metric.

    Raises:
        ValueError: no steps.
        ModelChangedError: the measurement changed the reference.
    """
    if steps < 1:
        raise ValueError(f"a path needs at least one step, not {steps}.")
    ways = [theirs - ours for ours, theirs in zip(start.in_double(), end.in_double(), strict=True)]
    sums = [np.zeros(way.shape[:2]) for way in ways]
    with reference.unchanged():
        for step in range(steps):
            share = (step + 0.5) / steps
            points = tuple(
                (ours + share * way).astype(np.float32) for ours, way in zip(start.in_double(), ways, strict=True)
            )
            at = Activations(start.index, start.lengths, points)
            gradient = reference.gradient(prompts, kind, at, held=True)[1]
            gradient = gradient if gradient.lengths == start.lengths else gradient.answer_position()
            for added, group, way in zip(sums, gradient.in_double(), ways, strict=True):
                added += (group * way).sum(-1) / steps
    return np.concatenate([start.per_prompt(added) for added in sums])
