"""What says of a prompt whether a model solves it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from circuitcheck.core.metric import LOGIT_DIFFERENCE
from circuitcheck.core.prompts import Prompts
from circuitcheck.core.runtime import Runtime


def preference(model: Runtime, prompts: Prompts, metric: NDArray[np.float32]) -> NDArray[np.float32]:
    """Above 0 where the model prefers the answer to the foil.

    Args:
        model: the model, and what is measured of it.
        prompts: the prompts.
        metric: the model's metric m of them, `[prompts]`.

    Returns:
        `metric` itself, or the logit difference where m is a log-probability, which no sign tells anything of;
        `[prompts]`.
    """
    return metric if model.quantity.is_preference else model.measured_by(LOGIT_DIFFERENCE).metric(prompts)
