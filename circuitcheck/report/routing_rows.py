"""What is said of the router's choice among the experts of a mixture, in rows that all media share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitcheck.report.fields import Entry
from circuitcheck.report.numbers import number_interval, share
from circuitcheck.report.rows import Cell, Table

NAMED = 3
"""Experts that are named in one row, those first whose share of the tokens moved most."""

CAPTION = "for which tokens not all chosen experts are the reference's, and which experts get more or fewer of them"

HEADINGS = ("layer", "changed", "share of tokens by expert, reference", "candidate")


def routing_table(runs: Sequence[Entry]) -> Table:
    """The router's choice, over all layers and where it changed most."""
    rows = []
    for run in runs:
        found = run.get("routing")
        if not found:
            continue
        worst = max(found["layers"], key=lambda one: one["changed"])
        moved = [
            (abs(after - before), f"layer {one['layer']} expert {number} {share(before)} -> {share(after)}")
            for one in found["layers"]
            for number, (before, after) in enumerate(zip(one["reference"], one["candidate"], strict=True))
        ]
        names = ", ".join(text for size, text in sorted(moved, key=lambda pair: -pair[0])[:NAMED] if size)
        cells = (
            f"{found['tokens']:,}",
            number_interval(found["changed"]),
            f"layer {worst['layer']} {share(worst['changed'])}" if worst["changed"] else "-",
            names or "-",
        )
        rows.append((run, tuple(map(Cell, cells))))
    headings = ("tokens", "share changed", "most", "share of an expert that moved most")
    return Table("The router's choice", CAPTION, headings, rows)


def rerouted(run: Mapping[str, Any]) -> str:
    """How often other experts are chosen, in a sentence; nothing of a model without routers."""
    found = run.get("routing")
    if not found:
        return ""
    return f"Its routers choose other experts for {number_interval(found['changed'])} of {found['tokens']:,} tokens."


def routing_rows(run: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """What stands under `HEADINGS` of each layer."""
    found = run.get("routing")
    return [
        (
            str(one["layer"]),
            share(one["changed"]),
            " ".join(map(share, one["reference"])),
            " ".join(map(share, one["candidate"])),
        )
        for one in (found["layers"] if found else ())
    ]
