"""Repair recovery: what damage there is lies in the units, so giving these the reference's write undoes it."""

from __future__ import annotations

from circuitcheck.plugin.circuit_case import CircuitCase
from circuitcheck.verdict.criteria import names_of


def test_repair_recovery(circuitcheck_case: CircuitCase) -> None:
    """What all units' repair leaves, and the share of the damage that it gives back."""
    circuitcheck_case.check(*names_of("repair_recovery"))
