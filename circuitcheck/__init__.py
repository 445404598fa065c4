"""Does a quantized transformer still compute the same way? A pytest regression suite for circuit preservation.

from circuitcheck import judge, load_model, load_task, measure, record_reference, render

task = load_task("ioi", load_model("embedded").tokenizer)
baseline = record_reference(load_model("embedded"), task)
print(render([judge(measure(load_model("embedded", "int8-sim"), baseline))]))
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from circuitcheck.baseline.baseline import Baseline
    from circuitcheck.errors import CircuitcheckError
    from circuitcheck.measurement.data import Measurement
    from circuitcheck.measurement.measure import measure
    from circuitcheck.models.hooked import HookedModel
    from circuitcheck.models.load import hook_module, load_model
    from circuitcheck.reference.record import record_reference
    from circuitcheck.report.text import render
    from circuitcheck.spec import MeasurementSpec
    from circuitcheck.tasks.load import load_task
    from circuitcheck.tasks.pairs import PromptPair, Task
    from circuitcheck.verdict.judge import Verdict, judge
    from circuitcheck.verdict.limits import Limits

_HOMES = {
    "Baseline": "circuitcheck.baseline.baseline",
    "CircuitcheckError": "circuitcheck.errors",
    "HookedModel": "circuitcheck.models.hooked",
    "Limits": "circuitcheck.verdict.limits",
    "Measurement": "circuitcheck.measurement.data",
    "MeasurementSpec": "circuitcheck.spec",
    "PromptPair": "circuitcheck.tasks.pairs",
    "Task": "circuitcheck.tasks.pairs",
    "Verdict": "circuitcheck.verdict.judge",
    "hook_module": "circuitcheck.models.load",
    "judge": "circuitcheck.verdict.judge",
    "load_model": "circuitcheck.models.load",
    "load_task": "circuitcheck.tasks.load",
    "measure": "circuitcheck.measurement.measure",
    "record_reference": "circuitcheck.reference.record",
    "render": "circuitcheck.report.text",
}

__all__ = [
    "Baseline",
    "CircuitcheckError",
    "HookedModel",
    "Limits",
    "Measurement",
    "MeasurementSpec",
    "PromptPair",
    "Task",
    "Verdict",
    "hook_module",
    "judge",
    "load_model",
    "load_task",
    "measure",
    "record_reference",
    "render",
]


def __getattr__(name: str) -> Any:
    """Imports a name when it is first used: every pytest run imports this package, and few need torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
