"""What is said of all units of a kind that has too many to measure each, in words and rows that all media share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitcheck.report.fields import Entry
from circuitcheck.report.numbers import number
from circuitcheck.report.rows import Cell, Table
from circuitcheck.report.words import said_of

MOVERS = 2
"""Units that were not measured and are named in one row."""

CAPTION = (
    "all units at the answer position: how far what a layer's write has moved, and the median correlation of both sides"
)


def chosen(run: Mapping[str, Any]) -> str:
    """Which of many units were measured, and what that may have missed; empty where all were."""
    found = run.get("population")
    if not found:
        return ""
    low, high = found["missed_interval"]
    return said_of(
        run["unit"],
        f"{found['top']:,} of {found['units']:,} units were measured, those to which the reference's gradients point. "
        f"Of the others {_count(found['missed'])} are estimated to matter (by at least {number(found['important'])} "
        f"logits), 95 % interval {_count(low)} to {_count(high)}, by {found['sample']:,} that were ablated at random.",
    )


def population_table(runs: Sequence[Entry]) -> Table:
    """Drift and correlation of all units by layer, and what moved most of what was not measured."""
    known = [run for run in runs if run.get("population")]
    rows = []
    for run in known:
        found = run["population"]
        layers = sorted(found["layers"], key=lambda layer: -(layer["drift"] or 0.0))
        worst = f"layer {layers[0]['layer']} {number(layers[0]['drift'])}"
        least = min((layer["correlation"] for layer in layers if layer["correlation"] is not None), default=None)
        names = ", ".join(f"{one['unit']} ({number(one['move'])})" for one in found["movers"][:MOVERS])
        missed = f"{_count(found['missed'])} [{', '.join(map(_count, found['missed_interval']))}]"
        cells = (f"{found['top']} of {found['units']:,}", missed, worst, number(least), names or "-")
        rows.append((run, tuple(map(Cell, cells))))
    headings = ("measured", "missed that matter", "most drift", "least correlation", "moved most of the others, logits")
    return Table("Of many, some", said_of({run["unit"] for run in known}, CAPTION), headings, rows)


def _count(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
