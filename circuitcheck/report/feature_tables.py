"""What is said of a dictionary's features beside what is said of every unit, in rows that all media share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitcheck.core.features import LEAST_CORRELATION
from circuitcheck.report.fields import Entry
from circuitcheck.report.numbers import number, number_interval, share
from circuitcheck.report.rows import Cell, Table

NAMED = 2
"""Features that do not survive and are named in one row, those first that were on most."""

CAPTION = (
    "what dictionaries explain of the variance at their hook points, and which of the task's features survive: their "
    f"values correlate by {LEAST_CORRELATION:g} with the reference's on the same tokens"
)

HEADINGS = ("activation ref", "activation cand", "correlation", "difference", "survives")


def features_table(runs: Sequence[Entry]) -> Table:
    """Reconstruction and survival."""
    rows = []
    for run in runs:
        found = run.get("features")
        if not found:
            continue
        explained = ", ".join(
            f"{one['group']} {share(one['explained'])} -> {share(own)}"
            for one, own in zip(found["dictionaries"], found["explained"], strict=True)
        )
        rounding = "" if found["expected"] is None else f" (rounding {number(found['expected'])})"
        lost = [one for one in found["features"] if not one["survives"]]
        lost.sort(key=lambda one: -(one["activation_ref"] or 0.0))
        names = ", ".join(f"{one['unit']} (r {number(one['correlation'])})" for one in lost[:NAMED])
        cells = (explained, f"{found['active']:,}", number_interval(found["surviving"]) + rounding, names or "-")
        rows.append((run, tuple(map(Cell, cells))))
    headings = ("explained ref -> cand", "active", "surviving", "lost, of those on most")
    return Table("Features", CAPTION, headings, rows)


def surviving(run: Mapping[str, Any]) -> str:
    """How many of the task's features survive, in a sentence; empty of other kinds of unit."""
    found = run.get("features")
    if not found:
        return ""
    explained = ", ".join(f"{one['group']} {share(one['explained'])}" for one in found["dictionaries"])
    expected = (
        "" if found["expected"] is None else f"; plain rounding to as many bits leaves {number(found['expected'])}"
    )
    return (
        f"Of {found['active']:,} features {number_interval(found['surviving'])} survive, by a correlation of "
        f"{LEAST_CORRELATION:g}{expected}. What their dictionaries explain of the reference: {explained}."
    )


def feature_rows(run: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Label and what stands under `HEADINGS` of each feature that is listed."""
    found = run.get("features")
    return [
        (
            one["unit"],
            number(one["activation_ref"]),
            number(one["activation_cand"]),
            number(one["correlation"]),
            number(one["difference"]),
            "yes" if one["survives"] else "no",
        )
        for one in (found["features"] if found else ())
    ]
