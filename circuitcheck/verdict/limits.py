"""The limits that a candidate must keep, all in one place.

Limits on drift depend on the precision, because rounding may be coarse. All others are the same for every precision,
because the circuit is to be the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from circuitcheck.core.errors import ConfigurationError


@dataclass(frozen=True)
class Limits:
    """The largest or smallest value that each criterion allows.

    Attributes:
        behaviour_kept: smallest share of the reference's solved prompts that the candidate solves.
        metric_change: largest |mean m_cand / mean m_ref - 1|.
        drift_median: largest median drift over heads.
        drift_largest: largest drift of any head.
        ranking_agreement: smallest rank-biased overlap of the heads by |importance|.
        profile_distance: largest max_h |I_cand - I_ref| / max_h |I_ref|.
        recovery: smallest share of resolved damage that repairing all heads gives back.
        unrepaired: largest |mean m_ref - mean m(all heads repaired)| / mean m_ref.
    """

    behaviour_kept: float = 0.9
    metric_change: float = 0.2
    drift_median: float = 0.2
    drift_largest: float = 0.8
    ranking_agreement: float = 0.8
    profile_distance: float = 0.3
    recovery: float = 0.5
    unrepaired: float = 0.1


DRIFT_LIMITS: dict[str, tuple[float, float]] = {
    "f32": (1e-4, 1e-3),
    "f16": (0.005, 0.02),
    "bf16": (0.04, 0.1),
    "8-bit": (0.06, 0.12),
    "int8-sim": (0.08, 0.3),
    "float8": (0.12, 0.4),
    "4-bit": (0.4, 0.9),
    "3-bit": (0.8, 2.0),
    "2-bit": (1.5, 3.5),
}
"""Precision to limits of (drift_median, drift_largest); a precision that is not here gets the defaults above.

They tell a release that rounds as coarsely as it says from one that is worse than its bits. Seen on the embedded model
and on a Llama of 260 000 parameters: f16 0.001 and 0.002, bf16 0.009 and 0.014, integers of 8 bits 0.031 and 0.053,
int8-sim 0.022 and 0.083, float8 0.083 and 0.173, 4 bits 0.31 and 0.62, 3 bits 0.65 and 1.7, 2 bits 1.3 and 3.0. At 3
and 2 bits drift excludes hardly anything; whether the circuit is the same is for the other criteria to say.
"""

SAME_BITS: dict[str, str] = {
    "int8-rtn": "8-bit",
    "int8": "8-bit",
    "int8-weight": "8-bit",
    "float8-weight": "float8",
    "bnb-int8": "8-bit",
    "int4-rtn": "4-bit",
    "int4-weight": "4-bit",
    "bnb-nf4": "4-bit",
    "int3-rtn": "3-bit",
    "int2-rtn": "2-bit",
}
"""Specs made in memory to the precision whose limits they share."""

NAMES = tuple(field.name for field in fields(Limits))


def limits_for(precision: str, task: str, overrides: Mapping[str, Any] | None = None) -> Limits:
    """The limits for one candidate and task.

    Args:
        precision: the candidate's.
        task: the task's name.
        overrides: limits for everything, and tables of limits by precision, which may hold tables by task, as in
            `{"profile_distance": 0.2, "int8-sim": {"drift_median": 0.05, "ioi": {"drift_median": 0.08}}}`; a table of
            `4-bit` holds for every spec of 4 bits that has none of its own.

    Raises:
        ConfigurationError: a limit of an unknown name or of the wrong type.
    """
    check_overrides(overrides or {})
    limits = Limits()
    known = SAME_BITS.get(precision, precision)
    if known in DRIFT_LIMITS:
        median, largest = DRIFT_LIMITS[known]
        limits = replace(limits, drift_median=median, drift_largest=largest)
    everywhere = overrides or {}
    for_precision = everywhere.get(precision, everywhere.get(known, {}))
    for table in (everywhere, for_precision, for_precision.get(task, {})):
        limits = replace(limits, **{name: value for name, value in table.items() if name in NAMES})
    return limits


def check_overrides(overrides: Mapping[str, Any], where: str = "limits", depth: int = 0) -> None:
    """Refuses limits that no measurement can be held against.

    Args:
        overrides: as for `limits_for`.
        where: what the message calls them.
        depth: how many tables they are nested in.

    Raises:
        ConfigurationError: a name is unknown, or a value is no number from 0 up.
    """
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            if name in NAMES or depth == 2:
                raise ConfigurationError(f"{where}.{name} is a table, but must be a number.")
            check_overrides(value, f"{where}.{name}", depth + 1)
        elif name not in NAMES:
            raise ConfigurationError(f"{where}.{name}: there is no such limit; known are {', '.join(NAMES)}.")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ConfigurationError(f"{where}.{name} is {value!r}, but must be a number from 0 up.")
