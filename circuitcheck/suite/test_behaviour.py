"""Behaviour: the candidate still solves what the reference solves."""

from __future__ import annotations

from circuitcheck.plugin.circuit_case import CircuitCase


def test_behaviour(circuit: CircuitCase) -> None:
    """As many prompts are solved, and by as much."""
    circuit.check("behaviour_kept", "metric_change")
