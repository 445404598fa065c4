"""In which module of which layer damage is, in words and rows that all media share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from circuitcheck.report.fields import Entry
from circuitcheck.report.numbers import number, share
from circuitcheck.report.rows import Cell, Table

SHOWN = 4
"""Modules of a run in one row."""

NAMED = 3
"""Modules that a sentence names."""

CAPTION = (
    "what repairing one attention or MLP alone leaves of what moved the metric; 0 for the place that it all comes from"
)
ELSEWHERE = "the embedding, a norm or the unembedding"


def placed(run: Mapping[str, Any]) -> str:
    """Where the damage comes from, as part of a sentence; empty where nobody looked, and of what passes."""
    placing = run.get("placing")
    if not placing or run["verdict"] == "PASS":
        return ""
    left = share(placing["left"])
    if not placing["culprits"]:
        return f"not even all modules leave less than {left} of it when repaired: it lies elsewhere, in {ELSEWHERE}"
    names, count = placing["culprits"], len(placing["modules"])
    if len(names) == 1:
        return f"it comes from {names[0]}: repairing that alone leaves {left} of it"
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"it comes from {', '.join(names[:NAMED])}{more}, of {count} modules: repairing these leaves {left} of it"


def closest(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The modules of a run, first the one that leaves least when it alone is repaired; undefined ones last."""
    modules = (run.get("placing") or {}).get("modules") or []
    return sorted(modules, key=lambda module: (module["left"] is None, module["left"] or 0.0))


def placing_table(runs: Sequence[Entry]) -> Table:
    """Modules that leave least, of runs that did not pass."""
    rows = []
    for run in runs:
        found = closest(run)[:SHOWN]
        if found and run["verdict"] != "PASS":
            cells = [Cell(f"{module['unit']} {share(module['left'])}") for module in found]
            cells += [Cell("-")] * (SHOWN - len(cells))
            rows.append((run, (*cells, Cell(_together(run["placing"])))))
    headings = ("leaves least", "second", "third", "fourth", "fewest for a fifth")
    return Table("Which module?", CAPTION, headings, rows)


def _together(placing: Mapping[str, Any]) -> str:
    names = placing["culprits"]
    if not names:
        return f"none; all leave {share(placing['left'])}"
    return f"{len(names)} of {len(placing['modules'])} leave {share(placing['left'])}"


def module_rows(run: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, share left, share given back and drift of every module, in order."""
    return [
        (module["unit"], share(module["left"]), number(module["recovery"]["value"]), number(module["drift"]))
        for module in (run.get("placing") or {}).get("modules") or []
    ]
