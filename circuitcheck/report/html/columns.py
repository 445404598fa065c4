"""The units of a run as columns, which the page's script makes maps and tables of when they come into view."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from circuitcheck.report.rows import drift_limit, limit, unit_rows
from circuitcheck.report.words import said_of

DIGITS = 4
"""Significant digits on the page; report.json has six."""

ESTIMATES = ("importance_ref", "importance_cand", "importance_change")
NUMBERS = ("drift", "drift_z", "drift_answer", "cosine", "cosine_answer", "fragility", "repair_gain")


def columns(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """All units of a run, one list a quantity, in the order of the report; None where no unit was measured.

    `*_low` and `*_high` are the ends of an interval, `order` and `broken` hold positions, the most fragile first,
    `names` what stands above the columns of a map, and `scales` what a full colour stands for. `many` says that these
    are some of very many units, of which there is no map.
    """
    units = run.get("units")
    if not units:
        return None
    table: dict[str, Any] = {
        "many": bool(run.get("population")),
        "noun": said_of(run["unit"], "unit"),
        "nouns": said_of(run["unit"], "units"),
    }
    table |= {name: [unit[name] for unit in units] for name in ("unit", "layer", "column", "rank_ref", "rank_cand")}
    for name in ESTIMATES:
        table[name] = [_rounded(unit[name]["value"]) for unit in units]
        for end, suffix in enumerate(("low", "high")):
            table[f"{name}_{suffix}"] = [_rounded(unit[name]["interval"][end]) for unit in units]
    for name in NUMBERS:
        table[name] = [_rounded(unit[name]) for unit in units]
    places = {unit["unit"]: place for place, unit in enumerate(units)}
    rows = unit_rows([dict(run)])
    table["order"] = [places[row.unit["unit"]] for row in rows]
    table["broken"] = sorted(places[row.unit["unit"]] for row in rows if row.is_broken)
    table["names"] = _column_names(units)
    table["scales"] = _scales(run, table)
    return table


def _column_names(units: Iterable[Mapping[str, Any]]) -> list[str]:
    """What the labels of a column's units say besides their layer: `5` of `3.5`, `mlp` of `mlp 3`."""
    names: dict[int, str] = {}
    for unit in units:
        name = re.sub(rf"\b{unit['layer']}\b\.?", "", unit["unit"], count=1).strip()
        names.setdefault(unit["column"], name)
    return [names.get(column, str(column)) for column in range(max(names) + 1)]


def _scales(run: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, float]:
    """What a full colour of each kind of map stands for, so that damage of no account looks pale.

    Importances share one scale. Drift's reaches at least to its limit, and fragility's at least to the change of the
    metric that the limits allow.
    """
    metric = (run.get("metric_ref") or {}).get("value") or 0.0
    return {
        "importance": _largest([*table["importance_ref"], *table["importance_cand"]]) or 1.0,
        "drift": max(_largest(table["drift"]), drift_limit(run) or 0.0) or 1.0,
        "fragility": _rounded(max(_largest(table["fragility"]), abs(metric) * (limit(run, "metric_change") or 0.0)))
        or 1.0,
    }


def _largest(values: list[float | None]) -> float:
    return max((abs(value) for value in values if value is not None), default=0.0)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
