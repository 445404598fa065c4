"""The heads of a run as columns, which the page's script makes maps and tables of when they come into view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DIGITS = 4
"""Significant digits on the page; report.json has six."""

ESTIMATES = ("importance_ref", "importance_cand", "importance_change")
NUMBERS = ("drift", "drift_answer", "cosine", "cosine_answer", "fragility", "repair_gain")


def columns(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """All heads of a run, one list a quantity, in the order of the report; None where no head was measured.

    `*_low` and `*_high` are the ends of an interval, `broken` holds positions, `scales` what a full colour stands for.
    """
    heads = run.get("heads")
    if not heads:
        return None
    table: dict[str, Any] = {
        name: [head[name] for head in heads] for name in ("layer", "head", "rank_ref", "rank_cand")
    }
    for name in ESTIMATES:
        table[name] = [_rounded(head[name]) for head in heads]
        for end, suffix in enumerate(("low", "high")):
            table[f"{name}_{suffix}"] = [_rounded(head[f"{name}_interval"][end]) for head in heads]
    for name in NUMBERS:
        table[name] = [_rounded(head[name]) for head in heads]
    table["broken"] = [place for place, head in enumerate(heads) if head.get("broken")]
    table["scales"] = _scales(run, table)
    return table


def limit(run: Mapping[str, Any], name: str) -> float | None:
    """The limit of a criterion of a run; None where it has none."""
    return next((row["limit"] for row in run.get("criteria", ()) if row["name"] == name), None)


def _scales(run: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, float]:
    """What a full colour of each kind of map stands for, so that damage of no account looks pale.

    Importances share one scale. Drift's reaches at least to its limit, and fragility's at least to the change of the
    metric that the limits allow.
    """
    metric = (run.get("metric_ref") or {}).get("value") or 0.0
    return {
        "importance": _largest([*table["importance_ref"], *table["importance_cand"]]) or 1.0,
        "drift": max(_largest(table["drift"]), limit(run, "drift_largest") or 0.0) or 1.0,
        "fragility": _rounded(max(_largest(table["fragility"]), abs(metric) * (limit(run, "metric_change") or 0.0)))
        or 1.0,
    }


def _largest(values: list[float | None]) -> float:
    return max((abs(value) for value in values if value is not None), default=0.0)


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")
