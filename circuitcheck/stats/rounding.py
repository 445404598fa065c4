"""What float32 alone can do to a metric."""

from __future__ import annotations

import numpy as np

# About eight units in the last place of float32: a difference of two logits that were each summed in float32.
RELATIVE_ROUNDING = 1e-6


def rounding_slack(metric: np.ndarray) -> np.ndarray:
    """The part of a difference of metrics that says nothing, in logits, in the shape of `metric`."""
    return np.asarray(RELATIVE_ROUNDING * (1 + np.abs(metric)))
