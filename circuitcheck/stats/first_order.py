"""First-order damage: what the reference's gradient says that moving `z` costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from circuitcheck.core.activations import ZCache
from circuitcheck.core.errors import BaselineError
from circuitcheck.stats.caches import check_comparable, first_not_finite, layers_of, per_prompt
from circuitcheck.stats.estimate import rounding_slack


@dataclass(frozen=True)
class FirstOrder:
    """First-order damage of every head and prompt, with g = dm/dz of the reference and d = z_cand - z_ref.

    Attributes:
        per_head: g . d summed over positions, signed, in logits, `[heads, prompts]`; below 0 where moving the head's
            `z` lowers the metric.
        bound_per_head: norm(g) norm(d) summed over positions, in logits, `[heads, prompts]`.
    """

    per_head: np.ndarray
    bound_per_head: np.ndarray


@dataclass(frozen=True)
class PerPrompt:
    """Degradation and what the first order says of it, in logits, each `[prompts]`.

    Attributes:
        degradation: m_ref - m_cand, signed: above 0 where the candidate lost.
        estimate: what the first order says that it is, of the same sign.
        bound: the sum over heads of norm(g) norm(d), from 0 up.
    """

    degradation: tuple[float, ...]
    estimate: tuple[float, ...]
    bound: tuple[float, ...]


@dataclass(frozen=True)
class Integrated:
    """What integrated gradients say of the degradation.

    Attributes:
        estimate: mean over prompts of |integrated gradient . d|, in logits.
        relative_error: as in `BoundAudit`, of this estimate.
    """

    estimate: float
    relative_error: float


@dataclass(frozen=True)
class BoundAudit:
    """Measured degradation beside what the first order says of it.

    Attributes:
        degradation: mean over prompts of |m_ref - m_cand|, in logits.
        estimate: mean over prompts of |sum over heads of g . d|, in logits.
        bound: mean over prompts of the sum over heads of norm(g) norm(d), in logits.
        coverage: share of prompts whose degradation is within the bound.
        looseness: median of bound / degradation over the prompts that degrade by more than rounding; NaN if none do.
        violated: whether any prompt degrades by more than its bound, or cannot be said not to.
        relative_error: mean |estimate - degradation| over mean |degradation|, both signed per prompt; 0 for an estimate
            that is right on every prompt, about 1 for one that says nothing; NaN if nothing degrades.
        per_prompt: what the means are taken of.
        integrated: a second opinion that needs the reference; None where it was not at hand.
    """

    degradation: float
    estimate: float
    bound: float
    coverage: float
    looseness: float
    violated: bool
    relative_error: float
    per_prompt: PerPrompt
    integrated: Integrated | None = None


def first_order(gradient: ZCache, reference: ZCache, candidate: ZCache) -> FirstOrder:
    """First-order damage from three caches of the same prompts, heads in the order of layers and of heads.

    Only the first order, only through attention heads: damage by embeddings, MLPs and norms is not in it, and a
    deviation that travels through later heads counts in each of them. So the bound can fail, and is audited.

    Args:
        gradient: total derivative of the metric with respect to the reference's `z`, in logits per unit of z.
        reference: the reference's `z`.
        candidate: the candidate's `z`.

    Raises:
        CandidateError: as in `drift_sums`.
        BaselineError: the reference or the gradient holds NaN or infinite values, or the gradient is not of the
            reference's prompts, lengths and shapes.
    """
    check_comparable(reference, candidate)
    if _layout(gradient) != _layout(reference) or first_not_finite(gradient):
        raise BaselineError("the recorded gradient is not finite, or not of the recorded z; record the baseline again.")
    estimates, bounds = [], []
    for g, ours, theirs in zip(layers_of(gradient), layers_of(reference), layers_of(candidate), strict=True):
        d = theirs - ours
        norms = np.linalg.norm(g, axis=-1) * np.linalg.norm(d, axis=-1)
        estimates.append(per_prompt((g * d).sum(-1), reference))
        bounds.append(per_prompt(norms, reference))
    return FirstOrder(np.concatenate(estimates), np.concatenate(bounds))


def fragility(damage: FirstOrder) -> np.ndarray:
    """Mean over prompts of |g . d| of each head, in logits, `[heads]`."""
    return np.asarray(np.abs(damage.per_head).mean(-1))


def audit(
    damage: FirstOrder,
    metric_reference: np.ndarray,
    metric_candidate: np.ndarray,
    integrated: np.ndarray | None = None,
) -> BoundAudit:
    """Holds the first order against what was measured.

    Args:
        damage: of the same prompts, in the same order.
        metric_reference: m of the reference in logits, `[prompts]`.
        metric_candidate: m of the candidate in logits, `[prompts]`.
        integrated: integrated gradients times d of every head, in logits, `[heads, prompts]`.

    Raises:
        ValueError: metrics, or integrated gradients, of another number of prompts.
    """
    reference, candidate = np.asarray(metric_reference, np.float64), np.asarray(metric_candidate, np.float64)
    also = damage.per_head if integrated is None else np.asarray(integrated, np.float64)
    if not reference.shape == candidate.shape == damage.per_head.shape[1:] == also.shape[1:]:
        raise ValueError(
            f"metrics of shapes {reference.shape} and {candidate.shape} do not fit {damage.per_head.shape[1]} prompts."
        )
    with np.errstate(invalid="ignore"):
        lost = reference - candidate
    degradation = np.abs(lost)
    estimates, bounds, slack = -damage.per_head.sum(0), damage.bound_per_head.sum(0), rounding_slack(reference)
    holds = degradation <= bounds + slack  # False for NaN: what was not measured is not covered
    degraded = degradation > slack
    return BoundAudit(
        degradation=float(degradation.mean()),
        estimate=float(np.abs(estimates).mean()),
        bound=float(bounds.mean()),
        coverage=float(holds.mean()),
        looseness=float(np.median(bounds[degraded] / degradation[degraded])) if degraded.any() else float("nan"),
        violated=not holds.all(),
        relative_error=_relative_error(estimates, lost, slack),
        per_prompt=PerPrompt(*(tuple(map(float, values)) for values in (lost, estimates, bounds))),
        integrated=None if integrated is None else _integrated(-also.sum(0), lost, slack),
    )


def _integrated(estimates: np.ndarray, lost: np.ndarray, slack: np.ndarray) -> Integrated:
    return Integrated(float(np.abs(estimates).mean()), _relative_error(estimates, lost, slack))


def _relative_error(estimates: np.ndarray, lost: np.ndarray, slack: np.ndarray) -> float:
    """Mean |estimate - lost| over mean |lost|; NaN where nothing is lost but by rounding."""
    size = np.abs(lost).mean()
    return float(np.abs(estimates - lost).mean() / size) if size > slack.mean() else float("nan")


def _layout(cache: ZCache) -> tuple[object, ...]:
    return cache.index, cache.lengths, [layer.shape for layer in cache.layers]
