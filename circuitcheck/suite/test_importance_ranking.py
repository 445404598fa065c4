"""Importance ranking: the same units matter, in the same order, by as much."""

from __future__ import annotations

from circuitcheck.plugin.circuit_case import CircuitCase
from circuitcheck.verdict.criteria import names_of


def test_importance_ranking(circuitcheck_case: CircuitCase) -> None:
    """Ranking agreement and profile distance."""
    circuitcheck_case.check(*names_of("importance_ranking"))
