"""Drift: nothing that a unit writes has moved further than the precision explains."""

from __future__ import annotations

from circuitcheck.plugin.circuit_case import CircuitCase
from circuitcheck.verdict.criteria import names_of


def test_drift(circuitcheck_case: CircuitCase) -> None:
    """Median and largest drift of all units."""
    circuitcheck_case.check(*names_of("drift"))
