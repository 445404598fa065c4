"""What a random sample says of the units that were not measured."""

from __future__ import annotations

import numpy as np

CONFIDENCE = 0.95


def missed_units(hits: int, sampled: int, unmeasured: int) -> tuple[float, tuple[float, float]]:
    """How many important units there may be among those that were not measured.

    Args:
        hits: important units in the sample.
        sampled: units in the sample.
        unmeasured: units that the sample stands for, without itself.

    Returns:
        The estimate and its interval at the confidence `CONFIDENCE`, in units. The interval is Clopper and Pearson's,
        with the hypergeometric distribution of a sample that is drawn without replacement: every number of important
        units under which the sample is not among the least likely ones on either side.
    """
    if not unmeasured:
        return 0.0, (0.0, 0.0)
    if not sampled:
        return float("nan"), (0.0, float(unmeasured))
    from scipy import stats  # large, and few measurements sample units

    missed = np.arange(unmeasured + 1)
    drawn = stats.hypergeom(sampled + unmeasured, hits + missed, sampled)
    tail = (1 - CONFIDENCE) / 2
    possible = missed[(drawn.cdf(hits) >= tail) & (drawn.sf(hits - 1) >= tail)]
    return unmeasured * hits / sampled, (float(possible[0]), float(possible[-1]))
