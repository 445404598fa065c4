"""What measuring and judging give. Values only; nothing here computes, and reports are made by converting these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import nan
from typing import Any, Literal

from circuitcheck.core.census import Census
from circuitcheck.core.features import FeaturesMeasure
from circuitcheck.core.intervals import Estimate as Estimate
from circuitcheck.core.modules import Placing
from circuitcheck.core.population import PopulationMeasure
from circuitcheck.core.routes import RoutingMeasure

Word = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Relation = Literal["<=", ">="]


UNKNOWN = Estimate(nan, nan, nan)


@dataclass(frozen=True)
class UnitMeasure:
    """One unit of the reference and of the candidate.

    Attributes:
        unit: its label, such as `3.5` for a head.
        layer: from 0.
        column: its place among the units of its layer, from 0; for a head its number.
        importance_ref: mean of m(clean) - m(ablated) of the reference, in logits; NaN, as all about importance, for a
            unit that a screened sweep left out.
        importance_cand: the same of the candidate.
        importance_change: candidate minus reference, paired, in logits; its interval holds together with those of all
            other units.
        profile_change: the same relative to the largest |importance_ref| of any unit, dimensionless; its interval
            knows that this scale is uncertain, too.
        rank_ref: 1 for the measured unit with the largest |importance| of the reference; None if it was left out.
        rank_cand: the same of the candidate.
        drift: norm(w_ref - w_cand) / norm(w_ref) of what it writes, read in logits, dimensionless.
        move: root mean square over prompts of norm(w_ref - w_cand), in logits.
        drift_z: as `drift`, of its values, in the coordinates that each model keeps them in.
        drift_answer: as `drift`, at the answer position alone.
        cosine: of w_ref and w_cand.
        cosine_answer: the same at the answer position alone.
        fragility: mean |g . d|, in logits.
        repair_gain: what the metric changes by when this unit alone gets the reference's write, in logits; NaN where
            there is no damage to repair.
        importance_ref_by_kind: kind of ablation to the reference's importance under it.
    """

    unit: str
    layer: int
    column: int
    importance_ref: Estimate
    importance_cand: Estimate
    importance_change: Estimate
    profile_change: Estimate
    rank_ref: int | None
    rank_cand: int | None
    drift: float
    move: float
    drift_z: float
    drift_answer: float
    cosine: float
    cosine_answer: float
    fragility: float
    repair_gain: float
    importance_ref_by_kind: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Basis:
    """In which coordinates a candidate keeps its units, beside the reference's.

    Attributes:
        source: what writes are read through: `unembedding`, `embedding` or `sketch`; the last does not turn with a
            rotated residual stream, so that such a rotation looks like damage.
        tokens: how many of its rows are read.
        changed: units whose values moved clearly further than what they write: they are kept in other coordinates.
        largest_drift_z: the furthest that values of these have moved, relative; 0 where there are none.
        largest_drift: the furthest that what these write has moved, relative; likewise.
        renumbered: label of a unit of the reference to that of the candidate's unit which plays its part, where the
            numbers differ.
        unread: the largest share of a unit's write that cannot be said in the reference's coordinates; where the
            reference writes more, a share of that.
    """

    source: str
    tokens: int
    changed: tuple[str, ...]
    largest_drift_z: float
    largest_drift: float
    renumbered: Mapping[str, str]
    unread: float


@dataclass(frozen=True)
class Excess:
    """How far what units write has moved, in times what plain rounding to the same precision moves the reference's.

    Attributes:
        precision: whose rounding.
        pooled: of all units together.
        layer: of the layer where it is largest.
        unit: of the unit where it is largest.
        layers: of each layer, from 0 on.
        units: of each unit, in order.
        worst_unit: label of the unit where it is largest.
    """

    precision: str
    pooled: Estimate
    layer: Estimate
    unit: Estimate
    layers: tuple[float, ...]
    units: tuple[float, ...]
    worst_unit: str

    @property
    def worst_layer(self) -> int:
        """The layer where it is largest."""
        return max(range(len(self.layers)), key=lambda layer: self.layers[layer])


@dataclass(frozen=True)
class CurvePoint:
    """Recovery after repairing the first `k` units of an order; NaN where recovery is undefined."""

    k: int
    recovery: Estimate


@dataclass(frozen=True)
class Area:
    """The area under a repair curve.

    Attributes:
        value: mean recovery from one unit to all.
        over_random: how much of it the random orders do not have: 0 where the order finds the damage no sooner than
            chance. Its interval is over prompts and over random orders.
    """

    value: float
    over_random: Estimate


@dataclass(frozen=True)
class Repair:
    """What giving units the reference's write gives back.

    Attributes:
        diagnosis: `no damage`, `unresolved`, `localized`, `distributed` or `collapse`, in whose place `elsewhere`
            stands where only some of many units can be repaired; `damage` where no curves were asked for, so that
            nobody knows where it is.
        damage: mean of m_ref - m_cand, in logits.
        recovery: share of the damage that repairing all units gives back; None where there is no resolved damage, or
            where only some of many units can be repaired.
        unrepaired: |mean of m_ref - m(all units repaired)| over the mean of m_ref, dimensionless; in nats likewise.
        curves: order to points; empty where there is no resolved damage.
        random: mean over the random orders, and the range of all of them; likewise.
        areas: order to the area under its curve; likewise.
    """

    diagnosis: str
    damage: Estimate
    recovery: Estimate | None
    unrepaired: Estimate
    curves: dict[str, tuple[CurvePoint, ...]] = field(default_factory=dict)
    random: tuple[CurvePoint, ...] = ()
    areas: dict[str, Area] = field(default_factory=dict)


@dataclass(frozen=True)
class Ranking:
    """Agreement of the units' order by |importance|.

    Attributes:
        agreement: rank-biased overlap.
        ceiling: the reference's own split-half agreement; NaN with one prompt.
        ranked: how many of the reference's units stand out: their importance can be told from zero, and is not
            negligible beside the largest. All others are ties at the bottom.
        reversed: how far the reversed order of these would agree.
        top_5: share of the reference's top 5 units in the candidate's.
        kendall_tau_b: over all units.
    """

    agreement: Estimate
    ceiling: float
    ranked: int
    reversed: float
    top_5: float
    kendall_tau_b: float


@dataclass(frozen=True)
class Association:
    """Importance against drift: are important units more fragile?

    Attributes:
        raw: Spearman's rho of |importance| and drift over all units, dimensionless.
        within_layers: the same with ranks inside each layer, centred, and pooled: Pearson's r of the ranks.
        p_within_layers: two-sided p of that from shuffling inside layers.
        between_layers_share: share of drift's variance over units that lies between layers, from 0 to 1.
    """

    raw: Estimate
    within_layers: Estimate
    p_within_layers: float
    between_layers_share: float


@dataclass(frozen=True)
class PerPrompt:
    """Degradation and what the first order says of it, in logits, each `[prompts]`.

    Attributes:
        degradation: m_ref - m_cand, signed: above 0 where the candidate lost.
        estimate: what the first order says that it is, of the same sign.
        bound: the sum over units of norm(g) norm(d), from 0 up.
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
        estimate: mean over prompts of |sum over units of g . d|, in logits.
        bound: mean over prompts of the sum over units of norm(g) norm(d), in logits.
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


@dataclass(frozen=True)
class Circuit:
    """All measures of one candidate on one task that the reference solves.

    Attributes:
        kl_divergence: of the next token, mean over solved prompts, in nats; None where the model predicts no tokens.
        changed_answers: share of solved prompts whose likeliest next token is another; likewise.
        behaviour_kept: share of the reference's solved prompts that the candidate solves.
        metric_change: |mean m_cand / mean m_ref - 1|, dimensionless; of a log-probability the difference, in nats.
        metric_ref: mean m of the reference, in logits.
        metric_cand: mean m of the candidate, in logits.
        drift: of all units together: of the root of the sums of squares.
        drift_median: median over units.
        drift_largest: largest over units.
        excess: what of the drift plain rounding explains; None where it is not known what that does to this reference.
        profile_distance: max_u |I_cand - I_ref| / max_u |I_ref|.
        ranking: see there.
        repair: see there.
        bound: first-order estimate and bound of the damage.
        associations: kind of ablation to the reference's importance under it against the candidate's drift.
        basis: in which coordinates the candidate keeps its units.
        units: all of them, in order; of a kind that has too many, those that were measured.
        population: all units of such a kind; else None.
        features: which of a task's features survive; None of other kinds of unit.
        placing: in which module of which layer the damage is; None where there is none, or nobody asked.
        routing: which experts of a mixture tokens are given to; None where there are none, or that is not shown.
    """

    kl_divergence: Estimate | None
    changed_answers: Estimate | None
    behaviour_kept: Estimate
    metric_change: Estimate
    metric_ref: Estimate
    metric_cand: Estimate
    drift: Estimate
    drift_median: Estimate
    drift_largest: Estimate
    excess: Excess | None
    profile_distance: Estimate
    ranking: Ranking
    repair: Repair
    bound: BoundAudit
    associations: dict[str, Association]
    basis: Basis
    units: tuple[UnitMeasure, ...]
    population: PopulationMeasure | None = None
    placing: Placing | None = None
    features: FeaturesMeasure | None = None
    routing: RoutingMeasure | None = None


@dataclass(frozen=True)
class Measurement:
    """One candidate on one task.

    Attributes:
        model: the reference's name.
        candidate: the candidate's spec or directory name.
        precision: whose limits on drift apply.
        task: the task's name.
        unit: the kind of unit that was measured, such as `head`.
        metric: what was measured of a prompt.
        prompts: how many the task has.
        solved: how many of them the reference solves.
        part: how many of those drift, repair and gradients use.
        clusters: template clusters among the solved ones.
        inconclusive: why nothing can be said about this task; then `circuit` is None.
        circuit: the measures.
        noise_floor: the reference against itself, by measure.
        fingerprints: SHA-256 of the reference's weights and tokenizer, of the prompts and of the measurement spec.
        environment: what executed the candidate: versions, device, instruction set.
        census: what the candidate was really loaded as; None where nobody looked.
        batch_size: the most prompts in one forward pass of the candidate; None where there is no limit.
        notes: what a reader must know about how this was measured.
    """

    model: str
    candidate: str
    precision: str
    task: str
    unit: str
    metric: str
    prompts: int
    solved: int
    part: int
    clusters: int
    inconclusive: str | None
    circuit: Circuit | None
    noise_floor: dict[str, float] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    census: Census | None = None
    batch_size: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Judgement:
    """One measure held against one limit.

    Attributes:
        name: of the criterion, and of the limit.
        value: what was measured, with its interval.
        relation: on which side of the limit the value must lie.
        limit: the limit.
        unit: of value and limit.
        verdict: PASS where the whole interval is on the right side, FAIL where it is on the wrong side.
        message: what a reader of a red build needs to know; empty for PASS.
    """

    name: str
    value: Estimate
    relation: Relation
    limit: float
    unit: str
    verdict: Word
    message: str


@dataclass(frozen=True)
class Loosened:
    """A limit that lets in more than its default.

    Attributes:
        name: of the criterion.
        relation: on which side of the limit the value must lie.
        limit: that was held.
        default: that would hold if nobody had said anything.
    """

    name: str
    relation: Relation
    limit: float
    default: float


@dataclass(frozen=True)
class Verdict:
    """All criteria of one candidate on one task.

    Attributes:
        measurement: what was judged.
        word: FAIL if any criterion fails, else INCONCLUSIVE if any is, else PASS.
        criteria: every judgement; empty where the task itself is inconclusive.
        message: why there are none; empty where there are.
        broken: units whose importance has moved beyond the limit on profile distance, with the whole interval that
            holds for all units at once; and units whose change is not finite. By label.
        untold: why criteria were left out that could not tell anything here.
        loosened: limits that let in more than the defaults do.
    """

    measurement: Measurement
    word: Word
    criteria: tuple[Judgement, ...]
    message: str = ""
    broken: tuple[str, ...] = ()
    untold: tuple[str, ...] = ()
    loosened: tuple[Loosened, ...] = ()
