"""Numbers as people read them: the formats of the report, by name.

`number` is for tables of terminal, Markdown and model cards, `brief` for sentences, and `short` and what follows it for
the page, whose script `html/assets/report.js` writes numbers in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

UNDEFINED, NOTHING = "-", "–"
"""Stand for a number that is undefined or was not measured, in text and on the page."""


TINY = 1e-99
"""What is no larger is written as 0, because its exponent would make tables wider than a terminal."""


def number(value: float | None) -> str:
    """At most seven characters: three digits that matter, or an exponent."""
    if value is None:
        return UNDEFINED
    if TINY < abs(value) < 5e-4 or abs(value) >= 1000:
        return f"{value:.0e}"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}"


def number_interval(estimate: Mapping[str, Any]) -> str:
    """The same with its interval."""
    low, high = estimate["interval"]
    return f"{number(estimate['value'])} [{number(low)}, {number(high)}]"


def share(value: float | None) -> str:
    """A share as a percentage, in text."""
    return UNDEFINED if value is None else f"{value:.0%}"


def brief(value: float | None) -> str:
    """Three digits that matter, and no more zeros than needed."""
    return UNDEFINED if value is None else f"{value:.3g}"


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


def estimate(value: Mapping[str, Any] | None) -> str:
    """A value of the report, with its interval where it has one."""
    if not value:
        return NOTHING
    return f"{short(value.get('value'))} {interval(value.get('interval'))}".strip()


def thousands(value: float | None) -> str:
    """A count, with commas."""
    return NOTHING if value is None else f"{value:,.0f}"


def percent(value: float | None) -> str:
    """A share as a percentage, on the page."""
    return NOTHING if value is None else f"{100 * value:.0f} %"
