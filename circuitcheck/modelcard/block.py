"""What a model card says: a table of verdicts, the method in three lines, and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitcheck.report.damage_places import placed
from circuitcheck.report.escape import code, prose
from circuitcheck.report.feature_tables import surviving
from circuitcheck.report.fields import Entry
from circuitcheck.report.markdown import made_with, verdict
from circuitcheck.report.numbers import number, number_interval
from circuitcheck.report.population_rows import chosen
from circuitcheck.report.routing_rows import rerouted
from circuitcheck.report.words import HEAD, kinds_of, label, loosened, task_of

START = "<!-- circuitcheck:start -->"
END = "<!-- circuitcheck:end -->"
SHOWN = ("behaviour_kept", "profile_distance", "ranking_agreement", "drift_median")
"""Criteria of the table; the report has all."""

METHOD = (
    "- Prompts with a known answer and a counterfactual run through the float32 reference and through this model. "
    "Every attention head is ablated in both; its importance is the logit difference lost.\n"
    "- **Behaviour kept** is the share of the reference's solved prompts that are solved here, **profile distance** "
    "the largest change of any head's importance relative to the largest importance, **ranking** the "
    "overlap of the heads' order, **drift** how far a head's output moved.\n"
    "- A verdict is PASS only if the whole interval (95 %, bootstrap over templates) of every criterion lies on the "
    "right side of its limit."
)


def render_block(document: Mapping[str, Any], base: str) -> str:
    """The block with its markers; its lines end in a line feed.

    Args:
        document: the report of the release.
        base: the reference's id.
    """
    runs = document["runs"]
    columns = ["candidate", "task", "verdict", *map(label, SHOWN)]
    rows = [columns, ["---"] * len(columns)]
    for run in runs:
        found = {criterion["name"]: criterion for criterion in run["criteria"]}
        cells = [_with_limit(found.get(name)) for name in SHOWN]
        rows.append([code(run["candidate"]), code(task_of(run)), verdict(run), *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    heading = f"## Does it still compute the same way?\n\nThis release beside its reference, {code(base)}:"
    incomplete = "" if document["complete"] else "\n\n⚠️ The report is not complete: not every task was compared."
    measured = f"Measured with {made_with(document['environment'])}."
    eased = list(dict.fromkeys(prose(loosened(run)) for run in runs if loosened(run)))
    more = [f"{code(task_of(run))}: {prose(text)}" for run in runs for text in _more(run)]
    return "\n\n".join([START, heading + incomplete, table, *eased, *more, _method(runs), measured, END])


def _method(runs: Sequence[Entry]) -> str:
    kinds = kinds_of(runs)
    if kinds == [HEAD]:
        return METHOD
    listed = ", ".join(f"{kind}s" for kind in kinds)
    return METHOD.replace("Every attention head is ablated", f"Units ({listed}) are ablated").replace(
        "head's", "unit's"
    )


def _more(run: Entry) -> list[str]:
    """Which of many units were measured, which features survive, what routers choose, and where damage is."""
    where = placed(run)
    return [text for text in (chosen(run), surviving(run), rerouted(run), where and f"Damage: {where}.") if text]


def _with_limit(criterion: Mapping[str, Any] | None) -> str:
    if criterion is None:
        return "-"
    relation = {"<=": "≤", ">=": "≥"}[criterion["relation"]]
    return f"{number_interval(criterion['value'])} {relation} {number(criterion['limit'])}"
