"""What one candidate's measurement on one task consists of. Values only; nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from circuitcheck.core.census import Census
from circuitcheck.diagnostics.association import Association
from circuitcheck.stats.estimate import Estimate
from circuitcheck.stats.first_order import BoundAudit
from circuitcheck.stats.recovery import Area


@dataclass(frozen=True)
class HeadMeasure:
    """One head of the reference and of the candidate.

    Attributes:
        layer: from 0.
        head: from 0.
        importance_ref: mean of m(clean) - m(ablated) of the reference, in logits.
        importance_cand: the same of the candidate.
        importance_change: candidate minus reference, paired, in logits; its interval holds together with those of all
            other heads.
        rank_ref: 1 for the measured head with the largest |importance| of the reference; None, with importances that
            are NaN, for a head that a screened sweep left out.
        rank_cand: the same of the candidate.
        drift: norm(z_ref - z_cand) / norm(z_ref), dimensionless.
        drift_answer: the same at the answer position alone.
        cosine: of z_ref and z_cand.
        cosine_answer: the same at the answer position alone.
        fragility: mean |g . d|, in logits.
        repair_gain: what the metric changes by when this head alone gets the reference's z, in logits.
        importance_ref_by_kind: kind of ablation to the reference's importance under it; empty for a head that a
            screened sweep left out.
    """

    layer: int
    head: int
    importance_ref: Estimate
    importance_cand: Estimate
    importance_change: Estimate
    rank_ref: int | None
    rank_cand: int | None
    drift: float
    drift_answer: float
    cosine: float
    cosine_answer: float
    fragility: float
    repair_gain: float
    importance_ref_by_kind: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class CurvePoint:
    """Recovery after repairing the first `k` heads of an order; NaN where recovery is undefined."""

    k: int
    recovery: Estimate


@dataclass(frozen=True)
class Repair:
    """What putting the reference's z back gives.

    Attributes:
        damage: mean of m_ref - m_cand, in logits.
        unrepaired: |mean of m_ref - m(all heads repaired)| over the mean of m_ref, dimensionless.
        recovery: share of the damage that repairing all heads gives back; None where there is no resolved damage.
        curves: order to points; empty where there is no resolved damage.
        random: mean over the random orders, and the range of all of them; likewise.
        areas: order to the area under its curve; likewise.
        diagnosis: `no damage`, `unresolved`, `localized`, `distributed` or `collapse`; `damage` where no curves were
            asked for, so that nobody knows where it is.
    """

    damage: Estimate
    unrepaired: Estimate
    recovery: Estimate | None
    curves: dict[str, tuple[CurvePoint, ...]]
    diagnosis: str
    random: tuple[CurvePoint, ...] = ()
    areas: dict[str, Area] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """Agreement of the heads' order by |importance|.

    Attributes:
        agreement: rank-biased overlap.
        ceiling: the reference's own split-half agreement.
        top_k: share of the reference's top 5 heads in the candidate's.
        kendall: tau-b over all heads.
    """

    agreement: Estimate
    ceiling: float
    top_k: float
    kendall: float


@dataclass(frozen=True)
class Circuit:
    """All measures of one candidate on one task that the reference solves.

    Attributes:
        behaviour_kept: share of the reference's solved prompts that the candidate solves.
        metric_change: |mean m_cand / mean m_ref - 1|, dimensionless.
        metric_ref: mean m of the reference, in logits.
        metric_cand: mean m of the candidate, in logits.
        drift_median: median over heads.
        drift_largest: largest over heads.
        profile_distance: max_h |I_cand - I_ref| / max_h |I_ref|.
        ranking: see there.
        repair: see there.
        bound: first-order estimate and bound of the damage.
        associations: kind of ablation to the reference's importance under it against the candidate's drift.
        heads: all of them, in order.
    """

    behaviour_kept: Estimate
    metric_change: Estimate
    metric_ref: Estimate
    metric_cand: Estimate
    drift_median: Estimate
    drift_largest: Estimate
    profile_distance: Estimate
    ranking: Ranking
    repair: Repair
    bound: BoundAudit
    associations: dict[str, Association]
    heads: tuple[HeadMeasure, ...]


@dataclass(frozen=True)
class Measurement:
    """One candidate on one task.

    Attributes:
        model: the reference's name.
        candidate: the candidate's spec or directory name.
        precision: whose limits on drift apply.
        task: the task's name.
        prompts: how many it has.
        solved: how many of them the reference solves.
        part: how many of those drift, repair and gradients use.
        clusters: template clusters among the solved ones.
        inconclusive: why nothing can be said about this task; then `circuit` is None.
        circuit: the measures.
        noise_floor: the reference against itself, by measure.
        fingerprints: SHA-256 of the reference's weights and tokenizer, of the prompts and of the measurement spec.
        census: what the candidate was really loaded as; None where nobody looked.
        batch_size: the most prompts in one forward pass of the candidate; None where there is no limit.
        notes: what a reader must know about how this was measured.
    """

    model: str
    candidate: str
    precision: str
    task: str
    prompts: int
    solved: int
    part: int
    clusters: int
    inconclusive: str | None
    circuit: Circuit | None
    noise_floor: dict[str, float] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    census: Census | None = None
    batch_size: int | None = None
    notes: tuple[str, ...] = ()
