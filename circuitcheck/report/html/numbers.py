"""Numbers as a person reads them. `assets/report.js` writes them in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NOTHING = "–"
"""Stands for a number that is undefined or was not measured."""


def short(value: float | None) -> str:
    """At most eight characters: three decimals, or an exponent where they would show nothing."""
    if value is None:
        return NOTHING
    if isinstance(value, int) or value == 0:
        return str(int(value))
    if abs(value) < 5e-4 or abs(value) >= 1e4:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"


def interval(bounds: Sequence[float | None] | None) -> str:
    """`[lower, upper]`, or nothing."""
    if not bounds or all(bound is None for bound in bounds):
        return ""
    return f"[{short(bounds[0])}, {short(bounds[1])}]"


def estimate(value: Any) -> str:
    """A value of the report, with its interval where it has one."""
    if not value:
        return NOTHING
    return f"{short(value.get('value'))} {interval(value.get('interval'))}".strip()


def thousands(value: float | None) -> str:
    """A count, with commas."""
    return NOTHING if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share as a percentage."""
    return NOTHING if value is None else f"{100 * value:.0f} %"
