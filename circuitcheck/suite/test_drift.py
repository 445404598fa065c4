"""Drift: no head's z has moved further than the precision explains."""

from __future__ import annotations

from circuitcheck.plugin.circuit_case import CircuitCase


def test_drift(circuit: CircuitCase) -> None:
    """Median and largest drift of all heads."""
    circuit.check("drift_median", "drift_largest")
