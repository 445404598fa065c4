"""All criteria in one table. Adding a criterion is adding an entry.

The verdict, the suite's tests, limits, JSON, terminal, Markdown, HTML, the model card and docs/report.md read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from circuitcheck.core.results import Circuit, Estimate, Excess, Relation

MATERIAL = 0.1
"""Share of the reference's metric beyond which damage must be recoverable by repairing its units."""

MATERIAL_NATS = 0.1
"""The same where a log-probability is measured: a tenth of the answer's probability."""

Noise = Literal["drift", "ranking_change", "profile_distance", "metric_change"]
"""What is known of the reference against itself."""

SuiteTest = Literal["behaviour", "drift", "importance_ranking", "repair_recovery"]
"""Tests of the suite, without their `test_`."""

Question = Literal["same", "explained"]
"""Is it the same circuit within what matters, and is the difference explained by the precision that it claims?"""


@dataclass(frozen=True)
class Criterion:
    """One question that a candidate has to answer.

    Attributes:
        name: of the criterion, and its key in reports.
        test: the suite's test that holds it.
        read: reads it off the measures; None where it does not apply to them.
        relation: on which side of the limit the value must lie.
        limit: the default limit; None where it depends on the precision, see `circuitcheck.verdict.limits`.
        unit: of value and limit.
        label: what people call it.
        phrase: the same inside a sentence.
        explanation: one line on what it is.
        question: which of the two questions it belongs to.
        noise: what of the reference against itself the limit must exceed (or, for `>=`, leave room for below 1).
        of_part: whether it is measured on the part of the solved prompts that baselines keep z of.
        always: whether it applies to everything that was measured.
        share_of: what the limit is a share of; 1 where it is what it says.
        cannot_tell: why nothing would miss the limit on these measures; empty where something would.
    """

    name: str
    test: SuiteTest
    read: Callable[[Circuit], Estimate | None]
    relation: Relation
    limit: float | None
    unit: str
    label: str
    phrase: str
    explanation: str
    question: Question = "same"
    noise: Noise | None = None
    of_part: bool = False
    always: bool = True
    share_of: Callable[[Circuit], float] = lambda _: 1.0
    cannot_tell: Callable[[Circuit, float], str] = lambda *_: ""

    def __post_init__(self) -> None:
        """Refuses a criterion that no test holds, because it would decide nothing where only tests do."""
        if self.test not in get_args(SuiteTest):
            raise ValueError(f"criterion {self.name}: no test of the suite is called {self.test!r}.")

    @property
    def limit_name(self) -> str:
        """What its limit is called: its own name, and where it is judged in nats another, as that is another limit."""
        return f"{self.name}_nats" if self.unit == "nats" else self.name


def _recovery(circuit: Circuit, material: float) -> Estimate | None:
    """Only where the whole interval of the damage is beyond what is material, in the unit of the metric.

    A share of little is no measure of much: 4-bit weights cost a few hundredths of the metric, partly outside the
    units, and repairing all of them need not give half of that back. What repair leaves is held against a limit in any
    case.
    """
    damage = circuit.repair.damage
    least = 0.0 if damage.low <= 0 <= damage.high else min(abs(damage.low), abs(damage.high))
    return circuit.repair.recovery if least > material else None


def _ceiling(circuit: Circuit) -> float:
    return circuit.ranking.ceiling if math.isfinite(circuit.ranking.ceiling) else 1.0


def _survival_of_rounding(circuit: Circuit) -> float:
    return 1.0 if circuit.features is None or circuit.features.expected is None else circuit.features.expected


def _survival_unknown(circuit: Circuit, _: float) -> str:
    if circuit.features is None or circuit.features.expected is not None:
        return ""
    return (
        "how many features survive is no criterion here: the baseline does not know how many plain rounding to this "
        "precision leaves."
    )


def _any_order_agrees(circuit: Circuit, limit: float) -> str:
    ranking = circuit.ranking
    if ranking.reversed < limit:
        return ""
    return (
        f"ranking is no criterion here: {ranking.ranked} units stand out from the others, and their reversed order "
        f"would still agree by {ranking.reversed:.3g}."
    )


def _where_known(read: Callable[[Excess], Estimate]) -> Callable[[Circuit], Estimate | None]:
    return lambda circuit: None if circuit.excess is None or circuit.features is not None else read(circuit.excess)


def _not_of_features(read: Callable[[Circuit], Estimate]) -> Callable[[Circuit], Estimate | None]:
    """Features are off at most tokens, so that the drift of one is a few tokens'; they are held to their survival."""
    return lambda circuit: None if circuit.features is not None else read(circuit)


CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        name="profile_distance",
        test="importance_ranking",
        read=lambda circuit: circuit.profile_distance,
        relation="<=",
        limit=0.3,
        unit="of the largest importance",
        label="profile distance",
        phrase="the profile distance",
        explanation="largest change of a unit's importance, relative to the largest importance",
        noise="profile_distance",
    ),
    Criterion(
        name="ranking_agreement",
        test="importance_ranking",
        read=lambda circuit: circuit.ranking.agreement,
        relation=">=",
        limit=0.8,
        unit="rank-biased overlap",
        label="ranking",
        phrase="the agreement of the ranking",
        explanation="rank-biased overlap of the units that stand out; its limit is a share of the ceiling",
        noise="ranking_change",
        always=False,
        share_of=_ceiling,
        cannot_tell=_any_order_agrees,
    ),
    Criterion(
        name="behaviour_kept",
        test="behaviour",
        read=lambda circuit: circuit.behaviour_kept,
        relation=">=",
        limit=0.9,
        unit="share of prompts",
        label="behaviour kept",
        phrase="the share of behaviour kept",
        explanation="share of the reference's solved prompts that the candidate solves too",
    ),
    Criterion(
        name="metric_change",
        test="behaviour",
        read=lambda circuit: circuit.metric_change,
        relation="<=",
        limit=0.2,
        unit="of the reference's logit difference",
        label="metric change",
        phrase="the change of the metric",
        explanation="relative change of the mean logit difference between answer and foil",
        noise="metric_change",
    ),
    Criterion(
        name="unrepaired",
        test="repair_recovery",
        read=lambda circuit: circuit.repair.unrepaired,
        relation="<=",
        limit=0.2,
        unit="of the reference's logit difference",
        label="unrepaired",
        phrase="the unrepaired share",
        explanation="what stays of the damage when every unit gets the reference's write",
        noise="metric_change",
        of_part=True,
    ),
    Criterion(
        name="recovery",
        test="repair_recovery",
        read=lambda circuit: _recovery(circuit, MATERIAL * abs(circuit.metric_ref.value)),
        relation=">=",
        limit=0.5,
        unit="share of the damage",
        label="recovery",
        phrase="recovery by repair",
        explanation="share of the damage that giving every unit the reference's write undoes",
        of_part=True,
        always=False,
    ),
    Criterion(
        name="excess",
        test="drift",
        read=_where_known(lambda excess: excess.pooled),
        relation="<=",
        limit=1.2,
        unit="times rounding's drift",
        label="drift beside rounding",
        phrase="the drift beside plain rounding",
        explanation="how far what all units write has moved, in times what plain rounding to as many bits does here",
        question="explained",
        of_part=True,
        always=False,
    ),
    Criterion(
        name="excess_layer",
        test="drift",
        read=_where_known(lambda excess: excess.layer),
        relation="<=",
        limit=1.25,
        unit="times rounding's drift",
        label="worst layer",
        phrase="the worst layer's drift beside plain rounding",
        explanation="the same of the layer where it is largest",
        question="explained",
        of_part=True,
        always=False,
    ),
    Criterion(
        name="excess_unit",
        test="drift",
        read=_where_known(lambda excess: excess.unit),
        relation="<=",
        limit=1.5,
        unit="times rounding's drift",
        label="worst unit",
        phrase="the worst unit's drift beside plain rounding",
        explanation="the same of the unit where it is largest",
        question="explained",
        of_part=True,
        always=False,
    ),
    Criterion(
        name="features_surviving",
        test="drift",
        read=lambda circuit: None if circuit.features is None else circuit.features.surviving,
        cannot_tell=_survival_unknown,
        relation=">=",
        limit=0.85,
        unit="share of the task's features",
        label="features surviving",
        phrase="the share of features that survive",
        explanation="share of the task's features that correlate by 0.9 with the reference's; its limit is a share of "
        "what plain rounding to as many bits leaves",
        question="explained",
        of_part=True,
        always=False,
        share_of=_survival_of_rounding,
    ),
    Criterion(
        name="drift_median",
        test="drift",
        read=_not_of_features(lambda circuit: circuit.drift_median),
        relation="<=",
        limit=None,
        unit="relative norm",
        label="drift, median",
        phrase="the median drift",
        explanation="how far what the median unit writes has moved, read in logits, relative to its norm",
        question="explained",
        noise="drift",
        of_part=True,
        always=False,
    ),
    Criterion(
        name="drift_largest",
        test="drift",
        read=_not_of_features(lambda circuit: circuit.drift_largest),
        relation="<=",
        limit=None,
        unit="relative norm",
        label="drift, largest",
        phrase="the largest drift",
        explanation="how far what the most moved unit writes has moved, read in logits, relative to its norm",
        question="explained",
        noise="drift",
        of_part=True,
        always=False,
    ),
)

BY_NAME = {criterion.name: criterion for criterion in CRITERIA}

BY_METRIC = {
    "log_probability": {
        "metric_change": replace(
            BY_NAME["metric_change"],
            limit=0.2,
            unit="nats",
            explanation="change of the mean log-probability of the answer",
        ),
        "unrepaired": replace(BY_NAME["unrepaired"], limit=0.2, unit="nats"),
        "recovery": replace(BY_NAME["recovery"], read=lambda circuit: _recovery(circuit, MATERIAL_NATS)),
    }
}
"""Metric to the criteria that are another question where it is measured.

The log-probability of an answer that the reference is sure of is near 0, so that a change relative to it means nothing:
the embedded model's is -0.017 on ioi and -0.006 on facts. In nats, 0.2 is a factor of 1.22 in the answer's probability
and 0.1 one of 1.1, whatever it was before. Rounding to 3 bits changes the embedded model's by 0.016 and 0.006, and to 2
bits, which leaves little of the circuit, by 1.6 and 1.0.
"""


def criteria_for(metric: str) -> tuple[Criterion, ...]:
    """All criteria, as they are held where that is measured of a prompt."""
    own = BY_METRIC.get(metric, {})
    return tuple(own.get(criterion.name, criterion) for criterion in CRITERIA)


def names_of(test: SuiteTest) -> tuple[str, ...]:
    """The criteria that one test of the suite holds."""
    return tuple(criterion.name for criterion in CRITERIA if criterion.test == test)
