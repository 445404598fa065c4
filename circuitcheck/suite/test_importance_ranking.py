"""Importance ranking: the same heads matter, in the same order, by as much."""

from __future__ import annotations

from circuitcheck.plugin.circuit_case import CircuitCase


def test_importance_ranking(circuit: CircuitCase) -> None:
    """Ranking agreement and profile distance."""
    circuit.check("ranking_agreement", "profile_distance")
