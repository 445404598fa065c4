"""Results as plain data: what JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from circuitcheck.core.results import Estimate

DIGITS = 6
"""Significant digits of a number in a report."""


def as_plain(value: Any) -> Any:
    """Objects, lists, strings and numbers that say the same.

    A dataclass becomes an object with its fields, an estimate `{"value": ..., "interval": [low, high]}`, and a number
    that is not finite None, because JSON has no NaN.

    Raises:
        TypeError: it holds something of another kind.
    """
    if isinstance(value, Estimate):
        return {"value": as_plain(value.value), "interval": [as_plain(value.low), as_plain(value.high)]}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): as_plain(one) for key, one in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        return as_plain(value.tolist())
    if isinstance(value, list | tuple):
        return [as_plain(one) for one in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"a report cannot hold {type(value).__name__}")
