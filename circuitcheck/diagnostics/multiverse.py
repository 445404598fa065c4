"""Does a verdict depend on how it was measured? The same candidate and task under every specification."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from circuitcheck.core.errors import CircuitcheckError
from circuitcheck.core.specification import ABLATIONS, METRICS, POSITIONS, MeasurementSpec


def specifications(spec: MeasurementSpec) -> Iterator[MeasurementSpec]:
    """Every combination of ablation, metric and ablated positions, all else as in `spec`."""
    for ablation, metric, ablate_at in product(ABLATIONS, METRICS, POSITIONS):
        yield replace(spec, ablation=ablation, metric=metric, ablate_at=ablate_at)


def multiverse(spec: MeasurementSpec, word: str, judge_under: Callable[[MeasurementSpec], str]) -> dict[str, Any]:
    """How often the verdict flips (Steegen et al. 2016, doi 10.1177/1745691616658637).

    Args:
        spec: that of the gate.
        word: the gate's verdict under it.
        judge_under: gives the verdict under another specification.

    Returns:
        `flips` (verdicts other than the gate's), `of` (how many specifications), and `specifications`, each with its
        verdict; one that cannot be measured says why.
    """
    rows = []
    for other in specifications(spec):
        try:
            verdict, message = word if other == spec else judge_under(other), ""
        except CircuitcheckError as error:
            verdict, message = "FAIL", str(error)
        rows.append(
            {
                "ablation": other.ablation,
                "metric": other.metric,
                "ablate_at": other.ablate_at,
                "verdict": verdict,
                "message": message,
            }
        )
    return {"flips": sum(row["verdict"] != word for row in rows), "of": len(rows), "specifications": rows}
