"""The limits that a candidate must keep: the table of criteria has their names and most defaults.

Limits on drift depend on the precision, because rounding may be coarse. All others are the same for every precision,
because the circuit is to be the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.results import Loosened, Relation
from circuitcheck.verdict.criteria import BY_METRIC, CRITERIA, criteria_for

DEFAULTS = {
    criterion.limit_name: criterion.limit
    for criteria in (CRITERIA, *(own.values() for own in BY_METRIC.values()))
    for criterion in criteria
}
"""Name to the limit that holds where nothing else is said; None where that depends on the precision."""

RELATIONS = {
    criterion.limit_name: criterion.relation
    for criteria in (CRITERIA, *(own.values() for own in BY_METRIC.values()))
    for criterion in criteria
}
"""Name to the side of the limit on which values must lie."""

NAMES = tuple(DEFAULTS)

LOOSER = "looser"
"""Key of a table of limits that is to hold although a less special one is stricter."""


class DriftLimits(NamedTuple):
    """Limits of `drift_median` and `drift_largest`, and what else they hold for: specs made in memory, other names."""

    median: float
    largest: float
    specs: tuple[str, ...] = ()


DRIFT_LIMITS: dict[str, DriftLimits] = {
    "f32": DriftLimits(1e-4, 1e-3, ("float32", "float64")),
    "f16": DriftLimits(0.0045, 0.014),
    "bf16": DriftLimits(0.035, 0.1),
    "8-bit": DriftLimits(0.06, 0.12, ("int8-rtn", "int8", "int8-weight", "bnb-int8")),
    "int8-sim": DriftLimits(0.055, 0.15),
    "float8": DriftLimits(0.14, 0.33, ("float8-weight",)),
    "8-bit-static": DriftLimits(0.2, 0.75),
    "4-bit": DriftLimits(0.44, 0.92, ("int4-rtn", "int4-weight", "bnb-nf4")),
    "3-bit": DriftLimits(0.95, 2.6, ("int3-rtn",)),
    "2-bit": DriftLimits(2.0, 5.8, ("int2-rtn",)),
}
"""Every precision that can be judged.

They tell a release that rounds as coarsely as it says from one that is worse than its bits. Each is what plain rounding
does to the writes of the models at hand (`benchmarks/drift_limits.py`: the embedded model, a Llama of 260 000
parameters, a GPT-2 of 200 000; the largest over models, tasks and ways to round). From 8 bits on: twice that, or one
and a quarter of the upper end of its interval where that is more, because it is the interval that has to keep a limit.
Below: one and a half times, or a head that writes nothing any more would pass at 4 bits. Seen, median and largest, with
the upper end of the largest's interval: f16 0.0022 and 0.0035 (0.011), bf16 0.017 and 0.035 (0.080), 8 bits 0.029 and
0.061 (0.097), int8-sim 0.028 and 0.075 (0.095), float8 0.068 and 0.145 (0.26), 4 bits 0.29 and 0.62 (1.1), 3 bits 0.63
and 1.7 (2.0), 2 bits 1.3 and 3.9 (5.6); activations of 8 bits by fixed scales 0.137 and 0.50 (0.51), once and a half of
which holds, as below 8 bits, over the embedded model, that Llama and a copying circuit that was set by hand. At 3 and 2
bits drift excludes hardly anything; whether the circuit is the same is for the other criteria to say.
"""

BROADER = {"8-bit-static": "8-bit"}
"""Precisions for which tables of limits of another hold, too, because they are a kind of that."""

SAME_BITS = {spec: precision for precision, shared in DRIFT_LIMITS.items() for spec in shared.specs}
"""Specs and other names to the precision whose limits they share."""

KNOWN = tuple(name for precision, shared in DRIFT_LIMITS.items() for name in (precision, *shared.specs))


class Limits(Mapping[str, float]):
    """The largest or smallest value that each criterion allows, by its name: `limits.profile_distance`.

    There is one for every criterion of `circuitcheck.verdict.criteria`, and, ending in `_nats`, for those that are
    judged in nats where a log-probability is measured.

    Attributes:
        named: those that somebody gave; all others are defaults.

    Args:
        **limits: what is to hold instead of the defaults; limits on drift have none, because they depend on the
            precision. `circuitcheck.verdict.limits.limits_for` knows them.

    Raises:
        ConfigurationError: a name is unknown, or a limit without a default is not given.
    """

    __slots__ = ("_limits", "named")

    def __init__(self, **limits: float) -> None:
        """Checks names only: a limit that is infinite, so that nothing is held against it, has to be given here."""
        _require_known(limits, "limits")
        self.named = frozenset(limits)
        self._limits = {name: limit for name, limit in (DEFAULTS | limits).items() if limit is not None}
        missing = [name for name in NAMES if name not in self._limits]
        if missing:
            raise ConfigurationError(f"limits {', '.join(missing)} depend on the precision, so they must be given.")

    def __getitem__(self, name: str) -> float:
        return self._limits[name]

    def __getattr__(self, name: str) -> float:
        if name not in NAMES:
            raise AttributeError(f"there is no limit {name!r}; known are {', '.join(NAMES)}.")
        return self._limits[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._limits)

    def __len__(self) -> int:
        return len(self._limits)

    def __repr__(self) -> str:
        return f"Limits({', '.join(f'{name}={limit!r}' for name, limit in self.items())})"


def limits_for(precision: str, task: str, overrides: Mapping[str, Any] | None = None) -> Limits:
    """The limits for one candidate and task.

    Args:
        precision: the candidate's.
        task: the task's name.
        overrides: limits for everything, and tables of limits by precision, which may hold tables by task, as in
            `{"profile_distance": 0.2, "int8-sim": {"drift_median": 0.05, "ioi": {"drift_median": 0.02}}}`; a table of
            `4-bit` holds for every spec of 4 bits. Of several limits that apply the strictest holds, unless the more
            special table says `"looser": True`.

    Raises:
        ConfigurationError: an unknown precision, or a limit of an unknown name, of an unknown precision or of the wrong
            type.
    """
    everywhere = overrides or {}
    check_overrides(everywhere)
    if precision not in KNOWN:
        raise ConfigurationError(
            f"there are no limits on drift for precision {precision!r}; known are {', '.join(KNOWN)}."
        )
    shared = SAME_BITS.get(precision, precision)
    drift = DRIFT_LIMITS[shared]
    limits = {"drift_median": drift.median, "drift_largest": drift.largest}
    tables = [everywhere.get(name, {}) for name in (BROADER.get(shared, shared), shared, precision)]
    named = _strictest([everywhere, *tables, *(table.get(task, {}) for table in tables)])
    found = Limits(**limits | named)
    found.named = frozenset(named)
    return found


def loosened(limits: Mapping[str, float], precision: str, metric: str) -> tuple[Loosened, ...]:
    """Which limits let in more than the defaults do, in the order of the criteria.

    Args:
        limits: that were held.
        precision: the candidate's.
        metric: what was measured.
    """
    drift = DRIFT_LIMITS.get(SAME_BITS.get(precision, precision))
    defaults = DEFAULTS | ({} if drift is None else {"drift_median": drift.median, "drift_largest": drift.largest})
    found = []
    for criterion in criteria_for(metric):
        limit, default = limits[criterion.limit_name], defaults[criterion.limit_name]
        if default is not None and limit != default and _stricter(criterion.relation, limit, default) == default:
            found.append(Loosened(criterion.name, criterion.relation, limit, default))
    return tuple(found)


def _strictest(tables: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The strictest of every limit that is in any of the tables, which become more and more special."""
    found: dict[str, float] = {}
    for table in tables:
        for name, value in table.items():
            if name in NAMES:
                is_free = name not in found or table.get(LOOSER, False)
                found[name] = value if is_free else _stricter(RELATIONS[name], found[name], value)
    return found


def _stricter(relation: Relation, first: float, second: float) -> float:
    return min(first, second) if relation == "<=" else max(first, second)


def check_overrides(overrides: Mapping[str, Any], where: str = "limits", depth: int = 0) -> None:
    """Refuses limits that no measurement can be held against.

    Args:
        overrides: as for `limits_for`.
        where: what the message calls them.
        depth: how many tables they are nested in.

    Raises:
        ConfigurationError: a limit or a precision is unknown, or a value is no number from 0 up.
    """
    for name, value in overrides.items():
        if isinstance(value, Mapping):
            if name in NAMES or depth == 2:
                raise ConfigurationError(f"{where}.{name} is a table, but must be a number.")
            if depth == 0 and name not in KNOWN:
                raise ConfigurationError(f"{where}.{name}: there is no such precision; known are {', '.join(KNOWN)}.")
            check_overrides(value, f"{where}.{name}", depth + 1)
            continue
        if name == LOOSER and depth > 0:
            if not isinstance(value, bool):
                raise ConfigurationError(f"{where}.{name} is {value!r}, but must be true or false.")
            continue
        _require_known((name,), where)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ConfigurationError(f"{where}.{name} is {value!r}, but must be a number from 0 up.")


def _require_known(names: Iterable[str], where: str) -> None:
    unknown = [name for name in names if name not in NAMES]
    if unknown:
        raise ConfigurationError(f"{where}.{unknown[0]}: there is no such limit; known are {', '.join(NAMES)}.")
