"""Behaviour: the candidate still solves what the reference solves."""

from __future__ import annotations

from circuitcheck.plugin.circuit_case import CircuitCase
from circuitcheck.verdict.criteria import names_of


def test_behaviour(circuitcheck_case: CircuitCase) -> None:
    """As many prompts are solved, and by as much."""
    circuitcheck_case.check(*names_of("behaviour"))
