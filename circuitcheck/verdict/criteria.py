"""All criteria in one table. Adding a criterion is adding an entry.

The verdict, the suite's tests, limits, JSON, terminal, Markdown, HTML, the model card and docs/report.md read it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from circuitcheck.core.results import Circuit, Estimate, Relation

MATERIAL = 0.1
"""Share of the reference's metric beyond which damage must be recoverable by repairing its units."""

Noise = Literal["drift", "ranking_change", "profile_distance", "metric_change"]
"""What is known of the reference against itself."""


@dataclass(frozen=True)
class Criterion:
    """One question that a candidate has to answer.

    Attributes:
        name: of the criterion, its limit, and its key in reports.
        read: reads it off the measures; None where it does not apply to them.
        relation: on which side of the limit the value must lie.
        limit: the default limit.
        unit: of value and limit.
        noise: what of the reference against itself the limit must exceed (or, for `>=`, leave room for below 1).
        of_part: whether it is measured on the part of the solved prompts that baselines keep z of.
        label: what people call it.
        phrase: the same inside a sentence.
        explanation: one line on what it is.
    """

    name: str
    read: Callable[[Circuit], Estimate | None]
    relation: Relation
    limit: float
    unit: str
    noise: Noise | None
    of_part: bool
    label: str
    phrase: str
    explanation: str


def _recovery(circuit: Circuit) -> Estimate | None:
    """Only where the whole interval of the damage is beyond a share of the reference's metric.

    A share of little is no measure of much: 4-bit weights cost a few hundredths of the metric, partly outside the
    units, and repairing all of them need not give half of that back. What repair leaves is held against a limit in any
    case.
    """
    damage = circuit.repair.damage
    least = 0.0 if damage.low <= 0 <= damage.high else min(abs(damage.low), abs(damage.high))
    return circuit.repair.recovery if least > MATERIAL * abs(circuit.metric_ref.value) else None


CRITERIA: tuple[Criterion, ...] = (
    Criterion(
        name="behaviour_kept",
        read=lambda circuit: circuit.behaviour_kept,
        relation=">=",
        limit=0.9,
        unit="share of prompts",
        noise=None,
        of_part=False,
        label="behaviour kept",
        phrase="the share of behaviour kept",
        explanation="share of the reference's solved prompts that the candidate solves too",
    ),
    Criterion(
        name="metric_change",
        read=lambda circuit: circuit.metric_change,
        relation="<=",
        limit=0.2,
        unit="of the reference's logit difference",
        noise="metric_change",
        of_part=False,
        label="metric change",
        phrase="the change of the metric",
        explanation="relative change of the mean logit difference between answer and foil",
    ),
    Criterion(
        name="drift_median",
        read=lambda circuit: circuit.drift_median,
        relation="<=",
        limit=0.2,
        unit="relative norm",
        noise="drift",
        of_part=True,
        label="drift, median",
        phrase="the median drift",
        explanation="how far the z of the median unit moved, relative to its norm",
    ),
    Criterion(
        name="drift_largest",
        read=lambda circuit: circuit.drift_largest,
        relation="<=",
        limit=0.8,
        unit="relative norm",
        noise="drift",
        of_part=True,
        label="drift, largest",
        phrase="the largest drift",
        explanation="how far the z of the unit that moved most did, relative to its norm",
    ),
    Criterion(
        name="ranking_agreement",
        read=lambda circuit: circuit.ranking.agreement,
        relation=">=",
        limit=0.8,
        unit="rank-biased overlap",
        noise="ranking_change",
        of_part=False,
        label="ranking",
        phrase="the agreement of the ranking",
        explanation="rank-biased overlap of the units by importance; 1 is the same order",
    ),
    Criterion(
        name="profile_distance",
        read=lambda circuit: circuit.profile_distance,
        relation="<=",
        limit=0.3,
        unit="of the largest importance",
        noise="profile_distance",
        of_part=False,
        label="profile distance",
        phrase="the profile distance",
        explanation="largest change of a unit's importance, relative to the largest importance",
    ),
    Criterion(
        name="unrepaired",
        read=lambda circuit: circuit.repair.unrepaired,
        relation="<=",
        limit=0.1,
        unit="of the reference's logit difference",
        noise="metric_change",
        of_part=True,
        label="unrepaired",
        phrase="the unrepaired share",
        explanation="what stays of the damage when every unit gets the reference's z",
    ),
    Criterion(
        name="recovery",
        read=_recovery,
        relation=">=",
        limit=0.5,
        unit="share of the damage",
        noise=None,
        of_part=True,
        label="recovery",
        phrase="recovery by repair",
        explanation="share of the damage that giving every unit the reference's z undoes",
    ),
)

BY_NAME = {criterion.name: criterion for criterion in CRITERIA}
