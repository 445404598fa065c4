"""First-order damage: what the reference's gradient says that moving units costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitcheck.core.activations import Activations, require_comparable
from circuitcheck.core.errors import BaselineError


@dataclass(frozen=True)
class FirstOrder:
    """First-order damage of every unit and prompt, with g = dm/dz of the reference and d = z_cand - z_ref.

    Attributes:
        per_unit: g . d summed over positions, signed, in logits, `[units, prompts]`; below 0 where moving the unit's
            values lowers the metric.
        bound_per_unit: norm(g) norm(d) summed over positions, in logits, `[units, prompts]`.
    """

    per_unit: np.ndarray
    bound_per_unit: np.ndarray


def first_order(gradient: Activations, reference: Activations, candidate: Activations) -> FirstOrder:
    """First-order damage of the same prompts, units in the order of the layout.

    Only the first order, only through the units that are measured: damage elsewhere is not in it, and a
    deviation that travels through later units counts in each of them. So the bound can fail, and is audited.

    Args:
        gradient: total derivative of the metric with respect to the reference's values, in logits per unit of them.
        reference: the reference's values.
        candidate: the candidate's values.

    Raises:
        CandidateError: as in `drift_sums`.
        BaselineError: the reference or the gradient holds NaN or infinite values, or the gradient is not of the
            reference's prompts, lengths and shapes.
    """
    require_comparable(reference, candidate)
    if _form(gradient) != _form(reference) or gradient.first_not_finite():
        raise BaselineError("the recorded gradient is not finite, or not of the recorded z; record the baseline again.")
    estimates, bounds = [], []
    for g, ours, theirs in zip(gradient.in_double(), reference.in_double(), candidate.in_double(), strict=True):
        d = theirs - ours
        norms = np.linalg.norm(g, axis=-1) * np.linalg.norm(d, axis=-1)
        estimates.append(reference.per_prompt((g * d).sum(-1)))
        bounds.append(reference.per_prompt(norms))
    return FirstOrder(np.concatenate(estimates), np.concatenate(bounds))


def fragility(damage: FirstOrder) -> np.ndarray:
    """Mean over prompts of |g . d| of each unit, in logits, `[units]`."""
    return np.asarray(np.abs(damage.per_unit).mean(-1))


def _form(values: Activations) -> tuple[object, ...]:
    return values.index, values.lengths, [group.shape for group in values.groups]
