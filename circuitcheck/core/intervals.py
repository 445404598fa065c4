"""A measured value with its interval."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A measured value and what it could as well have been.

    Attributes:
        value: the value on the prompts as they are; its unit is that of the measure.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float
