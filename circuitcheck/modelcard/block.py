"""What a model card says: a table of verdicts, the method in three lines, and versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from circuitcheck.report.escape import code, prose
from circuitcheck.report.markdown import WORDS, number

START = "<!-- circuitcheck:start -->"
END = "<!-- circuitcheck:end -->"
SHOWN = {
    "behaviour_kept": "behaviour kept",
    "profile_distance": "profile distance",
    "ranking_agreement": "ranking agreement",
    "drift_median": "drift (median)",
}
"""Criteria of the table; the report has all."""

METHOD = (
    "- Prompts with a known answer and a counterfactual run through the float32 reference and through this model. "
    "Every attention head is ablated in both; its importance is the logit difference lost.\n"
    "- **Behaviour kept** is the share of the reference's solved prompts that are solved here, **profile distance** "
    "the largest change of any head's importance relative to the largest importance, **ranking agreement** the "
    "overlap of the heads' order, **drift** how far a head's output moved.\n"
    "- A verdict is PASS only if the whole 95 % interval (bootstrap over templates) of every criterion lies on the "
    "right side of its limit."
)


def render_block(document: Mapping[str, Any], base: str) -> str:
    """The block with its markers; its lines end in a line feed.

    Args:
        document: the report of the release.
        base: the reference's id.
    """
    runs = document["runs"]
    columns = ["candidate", "task", "verdict", *SHOWN.values()]
    rows = [columns, ["---"] * len(columns)]
    for run in runs:
        found = {criterion["name"]: criterion for criterion in run["criteria"]}
        cells = [_with_limit(found.get(name)) for name in SHOWN]
        rows.append([code(run["candidate"]), code(run["task"]), WORDS[run["verdict"]], *cells])
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    heading = f"## Does it still compute the same way?\n\nThis release beside its reference, {code(base)}:"
    incomplete = "" if document["complete"] else "\n\n⚠️ The report is not complete: not every task was compared."
    return "\n\n".join([START, heading + incomplete, table, METHOD, _versions(document), END])


def _with_limit(criterion: Mapping[str, Any] | None) -> str:
    if criterion is None:
        return "-"
    low, high = (number(end) for end in criterion["interval"])
    relation = {"<=": "≤", ">=": "≥"}[criterion["relation"]]
    return f"{number(criterion['value'])} [{low}, {high}] {relation} {number(criterion['limit'])}"


def _versions(document: Mapping[str, Any]) -> str:
    environment = document["environment"]
    libraries = [f"{name} {version}" for name, version in sorted(environment.get("libraries", {}).items())]
    tools = [f"circuitcheck {environment.get('circuitcheck', '?')}", f"Python {environment.get('python', '?')}"]
    machine = f"on {environment.get('device', '?')} ({environment.get('instruction_set', '?')})"
    return f"Measured with {prose(', '.join([*tools, *libraries]))} {prose(machine)}."
