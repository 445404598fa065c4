"""What is measured of a prompt: two metrics that have a name, and any Python function of a model's output."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from circuitcheck.core.errors import ConfigurationError
from circuitcheck.core.specification import METRICS

Function = Callable[[Any, Any, Any, Any], Any]
"""`function(output, ids, answer, foil)`: what the model's forward returned for `ids`, `[batch, seq]`, and the task's
answer and foil, `[batch]`; returns the metric, float `[batch]`, above 0 where the model prefers the answer. All of them
are tensors of the runtime's own library."""


@dataclass(frozen=True)
class Metric:
    """What is measured of a prompt.

    Attributes:
        name: `logit_difference`, `log_probability`, or `package.module:function`.
        function: computes it from the model's whole output; None for the metrics that have a name, which are read from
            the final hidden state at the last position.
    """

    name: str
    function: Function | None = None

    @property
    def is_preference(self) -> bool:
        """Whether its sign says that the model prefers the answer to the foil."""
        return self.name != LOG_PROBABILITY.name


LOGIT_DIFFERENCE = Metric("logit_difference")
LOG_PROBABILITY = Metric("log_probability")


def as_metric(metric: str | Function | Metric) -> Metric:
    """A metric from what is at hand. Nothing is imported, so the name may come from a file.

    Args:
        metric: the name of one of the two, or a function, whose name is then `package.module:function`.

    Raises:
        ConfigurationError: another name, or a function without one.
    """
    if isinstance(metric, Metric):
        return metric
    if isinstance(metric, str):
        if metric in METRICS:
            return Metric(metric)
        raise ConfigurationError(
            f"metric {metric!r} is none of {', '.join(METRICS)}, and what a file names is never imported. If it is a "
            "function of yours, name it in your settings, or pass the function itself: "
            "hook_module(model, metric=function)."
        )
    module, name = getattr(metric, "__module__", None), getattr(metric, "__qualname__", None)
    if not callable(metric) or not module or not name:
        raise ConfigurationError(
            f"metric {metric!r} has no name that a baseline could record; give a function that is defined with def."
        )
    return Metric(f"{module}:{name}", metric)


def metric_from_settings(name: str) -> Metric:
    """The metric of a name that the user gave; the module that a function is in is imported.

    For settings and arguments only: a name that was read from a baseline or a report goes to `as_metric`.

    Raises:
        ConfigurationError: there is no such metric, module or function.
    """
    if name in METRICS:
        return Metric(name)
    path, _, inside = name.partition(":")
    if not path or not inside:
        raise ConfigurationError(f"metric {name!r} is none of {', '.join(METRICS)}, and no package.module:function.")
    way_out = "Make its module importable, or pass the function itself: hook_module(model, metric=function)."
    try:
        found: Any = import_module(path)
    except ImportError as error:
        raise ConfigurationError(f"metric {name!r}: module {path} cannot be imported ({error}). {way_out}") from error
    for part in inside.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        what = "is not a function" if found is not None else "does not exist"
        raise ConfigurationError(f"metric {name!r}: {inside} in module {path} {what}. {way_out}")
    return Metric(name, found)
