"""Repair recovery: what damage there is lies in the heads, so the reference's z undoes it."""

from __future__ import annotations

from circuitcheck.plugin.circuit_case import CircuitCase


def test_repair_recovery(circuit: CircuitCase) -> None:
    """What all heads' repair leaves, and the share of the damage that it gives back."""
    circuit.check("unrepaired", "recovery")
